"""What changes while a steering is attached takes effect at the next pass, or raises."""

from __future__ import annotations

import pytest
import torch
from steering_runs import TWINS, at, logits
from steering_zoo import build, random_steering
from torch import nn

from equipoise.errors import SteeringError
from equipoise.steering import Additive, Scope, Steering


@pytest.fixture
def model():
    return build("llama")


@pytest.mark.parametrize(("before", "after"), [(0.0, 1.0), ([0.2, 0.9], [0.9, 0.1])])
def test_a_tensor_of_strengths_may_be_filled_anew_and_set_again(model, before, after):
    steering, strength = random_steering(model), torch.tensor(before)
    wanted = at(model, steering, after)
    with steering.applied(model, strength=strength) as attachment:
        kept = logits(model)
        strength.copy_(torch.tensor(after))
        assert torch.equal(logits(model), kept)  # it was copied
        attachment.strength = strength
        assert torch.equal(logits(model), wanted)
        assert attachment.setting.values == tuple(strength.reshape(-1).tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_learned_strength_is_followed(model, dtype):
    steering = random_steering(model)
    learned = nn.Parameter(torch.tensor([0.25, 0.75], dtype=dtype))
    wanted = at(model, steering, [0.5, 1.0])
    with steering.applied(model, strength=learned) as attachment:
        for _ in range(2):
            model(TWINS).logits.square().mean().backward()
        assert learned.grad.abs().min() > 0
        before = logits(model)
        with torch.no_grad():
            learned.copy_(torch.tensor([0.5, 1.0]))
        assert torch.equal(logits(model), wanted)
        assert not torch.equal(before, wanted)
        assert attachment.setting.values == (0.5, 1.0)


def test_gradients_at_strength_0_are_0_and_not_missing(model):
    """A penalty on steered logits may be differentiated at every strength of a ladder."""
    steering = random_steering(model)
    with steering.applied(model.requires_grad_(False), strength=0.0):
        model(TWINS).logits.square().mean().backward()
    assert all(bool((value.grad == 0).all()) for value in steering.parameters())


def test_a_cache_filled_before_a_learned_strength_moved_is_refused(model):
    learned = nn.Parameter(torch.tensor(0.25))
    with random_steering(model).applied(model, strength=learned), torch.no_grad():
        cache = model(TWINS, use_cache=True).past_key_values
        learned.fill_(0.5)
        with pytest.raises(SteeringError, match="the cache was filled at strength"):
            model(TWINS[:, :1], past_key_values=cache)


def test_parameters_that_are_replaced_take_effect(model):
    steering = Steering({"model.layers.0": Additive(torch.randn(model.config.hidden_size))})
    other = torch.randn(model.config.hidden_size)
    wanted = at(model, Steering({"model.layers.0": Additive(other)}), 1.0)
    with steering.applied(model):
        assert not torch.equal(logits(model), wanted)
        steering.transforms["model.layers.0"].v = nn.Parameter(other)
        assert torch.equal(logits(model), wanted)


def _replace(transform, value):
    transform.v = nn.Parameter(value)


def _fill(transform, value):
    with torch.no_grad():
        transform.v.copy_(value)


def _generated(model):
    settings = {"max_new_tokens": 2, "do_sample": False, "return_dict_in_generate": True}
    return torch.stack(model.generate(TWINS, **settings, output_logits=True).logits)


def _by_itself(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        return model.model.norm(torch.randn(2, 3, model.config.hidden_size, generator=generator))


@pytest.mark.parametrize("change", [_fill, _replace])
@pytest.mark.parametrize("run", [logits, _generated, _by_itself])
def test_parameters_that_change_take_effect_however_the_model_is_called(model, change, run):
    first, other = torch.randn(2, model.config.hidden_size)
    site = "model.norm"
    with Steering({site: Additive(other)}).applied(model):
        wanted = run(model)
    steering = Steering({site: Additive(first)})
    with steering.applied(model):
        assert not torch.equal(run(model), wanted)
        change(steering.transforms[site], other)
        assert torch.equal(run(model), wanted)


@pytest.mark.parametrize("path", ["model.layers.0.input_layernorm", "model.layers.0"])
def test_a_module_replaced_under_an_attachment_raises(model, path):
    """As an adapter attached too late does with the linears it wraps."""
    above, _, leaf = path.rpartition(".")
    parent, module = model.get_submodule(above), model.get_submodule(path)

    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, *args, **kwargs):
            return self.inner(*args, **kwargs)

    steering = random_steering(model)
    attachment = steering.attach(model)
    parent._modules[leaf] = Wrapper()
    with pytest.raises(SteeringError, match=r"\.(0|input_layernorm) was replaced since"):
        model(TWINS)
    parent._modules[leaf] = module
    steered = logits(model)
    attachment.detach()
    assert torch.equal(at(model, steering, 1.0), steered)


def test_a_block_compiled_in_its_place_is_not_a_replacement(model):
    steering = random_steering(model)
    wanted = at(model, steering, 1.0)
    with steering.applied(model):
        model.model.layers[0] = torch.compile(model.model.layers[0], backend="eager")
        torch.testing.assert_close(logits(model), wanted)
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_learned_strength_has_a_gradient_after_a_pass_without_one(model, dtype):
    learned = nn.Parameter(torch.tensor(0.5, dtype=dtype))
    with random_steering(model).applied(model, strength=learned):
        logits(model)
        model(TWINS).logits.square().mean().backward()
    assert learned.grad is not None


@pytest.mark.parametrize("strength", [0.5, [0.5, 1.0]])
def test_a_strength_set_in_inference_mode_serves_training(model, strength):
    steering = random_steering(model)
    with torch.inference_mode():
        attachment = steering.attach(model, strength)
        model(TWINS)
    model(TWINS).logits.square().mean().backward()
    attachment.detach()
    assert all(p.grad is not None for p in steering.parameters())


def test_another_scope_gate_or_transform_is_another_steering(model):
    """An attachment would not see it."""
    steering = random_steering(model)
    with pytest.raises(AttributeError):
        steering.scope = Scope.parse("generated")
    with pytest.raises(AttributeError):
        steering.gate = None
    with pytest.raises(TypeError):
        steering.transforms["model.norm"] = Additive(torch.ones(24))
