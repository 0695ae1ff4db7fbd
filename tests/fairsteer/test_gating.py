"""Gates from labelled prompts: thresholds, reports, decisions, and DSO under a gate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fairsteer_runs import anchors, openings_of
from hypothesis import given, settings
from hypothesis import strategies as st
from lettered_task import lettered_task, skills
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from equipoise.decisions.activations import encode_prompt
from equipoise.errors import EquipoiseError
from equipoise.methods import Anchors
from equipoise.methods.gating import Examples, GateOptions, Kinds, build_gate, fit_gate
from equipoise.methods.gating.ambiguity import refuse_chance
from equipoise.methods.gating.attended import context_token, fit_queries
from equipoise.methods.gating.build import threshold_for
from equipoise.methods.gating.probe import balanced_weights, fit_probe
from equipoise.methods.gating.quality import _weighed, figures, ranks_by_chance
from equipoise.models import Model
from equipoise.steering import Additive, KernelGate, Steering
from equipoise.steering.gates import Reads
from equipoise.tasks.item import Item

# ---- thresholds

logits = st.lists(st.floats(-90, 90, width=32), min_size=1, max_size=30)


@settings(max_examples=200, deadline=None)
@given(logits, st.lists(logits, min_size=1, max_size=3), st.floats(0, 0.9))
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
    z = logit([0.8, 0.9])
    found = threshold_for(z, [logit([0.1, 0.2]), logit([0.4])], 0.0)
    assert expit(found) == pytest.approx(0.6)
    # Half of a kind may fire, but nothing is won by it.
    assert expit(threshold_for(z, [logit([0.1, 0.2])], 0.5)) == pytest.approx(0.5)


def test_no_prompt_sits_on_the_threshold() -> None:
    """Rounding, which differs with the batch, does not decide: the cut keeps away from logits."""
    none, kinds = np.float32([]), [np.float32([1, 2, 3, 4]), np.float32([2.5])]
    assert threshold_for(none, kinds, 0.0) == 4 + 2
    assert threshold_for(none, kinds, 0.25) == 3.5
    assert threshold_for(none, kinds, 0.5) == 2.75  # that of the other kind must stay shut
    assert threshold_for(np.float32([1.5]), kinds, 0.25) == 3.5
    assert threshold_for(none, [np.float32([0.5])], 0.0) == 1.0


def test_a_saturated_probe_keeps_the_rate(tmp_path: Path) -> None:
    """Where p is 1 to rounding for what should shut and what should open."""
    rng = np.random.default_rng(0)

    def examples(negative: list[float], sizes: list[int]) -> Examples:
        h = np.concatenate(
            [rng.normal(3, 1, 200)] + [rng.normal(*x) for x in _sized(negative, sizes)]
        )
        kinds = np.repeat(np.array(["positive", "far"], dtype=object), [200, sum(sizes)])
        return Examples(h[:, None].astype(np.float32), kinds, np.arange(len(h)))

    train, held_out = examples([-3], [200]), examples([-3, 14], [160, 40])
    for wanted in (0.05, 0.1):
        gate, report = build_gate("x", train, held_out, GateOptions(false_firing=wanted))
        assert report.false_firing["far"].estimate == pytest.approx(wanted)
        assert "WARNING: the gate opens on 0.000" in report.notes()[-1]
        Steering({"x": Additive(torch.ones(1))}, gate=gate).save_pretrained(tmp_path)
        again = Steering.from_pretrained(tmp_path).gate
        assert again is not None
        h = torch.from_numpy(held_out.h)
        assert torch.equal(again(h), gate(h))
        # Set by hand, a threshold is p again.
        again.threshold = 0.5
        assert again(h)[:200].mean() > 0.9


def _sized(centres: list[float], sizes: list[int]) -> list[tuple[float, float, int]]:
    return [(centre, 1.0, size) for centre, size in zip(centres, sizes, strict=True)]


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
    assert any("nothing is known of others" in note for note in report.notes())


def test_a_kind_left_out_has_the_threshold_of_the_others() -> None:
    """Held out there is only that kind: the threshold comes from training, not from p = 1/2."""
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.array(["positive", "near", "far"], dtype=object), 100)
    h = rng.normal(size=(300, 4)) + (kinds == "positive")[:, None]
    train = Examples(h.astype(np.float32), kinds, np.arange(300))
    only_near = train.only(train.kinds != "far")
    _, report = build_gate("x", train, only_near, GateOptions(false_firing=0.02))
    _, both = build_gate("x", train, train, GateOptions(false_firing=0.02))
    assert report.left_out["near"].estimate == pytest.approx(
        both.left_out["near"].estimate, abs=0.05
    )
    assert report.left_out["near"].estimate < 0.08


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


def noise(seed: int, twins: int, copies: int, width: int) -> Examples:
    """Activations that tell nothing, several near copies a twin."""
    rng = np.random.default_rng(seed)
    h = np.repeat(rng.normal(size=(twins, width)), copies, 0)
    kinds = np.where(rng.random(twins) < 0.5, "positive", "near").astype(object)
    return Examples(
        (h + 0.05 * rng.normal(size=h.shape)).astype(np.float32),
        np.repeat(kinds, copies),
        np.repeat(np.arange(twins), copies),
    )


@pytest.mark.parametrize("copies", [1, 8])
def test_copies_of_a_prompt_are_no_evidence(copies: int) -> None:
    rng = np.random.default_rng(0)
    sets = [noise(seed, 40, copies, 1) for seed in range(400)]
    weight = rng.normal()
    passed = [ranks_by_chance(e.h[:, 0] * weight, e.opens, e.clusters) < 0.05 for e in sets]
    assert np.mean(passed) < 0.085
    apart = [ranks_by_chance(e.h[:, 0] + e.opens, e.opens, e.clusters) < 0.05 for e in sets[:50]]
    assert np.mean(apart) > 0.8


def test_the_best_of_many_sites_must_be_better() -> None:
    found = [
        build_gate("x", noise(s, 60, 1, 16), noise(99 + s, 40, 1, 16), GateOptions())[1]
        for s in range(64)
    ]
    lucky = [report for report in found if report.beats_chance]
    assert lucky
    assert not any(replace(report, tried=32).beats_chance for report in lucky)
    with pytest.raises(EquipoiseError, match="at the best of 32 sites"):
        refuse_chance(replace(lucky[0], tried=32), force=False)


def test_nothing_held_out_is_cross_validated() -> None:
    nothing = Examples(np.zeros((0, 0), np.float32), np.array([], object), np.array([], int))
    _, report = build_gate("x", noise(0, 60, 4, 256), nothing, GateOptions())
    assert not report.beats_chance
    assert report.auroc < 0.75
    _, report = build_gate("x", clouds(0), nothing, GateOptions(false_firing=0.05))
    assert report.beats_chance
    assert report.judged_on == "cross-validated"
    assert report.auroc == pytest.approx(
        build_gate("x", clouds(0), clouds(1), GateOptions())[1].auroc, abs=0.05
    )
    alone = clouds(0)
    alone.clusters[alone.opens] = 0
    _, report = build_gate("x", alone, nothing, GateOptions())
    assert report.judged_on == "training"
    assert not report.beats_chance
    assert (report.intervals["auroc"].low, report.intervals["auroc"].high) == (0, 1)


def test_a_kind_that_nothing_was_held_out_of_is_cross_validated() -> None:
    """Anchors given by hand are all trained on; the threshold must hold for them all the same."""
    held_out = clouds(1).only(clouds(1).kinds != "far")
    options = GateOptions(false_firing=0.05, eager=True)
    gate, report = build_gate("x", clouds(0), held_out, options)
    assert report.held_out
    assert report.crossed == ("far",)
    assert set(report.false_firing) == {"far", "near"}
    assert report.false_firing["far"].n == 60
    assert report.false_firing["far"].estimate <= 0.05
    assert "held-out (far: cross-validated training)" in report.notes()[0]
    ranked = clouds(0)
    ranked.h[ranked.kinds == "far"] = ranked.h[ranked.opens]  # cannot be told apart
    gate, report = build_gate("x", ranked, held_out, options)
    assert gate(torch.from_numpy(ranked.h[ranked.kinds == "far"])).mean() <= 0.1


def with_kinds(known: Examples, sizes: dict[str, int], copies: int = 1) -> Examples:
    """Also kinds of so many twins that no probe tells from what opens the gate."""
    rng = np.random.default_rng(7)
    for kind, size in sizes.items():
        h = np.repeat(rng.normal([2, 0, 0], 0.1, (size, 3)), copies, 0).astype(np.float32)
        names = np.full(len(h), kind, dtype=object)
        known = known + Examples(h, names, np.repeat(np.arange(size), copies))
    return known


@pytest.mark.parametrize("copies", [1, 30])
def test_one_odd_prompt_does_not_set_the_threshold(copies: int) -> None:
    """A kind of one twin, however often it is there, that nothing was held out of."""
    options = GateOptions(false_firing=0.05)
    train = with_kinds(clouds(0), {"odd": 1}, copies)
    _, report = build_gate("x", train, clouds(1), options)
    assert (report.small, report.small_bind, report.crossed) == (("odd",), False, ("odd",))
    assert (report.false_firing["odd"].estimate, report.false_firing["odd"].n) == (1, copies)
    held = [report.false_firing[kind].estimate for kind in ("near", "far")]
    assert report.worst == max(held) <= 0.05
    assert report.opens.estimate > 0.5
    assert not report.useless
    told = "kinds of fewer than 20 twins, by which no rate of 0.05 can be told, do not bind the "
    assert f"{told}threshold: 'odd' (n={copies})" in report.notes()
    # By itself it would have set it, as it does where not a single prompt may fire.
    _, strict = build_gate("x", train, clouds(1), GateOptions(false_firing=0.0))
    assert (strict.small, strict.false_firing["odd"].estimate) == ((), 0)
    assert strict.opens.estimate < 0.2


def test_small_kinds_bind_together_where_they_are_enough_or_alone() -> None:
    options = GateOptions(false_firing=0.05, eager=True)
    few = {name: 8 for name in "abc"}
    _, report = build_gate("x", with_kinds(clouds(0), few), with_kinds(clouds(1), few), options)
    assert (report.small, report.small_bind) == (("a", "b", "c"), True)
    fired = [report.false_firing[name].estimate * 8 for name in "abc"]
    assert sum(fired) <= 0.05 * 24
    assert report.worst <= 0.05
    assert "are held to it together: 'a' (n=8), 'b' (n=8), 'c' (n=8)" in "\n".join(report.notes())
    for n, may_fire in ((15, 1), (5, 0)):  # kinds alike, all small: 30 prompts, then 10
        _, report = build_gate("x", clouds(0, n), clouds(1, n), options)
        assert (report.small, report.small_bind) == (("far", "near"), True)
        fired = [report.false_firing[kind].estimate * n for kind in ("near", "far")]
        assert sum(fired) == pytest.approx(may_fire)


def test_figures_of_a_resample_are_those_of_its_prompts() -> None:
    rng = np.random.default_rng(0)
    z = np.sort(rng.normal(size=50).round(1))
    opens = rng.random(50) < 0.4
    times = rng.integers(0, 4, (5, 50))
    for row, found in zip(times, _weighed(z, opens, times), strict=True):
        told, y = np.repeat(expit(z), row), np.repeat(opens, row)
        error = np.square(told - y)
        hit = (told >= 0.5) == y
        assert found[0] == pytest.approx(roc_auc_score(y, told))
        assert found[1] == pytest.approx((hit[y].mean() + hit[~y].mean()) / 2)
        assert found[2] == pytest.approx((error[y].mean() + error[~y].mean()) / 2)


def test_intervals_count_twins() -> None:
    few, many = noise(0, 60, 1, 1), noise(0, 60, 8, 1)
    one = figures(few.h[:, 0], few.opens, few.clusters)
    copied = figures(np.repeat(few.h[:, 0], 8), many.opens, many.clusters)
    for name, interval in one.items():
        assert interval.as_dict() == pytest.approx(copied[name].as_dict())
        assert 0 <= interval.low < interval.estimate < interval.high <= 1
    _, report = build_gate("x", clouds(0), clouds(1), GateOptions())
    known = report.as_dict()
    assert known["intervals"]["brier"]["estimate"] == known["brier"]
    assert known["intervals"]["brier"]["n"] == 180
    assert "AUROC 0.9" in report.notes()[0]
    assert f"[{report.intervals['auroc'].low:.3f}" in report.notes()[0]


def test_missing_sides_are_named() -> None:
    examples = clouds()
    for keep, word in ((examples.opens, "shut"), (~examples.opens, "open")):
        with pytest.raises(EquipoiseError, match=f"should {word} on"):
            build_gate("x", examples.only(keep), examples, GateOptions())
    _, report = build_gate("x", examples, examples.only(examples.opens), GateOptions())
    assert not report.held_out
    assert "TRAINING" in report.notes()[0]


def test_activations_that_are_not_finite() -> None:
    broken = clouds()
    broken.h[3, 1] = np.inf
    for train, held_out in ((broken, clouds()), (clouds(), broken)):
        with pytest.raises(EquipoiseError, match="activations at x are not finite"):
            build_gate("x", train, held_out, GateOptions())


def test_a_kind_may_not_be_called_what_opens(tiny: Model) -> None:
    with pytest.raises(EquipoiseError, match="give that kind of negatives another name"):
        fit_gate(tiny, ["What a day."], {"positive": ["I liked it."]}, "model.layers.0")


@pytest.mark.parametrize("given", [{"false_firing": -0.1}, {"false_firing": 1.0}, {"c": 0.0}])
def test_options_are_checked(given: dict[str, float]) -> None:
    with pytest.raises(EquipoiseError, match=f"got {next(iter(given.values()))}"):
        GateOptions(**given)


def test_a_rate_just_below_one_lets_all_but_one_fire() -> None:
    assert 1 < threshold_for(np.float32([0.0]), [np.float32([1, 2, 3])], 1 - 1e-12) < 2


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


def test_each_capability_is_a_kind_of_its_own() -> None:
    """However many there are; what was given by hand keeps the common names."""
    task = lettered_task()
    subjects = tuple(replace(i, id=f"m{i.id}", contexts=(i.id,)) for i in skills("train"))
    own = tuple(item for item in task.split("train") if not item.ambiguous)
    sources: dict[Item | str, str] = dict.fromkeys(skills("train"), "builtin")
    sources |= dict.fromkeys(subjects, "mmlu") | {"one": "perplexity:a.txt", "two": "perplexity:b"}
    mine = replace(subjects[0], id="mine")
    known = Anchors((*own, *skills("train"), *subjects, mine), ("one", "two", "three"), sources)
    sizes = {kind: len(found) for kind, found in Kinds.of(task, known).sort(known).items()}
    assert sizes == {
        "builtin: when": 10,
        "builtin: where": 10,
        "mmlu": 20,
        "perplexity:a.txt": 1,
        "perplexity:b": 1,
        "questions": 1,
        "texts": 1,
        "unambiguous: nurse": 10,
        "unambiguous: secretary": 10,
        "unambiguous: typist": 10,
    }
    assert known.digest == replace(known, sources={}).digest


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
