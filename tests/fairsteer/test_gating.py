"""Gates from labelled prompts: thresholds, reports, decisions, and DSO under a gate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fairsteer_runs import anchors, openings_of
from hypothesis import given, settings
from hypothesis import strategies as st
from lettered_task import lettered_task

from equipoise.decisions.activations import encode_prompt
from equipoise.errors import EquipoiseError
from equipoise.methods import Anchors
from equipoise.methods.gating import Examples, GateOptions, Kinds, build_gate, fit_gate
from equipoise.methods.gating.attended import context_token, fit_queries
from equipoise.methods.gating.probe import balanced_weights, fit_probe
from equipoise.methods.gating.threshold import threshold_for
from equipoise.models import Model
from equipoise.steering import Additive, KernelGate, Steering
from equipoise.steering.gates import Reads

# ---- thresholds

shares = st.lists(st.floats(0, 0.9921875, width=32), min_size=1, max_size=30)


@settings(max_examples=200, deadline=None)
@given(shares, st.lists(shares, min_size=1, max_size=3), st.floats(0, 0.9))
def test_threshold_keeps_the_rate_and_loses_no_positive_it_could_keep(
    positive: list[float], negative: list[list[float]], rate: float
) -> None:
    p, kinds = np.float32(positive), [np.float32(values) for values in negative]
    t = threshold_for(p, kinds, rate)
    assert t == np.float32(t)

    def fires(threshold: float) -> bool:
        return all((q >= np.float32(threshold)).sum() <= rate * len(q) + 1e-9 for q in kinds)

    assert fires(t)
    possible = [x for x in p if fires(float(x))]
    assert (p >= np.float32(t)).sum() == len(possible)


def test_threshold_lies_in_the_middle_of_a_gap() -> None:
    p = np.float32([0.8, 0.9])
    assert threshold_for(p, [np.float32([0.1, 0.2]), np.float32([0.4])], 0.0) == pytest.approx(0.6)
    # Half of a kind may fire, but nothing is won by it.
    assert threshold_for(p, [np.float32([0.1, 0.2])], 0.5) == pytest.approx(0.5)


def clouds(seed: int = 0, n: int = 60) -> Examples:
    """Positives and two kinds of negatives that differ in other coordinates."""
    rng = np.random.default_rng(seed)
    centre = {"positive": [2, 0, 0], "near": [0, 2, 0], "far": [2, 0, -4]}
    kinds = np.repeat(np.array(list(centre), dtype=object), n)
    h = np.concatenate([rng.normal(c, 1.0, (n, 3)) for c in centre.values()])
    return Examples(h.astype(np.float32), kinds, np.arange(len(kinds)))


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.3])
def test_false_firing_is_as_wanted(rate: float) -> None:
    gate, report = build_gate("x", clouds(0), clouds(1), GateOptions(false_firing=rate))
    assert report.held_out
    assert report.wanted_false_firing == rate
    assert all(r.estimate <= rate for r in report.false_firing.values())
    fresh = clouds(1)
    opens = gate(torch.from_numpy(fresh.h)).numpy()
    for kind, found in report.false_firing.items():
        assert found.estimate == pytest.approx(opens[fresh.kinds == kind].mean())
    assert report.opens.estimate == pytest.approx(opens[fresh.opens].mean())


def test_a_kind_left_out_is_reported_as_it_is() -> None:
    """Told apart by the third coordinate only: who never saw that kind fires on all of it."""
    _, report = build_gate("x", clouds(0), clouds(1), GateOptions())
    assert report.false_firing["far"].estimate <= 0.02
    assert report.left_out["far"].estimate > 0.3
    assert report.left_out["far"].n == 120
    assert report.auroc > 0.9
    one_kind = clouds(0).only(clouds(0).kinds != "near")
    _, report = build_gate("x", one_kind, clouds(1), GateOptions())
    assert report.left_out == {}
    assert "nothing is known of others" in report.notes()[-1]


def test_weights_balance_sides_kinds_and_hard_ones() -> None:
    examples = clouds().only(np.r_[0:60, 60:70, 120:180])
    weights = balanced_weights(examples, hard=["near"])
    assert weights.sum() == pytest.approx(len(examples))
    share = {k: weights[examples.kinds == k].sum() / len(examples) for k in ("near", "far")}
    assert share == pytest.approx({"near": 0.25, "far": 0.25})
    assert weights[examples.opens].sum() == pytest.approx(len(examples) / 2)


def test_standardised_probe_does_not_see_units() -> None:
    examples, scale = clouds(), np.float32([1, 100, 0.01])
    scaled = Examples(examples.h * scale, examples.kinds, examples.clusters)
    p, q = (
        fit_probe(e, "x").probability(torch.from_numpy(e.h)).numpy() for e in (examples, scaled)
    )
    np.testing.assert_allclose(p, q, atol=1e-4)
    constant = Examples(np.pad(examples.h, ((0, 0), (0, 1))), examples.kinds, examples.clusters)
    assert fit_probe(constant, "x").weight[-1] == 0


def test_chance_is_told() -> None:
    rng = np.random.default_rng(0)
    noise = clouds()
    noise = Examples(rng.normal(size=noise.h.shape).astype(np.float32), noise.kinds, noise.clusters)
    _, report = build_gate("x", noise, noise.only(np.r_[0:180:7]), GateOptions())
    assert not report.beats_chance
    _, report = build_gate("x", clouds(0), clouds(1), GateOptions())
    assert report.beats_chance


def test_missing_sides_are_named() -> None:
    examples = clouds()
    for keep, word in ((examples.opens, "shut"), (~examples.opens, "open")):
        with pytest.raises(EquipoiseError, match=f"should {word} on"):
            build_gate("x", examples.only(keep), examples, GateOptions())
    _, report = build_gate("x", examples, examples.only(examples.opens), GateOptions())
    assert not report.held_out
    assert "TRAINING" in report.notes()[0]


# ---- prompts


def test_kinds_are_the_same_on_both_sides_of_a_split() -> None:
    task = lettered_task()
    train, held_out = anchors(task, "train"), anchors(task, "validation")
    kinds = Kinds.of(task, train)
    assert set(kinds.sort(train)) == set(kinds.sort(held_out))
    assert {"questions: when", "unambiguous: nurse"} <= set(kinds.sort(held_out))
    few = Kinds.of(task, held_out)  # too few of each context to be kinds of their own
    assert set(few.sort(train)) == {"questions", "unambiguous"}
    texts = Kinds.of(task, Anchors((), ("one", "two"))).sort(Anchors((), ("three",)))
    assert texts == {"texts": ["three"]}


def test_a_kernel_gate_tells_what_no_direction_does() -> None:
    """Opens in two corners of a square, not in the two others, nor far away."""

    def corners(seed: int, n: int = 80) -> Examples:
        rng = np.random.default_rng(seed)
        at = rng.integers(0, 2, (n, 2)) * 4 - 2
        h = np.concatenate([at + rng.normal(0, 0.5, (n, 2)), rng.normal(0, 0.1, (n, 2))], 1)
        kinds = np.where(at[:, 0] == at[:, 1], "positive", "near").astype(object)
        return Examples(h.astype(np.float32), kinds, np.arange(n))

    options = GateOptions(reads="attended", false_firing=0.05)
    gate, report = build_gate("x", corners(0), corners(1), options, torch.ones(2))
    assert isinstance(gate, KernelGate)
    assert report.opens.estimate > 0.95
    assert report.false_firing["near"].estimate <= 0.05
    _, linear = build_gate("x", corners(0), corners(1), GateOptions(reads="mean"))
    assert linear.opens.estimate < 0.5


def test_a_query_finds_the_word_a_prompt_is_about(tiny: Model) -> None:
    task, site = lettered_task(), ["model.layers.0"]
    items = list(task.split("train"))
    (query,) = fit_queries(tiny, items, site)
    prompts = list(task.split("validation"))
    places = [context_token(tiny, item) for item in prompts]
    encoded = [encode_prompt(tiny, item) for item in prompts]
    assert [
        tiny.tokenizer.decode(e.prefix[: p + 1]).endswith(i.contexts[0])
        for e, p, i in zip(encoded, places, prompts, strict=True)
        if p is not None
    ] == [True] * len(prompts)
    hits = []
    for item, place in zip(prompts, places, strict=True):
        with torch.no_grad():
            ids = torch.tensor([encode_prompt(tiny, item).prefix])
            h = tiny.hf(ids, output_hidden_states=True).hidden_states[1][0]
        hits.append(int((h @ query).argmax()) == place)
    assert np.mean(hits) > 0.9
    with pytest.raises(EquipoiseError, match="name their contexts"):
        fit_queries(tiny, ["A text."], site)


@pytest.mark.parametrize("reads", ["last", "attended"])
def test_fit_gate_decides_the_same_in_any_batch(tiny: Model, reads: Reads) -> None:
    task = lettered_task()
    open_ones = [i for i in task.split("train") if i.ambiguous]
    shut = anchors(task, "train")
    gate, report = fit_gate(
        tiny,
        open_ones,
        Kinds.of(task, shut).sort(shut) | {"texts": ["He left the shop. " * 3] * 3},
        ["model.layers.0", "model.layers.1"],
        options=GateOptions(soft=True, reads=reads),
    )
    assert set(report.false_firing) >= {"texts", "questions: when", "unambiguous: nurse"}
    steering = Steering({"model.layers.1": Additive(torch.ones(32))}, gate=gate)
    items = task.split("validation")[:7]
    alone = [openings_of(tiny, steering, [item])[0] for item in items]
    for order in (range(7), [3, 1, 6, 0, 2, 5, 4]):
        found = openings_of(tiny, steering, [items[i] for i in order])
        np.testing.assert_allclose(found, [alone[i] for i in order], atol=1e-5)
