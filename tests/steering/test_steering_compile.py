"""torch.compile: attach first, then compile; strengths do not recompile; nothing is ignored."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo
from steering_zoo import build, prompts, random_steering
from torch._dynamo.testing import CompileCounter

from equipoise.errors import SteeringError
from equipoise.steering import Steering


@pytest.fixture
def model():
    torch._dynamo.reset()
    yield build("llama", num_hidden_layers=1)
    torch._dynamo.reset()


def as_torch_ships():
    """Compiled code is blind to hooks, as it is before the first attachment of a process."""
    return torch._dynamo.config.patch(skip_nnmodule_hook_guards=True)


IDS = torch.tensor([prompts()[1]] * 2)


def test_strengths_do_not_recompile_and_detaching_takes_effect(model):
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
        torch.compile(build("gpt2", n_layer=1), backend="eager")(IDS)
    random_steering(model).attach(model).detach()


def test_what_compiled_code_cannot_tell_raises(model):
    steering = Steering(random_steering(model).transforms, scope="last_prompt")
    with steering.applied(model), pytest.raises(SteeringError, match="compiled"), torch.no_grad():
        torch.compile(model, backend="eager")(IDS)
