"""Threads that share a model: what one does in the middle of another's pass acts on none of it."""

from __future__ import annotations

import sys
import threading

import pytest
import torch
from steering_runs import TWINS, at, logits
from steering_zoo import build, random_steering

from equipoise.errors import SteeringError
from equipoise.steering import Additive, Steering


@pytest.fixture
def model():
    return build("llama")


def elsewhere(action):
    """Run it in another thread, to its end."""
    errors = []

    def run():
        try:
            action()
        except SteeringError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not errors


def in_the_middle(model, action, passes=1):
    """Run it in another thread while the model is in its second block, of that pass."""
    left = [passes]

    def hook(*_):
        left[0] -= 1
        if left[0] == 0:
            elsewhere(action)

    return model.model.layers[1].register_forward_pre_hook(hook)


def hooks(model):
    return [
        hook
        for module in model.modules()
        for kind in (module._forward_hooks, module._forward_pre_hooks)
        for hook in kind.values()
        if type(hook).__module__.startswith("equipoise")
    ]


@pytest.mark.parametrize("scope", ["all", "last_prompt"])
@pytest.mark.parametrize(("before", "after"), [(0.0, 1.0), (1.0, 0.0), ([0.2, 0.9], [0.9, 0.2])])
def test_a_strength_set_in_the_middle_holds_from_the_next_pass_on(model, scope, before, after):
    steering = random_steering(model, scope=scope)
    first, second = at(model, steering, before), at(model, steering, after)
    with steering.applied(model, before) as attachment:
        logits(model)
        in_the_middle(model, lambda: setattr(attachment, "strength", after))
        assert torch.equal(logits(model), first)
        assert torch.equal(logits(model), second)


def test_so_it_does_at_a_site_after_the_backbone(model):
    """A pass is the whole model's."""
    steering = Steering(
        {
            "model.layers.0": Additive(torch.randn(model.config.hidden_size)),
            "lm_head": Additive(torch.randn(model.config.vocab_size)),
        }
    )
    first, second = at(model, steering, 0.0), at(model, steering, 1.0)
    with steering.applied(model, 0.0) as attachment:
        in_the_middle(model, lambda: setattr(attachment, "strength", 1.0))
        assert torch.equal(logits(model), first)
        assert torch.equal(logits(model), second)


def test_a_backward_pass_after_it_does_not_recompute_at_another_strength(model):
    model.gradient_checkpointing_enable()
    model.train()
    with random_steering(model).applied(model, 0.5) as attachment:
        in_the_middle(model, lambda: setattr(attachment, "strength", 1.0))
        loss = model(TWINS, labels=TWINS).loss
        with pytest.raises(SteeringError, match="strength changed"):
            loss.backward()


@pytest.mark.parametrize("site", ["model.layers.2", "lm_head"])
def test_attached_in_the_middle_it_steers_from_the_next_pass_on(model, site):
    width = model.config.vocab_size if site == "lm_head" else model.config.hidden_size
    transforms = {"model.layers.0": Additive(torch.randn(model.config.hidden_size))}
    steering = Steering({**transforms, site: Additive(torch.randn(width))})
    base, steered = logits(model), at(model, steering, 1.0)
    attached = []
    in_the_middle(model, lambda: attached.append(steering.attach(model)))
    assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), steered)
    block = model.model.layers[0]
    with torch.no_grad():
        h = torch.randn(1, 3, model.config.hidden_size)
        rope = model.model.rotary_emb(h, torch.arange(3)[None])
        apart = block(h, position_embeddings=rope)  # a part alone is in no pass
        elsewhere(attached[0].detach)
        assert not torch.equal(block(h, position_embeddings=rope), apart)
    assert torch.equal(logits(model), base)
    assert not hooks(model)


def test_detached_in_the_middle_it_steers_to_the_end_of_the_pass(model):
    one, other = random_steering(model), random_steering(model, scale=0.1)
    base, steered = logits(model), at(model, one, 1.0)
    attachment = one.attach(model)
    in_the_middle(model, attachment.detach)
    assert torch.equal(logits(model), steered)
    assert not hooks(model)
    assert torch.equal(logits(model), base)
    with other.applied(model) as kept:  # and where another one stays
        rest = logits(model)
        attachment = one.attach(model)
        both = logits(model)
        in_the_middle(model, attachment.detach)
        assert torch.equal(logits(model), both)
        assert torch.equal(logits(model), rest)
        assert {hook.attachment for hook in hooks(model) if hasattr(hook, "attachment")} == {kept}


@pytest.mark.parametrize("use_cache", [True, False])
def test_generate_raises_when_its_steering_is_detached(model, use_cache):
    attachment = random_steering(model).attach(model)
    in_the_middle(model, attachment.detach, passes=3)
    options = {"max_new_tokens": 8, "do_sample": False, "use_cache": use_cache}
    with pytest.raises(SteeringError, match="came or went while generate was running"):
        model.generate(TWINS, **options)
    assert not hooks(model)
    assert "generate" not in vars(model)


def test_a_pass_that_was_interrupted_is_over(model):
    steering = random_steering(model)
    with steering.applied(model, 1.0), torch.no_grad():
        wanted = model.model(TWINS).last_hidden_state

    def interrupt(*_):
        raise KeyboardInterrupt

    attachment = steering.attach(model, 0.5)
    handle = model.model.layers[1].register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        model(TWINS)
    handle.remove()
    attachment.strength = 1.0
    with torch.no_grad():
        assert torch.equal(model.model(TWINS).last_hidden_state, wanted)
    attachment.detach()
    assert not hooks(model)


def test_many_passes_while_it_comes_goes_and_changes(model):
    steering = random_steering(model)
    known = [logits(model), at(model, steering, 0.25), at(model, steering, 1.0)]
    stop, errors, seen = threading.Event(), [], []

    def change():
        while not stop.is_set():
            with steering.applied(model, 0.25) as attachment:
                for strength in (1.0, 0.25) * 10:
                    attachment.strength = strength

    def run():
        try:
            for _ in range(60):
                found = logits(model)
                seen.append([torch.equal(found, one) for one in known].index(True))
        except Exception as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=run) for _ in range(2)]
    changing = threading.Thread(target=change)
    try:
        for thread in (changing, *threads):
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
        changing.join()
        sys.setswitchinterval(interval)
    assert not errors
    assert len(seen) == 120
    assert not hooks(model)
