"""torch.compile: attach first, then compile; strengths do not recompile; nothing is ignored."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch._dynamo
from steering_zoo import build, prompts, random_steering
from torch import nn
from torch._dynamo.testing import CompileCounter

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
