"""Gradient checkpointing: what runs again in the backward pass is what ran, or an error."""

from __future__ import annotations

import pytest
import torch
from steering_zoo import build, prompts, random_steering

from equipoise.errors import SteeringError

IDS = torch.tensor([prompts()[1]])


def training(reentrant):
    """A model that trains, with a form of checkpointing; None: without."""
    model = build("llama").requires_grad_(True).train()
    if reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
    return model


def loss_of(model):
    return model(IDS, labels=IDS).loss


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def hooks(model):
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


@pytest.fixture
def steering():
    return random_steering(build("llama"))


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_backward_after_detach_is_right_or_refused(steering, reentrant):
    plain, model = training(None), training(reentrant)
    with steering.applied(plain, 0.5):
        wanted = gradients(plain, loss_of(plain))
    before = hooks(model)
    with steering.applied(model, 0.5):
        torch.testing.assert_close(gradients(model, loss_of(model)), wanted, atol=1e-5, rtol=1e-4)
        loss = loss_of(model)
    assert hooks(model) == before
    if reentrant is None:
        torch.testing.assert_close(gradients(model, loss), wanted)
    else:
        with pytest.raises(SteeringError, match=r"came or went.*call backward\(\) first"):
            loss.backward()
    assert hooks(model) == before
    unsteered = gradients(plain, loss_of(plain))
    torch.testing.assert_close(gradients(model, loss_of(model)), unsteered, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("reentrant", [False, True])
def test_backward_under_other_steerings_is_refused(steering, reentrant):
    model, other = training(reentrant), random_steering(build("llama"))
    loss = loss_of(model)
    with steering.applied(model, 0.5), pytest.raises(SteeringError, match="came or went"):
        loss.backward()
    with steering.applied(model, 0.5):
        loss = loss_of(model)
        with other.applied(model, 0.5), pytest.raises(SteeringError, match="came or went"):
            loss.backward()
        loss = model.model(IDS, output_hidden_states=True).hidden_states[1].sum()
    with steering.applied(model, 0.5):
        loss_of(model).backward()  # of another pass, which is no excuse
        with pytest.raises(SteeringError, match="came or went"):
            loss.backward()


def test_only_the_strength_of_the_pass_itself_counts(steering):
    plain, model = training(None), training(True)
    with steering.applied(plain, 0.7):
        wanted = gradients(plain, loss_of(plain))
    with steering.applied(model, 0.5) as attachment:
        first = loss_of(model)
        attachment.strength = 0.7
        torch.testing.assert_close(gradients(model, loss_of(model)), wanted, atol=1e-5, rtol=1e-4)
        with pytest.raises(SteeringError, match="strength changed"):
            first.backward()


def test_a_late_backward_that_fails_otherwise_leaves_no_refusal(steering):
    model = training(True)
    with steering.applied(model, 0.5):
        out = model.model(IDS).last_hidden_state
    before = hooks(model)

    def fail(*_):
        raise RuntimeError("out of memory")

    out.grad_fn.register_prehook(fail)
    with pytest.raises(RuntimeError, match="memory"):
        out.sum().backward()
    loss_of(model)
    assert hooks(model) == before


def test_a_learned_strength_that_moved_before_its_backward_pass_is_refused(steering):
    # In float32 autograd sees it by itself.
    model, learned = training(True), torch.nn.Parameter(torch.tensor(0.25, dtype=torch.bfloat16))
    with steering.applied(model, learned):
        loss = loss_of(model)
        with torch.no_grad():
            learned.fill_(0.5)
        with pytest.raises(SteeringError, match="the strength changed"):
            loss.backward()
