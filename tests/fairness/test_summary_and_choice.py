"""A row of results.json, and the strength chosen from several."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fairness_tables import grouped, quiz, sided

from equipoise.errors import EquipoiseError
from equipoise.fairness import accuracy, assert_finite, choose_strength, summarise
from equipoise.fairness.interval import ONE_SIDED_95, paired_upper_limit

CONTRACT = {
    "per_occupation_bias": {"estimate", "low", "high", "plug_in", "parity"},
    "per_occupation_bias_greedy": {"estimate", "low", "high", "plug_in", "parity"},
    "per_occupation_bias_answered": {"estimate", "low", "high", "plug_in", "parity"},
    "stereotype_gap": {"estimate", "low", "high"},
    "twins": {"distance", "greedy_flips"},
    "shares": {"first_option", "classes"},
    "unambiguous_accuracy": {"estimate", "low", "high", "answered_only", "coverage"},
    "abstention": {"estimate", "low", "high"},
}


def table(seed: int = 0, **fields: Any) -> Any:
    rng = np.random.default_rng(seed)
    rows = [
        (f"o{o}", f"{o}/{t}", rng.dirichlet((3, 2, 1)))
        for o in range(10)
        for t in range(6)
        for _ in range(2)
    ]
    return sided(rows, **fields)


def test_a_row_has_the_keys_of_the_contract() -> None:
    ambiguous = table(strength=0.4, kl=np.full(120, 0.1))
    right = [True] * 28 + [False] * 2
    row = summarise(
        ambiguous,
        quiz(right, strength=0.4),
        base_unambiguous=quiz([True] * 30),
        capability={"toy": accuracy(quiz(right, strength=0.4), quiz(right)) or {}},
        anchor_kl=0.01,
    )
    for name, keys in CONTRACT.items():
        assert keys | {"n"} <= row[name].keys(), name
    assert row["strength"] == 0.4
    assert row["kl"] == {"ambiguous": pytest.approx(0.1), "anchor": 0.01}
    assert row["per_occupation_bias"]["contexts"] == len(row["by_occupation"]) == 10
    assert row["per_occupation_bias"]["twins"] == 60
    assert {"n", "pro", "anti", "abstain"} <= row["by_occupation"]["o3"].keys()
    assert row["unambiguous_accuracy"]["drop"]["estimate"] == pytest.approx(2 / 30)
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_what_cannot_be_told_is_null() -> None:
    row = summarise(sided([("o", f"t{n}", (0, 0, 1)) for n in range(6)]))
    for name in CONTRACT:
        if name.startswith("per_occupation") or name in {"unambiguous_accuracy", "twins"}:
            assert row[name] is None, name
    assert row["abstention"]["estimate"] == 1
    assert row["kl"] == {"ambiguous": None, "anchor": None}
    empty = summarise(table().subset([]))
    assert all(empty[name] is None for name in CONTRACT)
    assert empty["by_occupation"] == {}
    json.dumps([row, empty], allow_nan=False)


def test_groups_fill_the_row_too() -> None:
    rng = np.random.default_rng(0)
    rows = [(f"o{n % 3}", f"t{n}", rng.dirichlet((1, 2, 1))) for n in range(30)]
    row = summarise(grouped(rows, ("a", "b", "c")), target={"a": 1, "b": 2, "c": 1})
    assert row["stereotype_gap"] is None
    assert row["by_occupation"]["o0"]["groups"].keys() == {"a", "b", "c"}
    unwanted = summarise(grouped(rows, ("a", "b", "c")))["per_occupation_bias"]
    assert row["per_occupation_bias"]["plug_in"] < unwanted["plug_in"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_nan_leaves(bad: float) -> None:
    with pytest.raises(ValueError, match=r"row\.a\[1\]\.b is"):
        assert_finite({"a": [1, {"b": bad}]}, "row")


def test_only_json_leaves() -> None:
    for odd in (np.float64(1), np.int64(1), {1: 2}, object()):
        with pytest.raises(TypeError):
            assert_finite({"x": odd})
    assert assert_finite({"x": [None, True, 1, 0.5, "s", (1,)]}) == {
        "x": [None, True, 1, 0.5, "s", (1,)]
    }


def row(strength: float, bias: float | None, **limits: float | None) -> dict[str, Any]:
    """A sweep row; ``unambiguous`` is that accuracy's limit, every other name a capability's."""
    drops: dict[str, Any] = {
        name: {"drop": None if limit is None else {"high": limit}} for name, limit in limits.items()
    }
    return {
        "strength": strength,
        "per_occupation_bias": None if bias is None else {"estimate": bias, "high": bias + 0.05},
        "unambiguous_accuracy": drops.pop("unambiguous", None),
        "capability": drops,
    }


SWEEP = [
    row(1.0, 0.02, toy=0.03, unambiguous=0.004),
    row(0.0, 0.5, toy=0.0, unambiguous=0.0),
    row(0.8, 0.1, toy=0.008, unambiguous=0.006),
    row(0.4, 0.3, toy=0.004, unambiguous=0.009),
]


def test_lowest_bias_within_the_budget() -> None:
    choice = choose_strength(SWEEP, 0.01)
    assert (choice.strength, choice.bias, choice.interpolated) == (0.8, 0.1, False)
    assert choice.limits == {"toy": 0.008, "unambiguous_accuracy": 0.006}
    assert "≤ 0.01" in choice.rule
    assert "toy's, 0.0080" in choice.rule
    assert choose_strength(SWEEP, 0.05).strength == 1.0
    # At .007 the toy skill rules out .8 and the unambiguous accuracy rules out .4.
    assert choose_strength(SWEEP, 0.007).strength == 0


def test_none_fits() -> None:
    choice = choose_strength(SWEEP, 0.001)
    assert (choice.strength, choice.bias) == (0.0, 0.5)
    assert "no swept strength fits; the nearest, 0.8, has 0.0080 for toy" in choice.rule
    assert "strength 0 recommended" in choice.rule


def test_interpolation_goes_to_where_the_budget_is_spent() -> None:
    choice = choose_strength(SWEEP, 0.01, interpolate=True)
    share = (0.01 - 0.008) / (0.03 - 0.008)
    assert choice.interpolated
    assert choice.strength == pytest.approx(0.8 + 0.2 * share)
    assert choice.bias == pytest.approx(0.1 - 0.08 * share)
    assert choice.limits["toy"] == pytest.approx(0.01)
    assert "not measured" in choice.rule
    # The best end of a feasible middle part: .4 fails, .8 fails, .6 would do.
    middle = [row(0.0, 0.5, a=0, b=0), row(0.4, 0.3, a=0.0, b=0.02), row(0.8, 0.1, a=0.02, b=0.0)]
    inside = choose_strength(middle, 0.012, interpolate=True)
    assert inside.strength == pytest.approx(0.4 + 0.4 * 0.6)
    assert choose_strength(middle, 0.012).strength == 0
    assert choose_strength(SWEEP, 0.05, interpolate=True).strength == 1.0


def test_an_interpolated_limit_is_never_below_that_of_unchanged_answers() -> None:
    """At ω = 0 there is no doubt; next to it, as much as unchanged answers leave."""
    sweep = [row(0.0, 0.5, toy=0.0), row(1.0, 0.1, toy=0.02)]
    for one in sweep:
        one["capability"]["toy"]["n"] = 240
    least = paired_upper_limit(0, 0, 240)
    assert least == pytest.approx(ONE_SIDED_95**2 / (240 + ONE_SIDED_95**2))
    assert choose_strength(sweep, 0.01, interpolate=True).strength == 0  # .01 < .0111
    near = choose_strength(sweep, 0.015, interpolate=True)
    assert (near.strength, near.limits["toy"]) == (pytest.approx(0.75), pytest.approx(0.015))
    sweep.insert(1, row(0.5, 0.45, toy=0.001))  # answers gained: a limit below the least
    sweep[1]["capability"]["toy"]["n"] = 240
    assert choose_strength(sweep, 0.0111, interpolate=True).strength == 0.5
    between = choose_strength(sweep, 0.0112, interpolate=True)
    assert between.strength > 0.5
    assert between.limits["toy"] >= least
    # A perplexity is paired without a chance of its own: it starts at 0.
    for one in sweep:
        one["capability"]["toy"]["unit"] = "perplexity"
    assert choose_strength(sweep[::2], 0.01, interpolate=True).strength == pytest.approx(0.5)


def test_every_bias_of_a_row_is_held_against_the_wanted_shares() -> None:
    """Greedy answers in the wanted shares have no bias, however far from equal these are."""
    answers = [(1, 0), (1, 0), (1, 0), (0, 1)] * 5
    rows = [(f"o{o}", f"{o}/{t}", one) for o in range(3) for t, one in enumerate(answers)]
    found = summarise(grouped(rows, ("a", "b")), target={"a": 0.75, "b": 0.25})
    for name in ("per_occupation_bias", "per_occupation_bias_greedy"):
        assert found[name]["plug_in"] == pytest.approx(0, abs=1e-9)
        assert summarise(grouped(rows, ("a", "b")))[name]["plug_in"] == pytest.approx(0.5)


def test_every_interpolated_limit_is_at_least_that_of_unchanged_answers() -> None:
    """Also that of a capability which another one's budget leaves room for, and which gained."""
    sweep = [row(0.0, 0.5, dear=0.0, gained=0.0), row(1.0, 0.1, dear=0.02, gained=-0.01)]
    for one in sweep:
        for name in one["capability"]:
            one["capability"][name]["n"] = 240
    choice = choose_strength(sweep, 0.015, interpolate=True)
    assert choice.strength == pytest.approx(0.75)
    assert choice.limits["gained"] == pytest.approx(paired_upper_limit(0, 0, 240))


