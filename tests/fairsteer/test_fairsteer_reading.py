"""The fast method is the slow reading of the three steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fairsteer_runs import asked, fit, gpt2
from slow_fairsteer import slow_fit, steered_letters

from equipoise.decisions.activations import answer_activations, decide_and_read, prompt_activations
from equipoise.decisions.decide import decide
from equipoise.errors import SteeringError
from equipoise.methods.fairsteer import FairSteerConfig, data
from equipoise.methods.fairsteer.vector import contrast_items
from equipoise.methods.gating.attended import attended_activations
from equipoise.models import Model
from equipoise.steering import Additive, ProbeGate, Steering
from equipoise.tasks.item import Item


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_as_released_is_the_slow_reading(tiny: Model, family: str) -> None:
    model = tiny if family == "llama" else gpt2(tiny.tokenizer)
    model.hf.double()  # so that a batch's rounding is far below what is compared
    config = FairSteerConfig(preset="as-released", alpha=0.7, force_gate=True)
    train, held_out = data.pools(asked(model), config)
    extra = [p for kind in train.anchors.values() for p in kind if isinstance(p, Item)]
    contrast = contrast_items(train.items, config.per_context, seed=0, permute=False)
    slow = slow_fit(model, train.items, extra, held_out.items, contrast, config.alpha)

    outcome = fit(model, preset="as-released", alpha=0.7)
    steering = outcome.steering
    best = slow[steering.info.extra["layers"][0]]
    assert best.accuracy == max(layer.accuracy for layer in slow)
    scores = [row["score"] for row in outcome.history]
    np.testing.assert_allclose(scores, [layer.accuracy for layer in slow], atol=1e-9)
    (transform,) = steering.transforms.values()
    assert isinstance(transform, Additive)
    np.testing.assert_allclose(transform.v.detach(), config.alpha * best.v, atol=1e-5)
    gate = steering.gate
    assert isinstance(gate, ProbeGate)
    # Both are where the same optimiser stops: a little apart on features rounded to float32.
    np.testing.assert_allclose(-gate.weight, best.w, atol=1e-4)
    (found,) = decide(model, held_out.items, steering=steering, strengths=[1.0])
    wanted = np.stack([steered_letters(model, i, best, config.alpha) for i in held_out.items])
    np.testing.assert_allclose(found.scores, wanted, atol=1e-5)
    (base,) = decide(model, held_out.items)
    assert np.abs(base.scores - wanted).max() > 0.01  # something was steered


def test_batches_orders_and_padding_change_nothing(tiny: Model) -> None:
    items = asked(tiny).task.items[:9]
    sites = ["model.layers.0", "model.layers.1"]
    alone = torch.cat([prompt_activations(tiny, [item], sites) for item in items])
    together = prompt_activations(tiny, items, sites)
    backwards = prompt_activations(tiny, items[::-1], sites, batch_tokens=100).flip(0)
    decided, read = decide_and_read(tiny, items, sites)
    assert together.shape == (9, 2, 32)
    for other in (together, backwards, read):
        torch.testing.assert_close(other, alone, atol=1e-4, rtol=1e-4)
    (expected,) = decide(tiny, items)
    np.testing.assert_array_equal(decided.scores, expected.scores)


def test_answers_of_several_tokens_are_their_mean(tiny: Model) -> None:
    item = Item(id="x", prompt="Who left?", options=("the nurse at the station", "unknown"))
    text, site = f"{item.prompt} {item.options[0]}", ["model.layers.1"]
    start = len(tiny.tokenizer.encode(item.prompt))
    with torch.no_grad():
        ids = tiny.tokenizer.encode(text, return_tensors="pt")
        seen = []
        handle = tiny.hf.get_submodule(site[0]).register_forward_hook(
            lambda _m, _a, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
        tiny.hf(ids)
        handle.remove()
    assert ids.shape[1] - start > 2
    found = answer_activations(tiny, [(item, 0), (item, 1)], site)
    torch.testing.assert_close(found[0, 0], seen[0][0, start:].mean(0), atol=1e-5, rtol=1e-5)


def test_only_the_needed_tokens_are_kept(tiny: Model) -> None:
    items = asked(tiny).task.items
    read = prompt_activations(tiny, items, ["model.layers.0", "model.layers.1"])
    assert read.untyped_storage().nbytes() == len(items) * 2 * 32 * 4
    assert not any(module._forward_hooks for module in tiny.hf.modules())


def test_a_steered_model_is_not_read(tiny: Model) -> None:
    steering = Steering({"model.layers.0": Additive(torch.ones(32))})
    item = asked(tiny).task.items[0]
    with steering.applied(tiny), pytest.raises(SteeringError, match="detach before reading"):
        prompt_activations(tiny, [item], ["model.layers.0"])
    with steering.applied(tiny), pytest.raises(SteeringError, match="detach before reading"):
        attended_activations(tiny, [item], ["model.layers.0"], torch.ones(1, 32))
    with pytest.raises(SteeringError, match="no module"):
        prompt_activations(tiny, [item], ["model.layer.0"])
    assert not any(module._forward_hooks for module in tiny.hf.modules())
