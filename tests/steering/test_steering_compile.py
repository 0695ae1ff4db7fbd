"""torch.compile: attach first, then compile; strengths do not recompile; nothing is ignored."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch._dynamo
from steering_runs import run
from steering_zoo import build, padded, prompts, random_steering
from torch import nn
from torch._dynamo.testing import CompileCounter
from transformers import CompileConfig

from equipoise.errors import SteeringError
from equipoise.steering import Steering


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.RMSNorm(8), nn.Linear(8, 8)

    def forward(self, h):
        return h + self.linear(self.norm(h))


class Small(nn.Module):
    """As little as a language model needs to be steered, for torch.compile is slow to trace."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(hidden_size=8)
        self.embedding, self.blocks = nn.Embedding(61, 8), nn.ModuleList([Block()])

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.blocks[0](self.embedding(input_ids)))


class Other(Small):
    def forward(self, input_ids):
        return SimpleNamespace(logits=self.embedding(input_ids))


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Small().eval().requires_grad_(False)


def as_torch_ships():
    """Compiled code is blind to hooks, as it is before the first attachment of a process."""
    return torch._dynamo.config.patch(skip_nnmodule_hook_guards=True)


IDS = torch.tensor([prompts()[1]] * 2)


def test_strengths_do_not_recompile_and_detaching_takes_effect():
    model = build("llama", num_hidden_layers=1)
    steering, counter = random_steering(model), CompileCounter()
    with torch.no_grad():
        base = model(IDS).logits
        attachment = steering.attach(model, strength=0.5)
        compiled = torch.compile(model, backend=counter)
        for strength in (0.5, 0.1, 1.0, 0.0):
            attachment.strength = strength
            torch.testing.assert_close(compiled(IDS).logits, model(IDS).logits)
        assert counter.frame_count == 1
        for strengths in ([0.0, 1.0], [0.3, 0.7]):
            attachment.strength = strengths
            torch.testing.assert_close(compiled(IDS).logits, model(IDS).logits)
        assert counter.frame_count == 2  # one number for all, and one per row
        attachment.detach()
        assert torch.equal(compiled(IDS).logits, base)
        with steering.applied(model, strength=1.0):
            torch.testing.assert_close(compiled(IDS).logits, model(IDS).logits)
            assert not torch.equal(compiled(IDS).logits, base)


@pytest.mark.parametrize("how", ["torch.compile", "model.compile"])
def test_a_model_compiled_before_raises(model, how):
    steering = random_steering(model)
    compiled = model
    if how == "torch.compile":
        compiled = torch.compile(model, backend="eager")
    else:
        model.compile(backend="eager")
    with as_torch_ships(), torch.no_grad():
        compiled(IDS)
    for target in (model, compiled):
        with pytest.raises(SteeringError, match="compiled before"):
            steering.attach(target)
    torch._dynamo.reset()
    with steering.applied(compiled), torch.no_grad():
        steered = compiled(IDS).logits
    with torch.no_grad():
        assert not torch.equal(steered, compiled(IDS).logits)


def test_another_model_that_was_compiled_is_no_reason(model):
    with as_torch_ships(), torch.no_grad():
        torch.compile(Other(), backend="eager")(IDS)
    random_steering(model).attach(model).detach()


def test_what_compiled_code_cannot_tell_raises(model):
    steering = Steering(random_steering(model).transforms, scope="last_prompt")
    with steering.applied(model), pytest.raises(SteeringError, match="compiled"), torch.no_grad():
        torch.compile(model, backend="eager")(IDS)


@pytest.mark.parametrize("scope", ["all", "last_prompt+generated"])
def test_generate_that_compiles_by_itself(scope):
    """As it does for static caches on an accelerator; with a token scope it is told not to."""
    model = build("llama")
    config = CompileConfig(backend="eager", mode=None)
    config._compile_all_devices = True
    options = {"cache_implementation": "static", "compile_config": config}
    ids, mask = padded(prompts(), "left")
    with random_steering(model, scope=scope).applied(model, strength=[0.2, 0.9, 0.5]):
        wanted, logits = run(model, ids, mask)
        found, same = run(model, ids, mask, **options)
    assert torch.equal(found, wanted)
    torch.testing.assert_close(same, logits, atol=1e-4, rtol=1e-4)
    assert not torch.equal(run(model, ids, mask, **options)[0], wanted)


def test_compiled_code_does_not_go_by_the_pass_before(model):
    steering = Steering(random_steering(model).transforms, scope="last_prompt")
    with steering.applied(model) as attachment, torch.no_grad():
        attachment.prompt_lengths = [2, 3]
        model(IDS)
        attachment.prompt_lengths = [4, 5]
        with pytest.raises(SteeringError, match="compiled"):
            torch.compile(model, backend="eager")(IDS)
        model(IDS)


def test_nor_does_a_compiled_backbone():
    model = build("llama", num_hidden_layers=1)
    left, right = padded(prompts(), "left")[1], padded(prompts(), "right")[1]
    ids = torch.ones_like(left)
    with random_steering(model, scope="last_prompt").applied(model), torch.no_grad():
        model(ids, attention_mask=left)
        model.model(ids, attention_mask=left)
        compiled = torch.compile(model.model, backend="eager")
        with pytest.raises(SteeringError, match="compiled"):
            compiled(ids, attention_mask=right)


def compile_backbone(model):
    model.model.compile(backend="eager")
    return model


def compile_its_forward(model):
    model.model.forward = torch.compile(model.model.forward, backend="eager")
    return model


def compile_a_function(model):
    return torch.compile(lambda ids: model(ids), backend="eager")


def compile_a_wrapper(model):
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, ids):
            return self.inner(ids)

    return torch.compile(Wrapper(), backend="eager")


def compile_a_block(model):
    model.model.layers[0].compile(backend="eager")
    return model


@pytest.mark.parametrize(
    "how",
    [
        compile_backbone,
        compile_its_forward,
        compile_a_function,
        compile_a_wrapper,
        compile_a_block,
    ],
)
def test_whatever_was_compiled_before_and_calls_a_site_raises(how):
    model = build("llama", num_hidden_layers=1)
    steering = random_steering(model)
    with as_torch_ships(), torch.no_grad():
        call = how(model)
        base = call(IDS).logits
    with pytest.raises(SteeringError, match="compiled before"):
        steering.attach(model)
    torch._dynamo.reset()
    with steering.applied(model), torch.no_grad():
        steered = call(IDS).logits
    assert (steered - base).abs().max() > 1e-3
    with torch.no_grad():
        assert torch.equal(call(IDS).logits, base)
    with steering.applied(model), torch.no_grad():  # what was compiled since then is no reason
        assert torch.equal(call(IDS).logits, steered)


@pytest.mark.parametrize("part", ["mlp", "input_layernorm"])
def test_what_calls_no_site_may_be_compiled_before(part):
    """A site's own code, too: torch calls its hooks beside it."""
    model = build("llama", num_hidden_layers=1)
    steering = random_steering(model)
    with torch.no_grad(), steering.applied(model):
        wanted = model(IDS).logits
    with as_torch_ships(), torch.no_grad():
        getattr(model.model.layers[0], part).compile(backend="eager")
        base = model(IDS).logits
    with steering.applied(model), torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, wanted)
    assert (wanted - base).abs().max() > 1e-3