def test_an_unmeasured_drop_never_fits() -> None:
    sweep = [row(0.0, 0.5, toy=0.0), row(0.5, 0.1, toy=None), row(1.0, 0.2, toy=0.005)]
    for interpolate in (False, True):
        assert choose_strength(sweep, 0.01, interpolate=interpolate).strength == 1.0
    sweep[1]["capability"] = {}
    assert choose_strength(sweep, 0.01).strength == 1.0
    unmeasured = choose_strength([sweep[0], row(0.5, 0.1, toy=None)], 0.01)
    assert unmeasured.strength == 0
    assert "toy was not measured" in unmeasured.rule
    nothing = choose_strength([row(0.0, 0.5), row(1.0, 0.1)], 0.01)
    assert nothing.strength == 0
    assert "no capability or unambiguous item is among what" in nothing.rule


def test_ties_go_to_the_smaller_strength_and_0_stays_if_nothing_is_better() -> None:
    tied = [row(0.0, 0.4, toy=0), row(0.6, 0.1, toy=0), row(0.8, 0.1, toy=0)]
    assert choose_strength(tied, 0.01).strength == 0.6
    worse = choose_strength([row(0.0, 0.1, toy=0), row(1.0, 0.3, toy=0)], 0.01)
    assert worse.strength == 0
    assert "no strength that fits lowers the bias" in worse.rule


@pytest.mark.parametrize(("bias", "chosen"), [(0.0504, 0.0), (0.0499, 0.0), (0.0489, 1.0)])
def test_rounding_is_no_reason_to_steer(bias: float, chosen: float) -> None:
    sweep = [row(0.0, 0.05, toy=0), row(1.0, bias, toy=0)]
    assert choose_strength(sweep, 0.01).strength == chosen


def test_of_equal_biases_the_better_known_one_is_chosen() -> None:
    tied = [row(0.0, 0.4, toy=0), row(0.6, 0.1, toy=0), row(0.8, 0.1, toy=0)]
    tied[2]["per_occupation_bias"]["high"] = 0.12
    assert choose_strength(tied, 0.01).strength == 0.8


def test_a_negative_strength_is_chosen_by_the_same_rule_and_only_if_it_is_better() -> None:
    sweep = [row(-0.6, 0.1, toy=0), row(0.0, 0.4, toy=0), row(0.5, 0.1, toy=0)]
    assert choose_strength(sweep, 0.01).strength == 0.5  # of equal biases the one nearer 0
    sweep[0] = row(-0.6, 0.05, toy=0)
    assert choose_strength(sweep, 0.01).strength == -0.6
    sweep[0] = row(-0.1, 0.2, toy=0)
    assert choose_strength(sweep, 0.01).strength == 0.5
    dear = [row(-1.0, 0.01, toy=0.5), row(0.0, 0.4, toy=0), row(1.0, 0.2, toy=0)]
    assert choose_strength(dear, 0.01).strength == 1.0


def test_undefined_biases_and_bad_budgets() -> None:
    undefined = choose_strength([row(0.0, 0.4, toy=0), row(1.0, None, toy=0)], 0.01)
    assert undefined.strength == 0
    why = "no occupation has two twins with answers to compare"
    assert f"is known at no strength but 0 ({why});" in undefined.rule
    nowhere = choose_strength([row(0.0, None, toy=0), row(1.0, None, toy=0)], 0.01)
    assert f"is known at no strength ({why});" in nowhere.rule
    single = [row(w, None, toy=0) | {"by_occupation": {"a": {"twins": 1}}} for w in (0.0, 1.0)]
    assert "a single twin here, and one twin has no variance: give more items" in (
        choose_strength(single, 0.01).rule
    )
    both = [one | {"abstention": {"estimate": 1.0}} for one in single]
    assert "a single twin here" in choose_strength(both, 0.01).rule
    silent = [row(w, None, toy=0) | {"abstention": {"estimate": 1.0}} for w in (0.0, 1.0)]
    assert "(every answer abstains)" in choose_strength(silent, 0.01).rule
    assert "no strength but 0 was swept;" in choose_strength(SWEEP[1:2], 0.01).rule
    assert choose_strength([], 0.01).bias is None
    for budget in (-0.1, 1.5, math.nan):
        with pytest.raises(EquipoiseError, match="not a share"):
            choose_strength(SWEEP, budget)


def test_real_rows_are_chosen_from() -> None:
    """What summarise writes is what choose_strength reads."""
    base = quiz([True] * 300)
    rows = []
    for strength, seed in ((0.0, 0), (1.0, 1)):
        ambiguous = table(seed, strength=strength)
        if strength:
            ambiguous = replace(ambiguous, scores=ambiguous.scores * 0.01)
        unambiguous = replace(base, scores=base.scores * (1 + strength / 10), strength=strength)
        rows.append(summarise(ambiguous, unambiguous, base_unambiguous=base))
    assert choose_strength(rows, 0.01).strength == 1.0
    assert choose_strength(rows, 0.005).strength == 0.0
