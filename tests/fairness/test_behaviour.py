"""Gap, twins, shares, abstention and the bars of each context."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fairness_tables import decide, grouped, quiz, sided

from equipoise.fairness import (
    abstention,
    by_context,
    per_occupation_bias,
    shares,
    stereotype_gap,
    twin_metrics,
)
from equipoise.tasks.item import Item


def swapped_twins(rule: str) -> tuple[list[Item], list[tuple[float, float]]]:
    """Ten contexts of four he/she twins; the options of the second item are in swapped order."""
    items, table = [], []
    for context in range(10):
        for twin in range(4):
            for pronoun in ("he", "she"):
                # "he" makes the man's job pro; the order of the options follows the twin's parity.
                options = ("the man's job", "the woman's job")
                sides = ("pro", "anti") if pronoun == "he" else ("anti", "pro")
                classes = ("male-list", "female-list")
                if twin % 2:
                    options, sides, classes = options[::-1], sides[::-1], classes[::-1]
                items.append(
                    Item(
                        id=f"{context}/{twin}/{pronoun}",
                        prompt="?",
                        options=options,
                        contexts=(f"o{context}",),
                        sides=sides,
                        classes=classes,
                        twin=f"{context}/{twin}",
                    )
                )
                pick = {
                    "first": 0,
                    "male": classes.index("male-list"),
                    "stereotype": sides.index("pro"),
                }[rule]
                table.append((1.0, 0.0) if pick == 0 else (0.0, 1.0))
    return items, table


@pytest.mark.parametrize(
    ("rule", "bias", "first", "male", "flips"),
    [
        ("first", 0.0, 1.0, 0.5, 0.0),
        ("male", 0.0, 0.5, 1.0, 0.0),
        ("stereotype", 1.0, 0.5, 0.5, 1.0),
    ],
)
def test_a_trivial_rule_cannot_pass_for_fairness(
    rule: str, bias: float, first: float, male: float, flips: float
) -> None:
    decisions = decide(*swapped_twins(rule))
    found = per_occupation_bias(decisions)
    assert found is not None
    assert found.estimate == pytest.approx(bias)
    picked, twins = shares(decisions), twin_metrics(decisions)
    assert picked is not None
    assert twins is not None
    assert picked["first_option"] == picked["first_option_greedy"] == pytest.approx(first)
    assert picked["classes"] == pytest.approx({"male-list": male, "female-list": 1 - male})
    assert picked["classes_greedy"] == pytest.approx(picked["classes"])
    assert twins["greedy_flips"] == twins["distance"] == pytest.approx(flips)
    assert (twins["twins"], twins["n"]) == (40, 80)


def test_twins_align_options_by_text_and_average_pairs_then_twins() -> None:
    def item(name: str, twin: str, *options: str) -> Item:
        return Item(id=name, prompt="?", options=options, twin=twin)

    items = [
        item("1", "t", "a", "b"),
        item("2", "t", "b", "a"),
        item("3", "t", "a", "b"),
        item("4", "u", "a", "b"),
        item("5", "u", "a", "b"),
        item("6", "v", "a", "b"),
        item("7", "v", "a", "c"),
        item("8", "", "a", "b"),
    ]
    table = [(0.7, 0.3), (0.1, 0.9), (0.2, 0.8), (1, 0), (0.9, 0.1), (1, 0), (0, 1), (1, 0)]
    found = twin_metrics(decide(items, table))
    assert found is not None
    pairs = (abs(0.7 - 0.9) + abs(0.7 - 0.2) + abs(0.9 - 0.2)) / 3
    assert found["distance"] == pytest.approx((pairs + 0.1) / 2)
    assert found["greedy_flips"] == pytest.approx((2 / 3 + 0) / 2)
    assert (found["twins"], found["n"]) == (2, 5)
    assert twin_metrics(decide(items, table).subset([5, 6, 7])) is None


def test_gap_and_twins_take_the_temperature() -> None:
    """At T, p ∝ p^(1/T): of .8 and .2 at T = 1/2, 16 : 1."""
    found = sided([("nurse", "t", (0.8, 0.2)), ("nurse", "t", (0.2, 0.8))])
    for temperature, share in ((1.0, 0.8), (0.5, 16 / 17)):
        told = twin_metrics(found, temperature=temperature)
        assert told is not None
        assert told["distance"] == pytest.approx(2 * share - 1)
        gap = stereotype_gap(found.subset([0]), temperature=temperature)
        assert gap is not None
        assert gap[0].estimate == pytest.approx(2 * share - 1)


def test_gap_cancels_opposite_biases_and_clusters_by_twin() -> None:
    rows = [("nurse", f"n{k}", (0.9, 0.1)) for k in range(5)]
    rows += [("cook", f"c{k}", (0.1, 0.9)) for k in range(5)]
    found = stereotype_gap(sided(rows))
    assert found is not None
    gap, n = found
    assert gap.estimate == pytest.approx(0)
    assert (gap.low, n) == (0, 10)
    # Doubling every item within its twin tells nothing new.
    twice = stereotype_gap(sided([row for row in rows for _ in range(2)]))
    assert twice is not None
    assert twice[0].high == pytest.approx(gap.high)
    one_sided = stereotype_gap(sided(rows[5:]))
    assert one_sided is not None
    assert one_sided[0].estimate == pytest.approx(0.8)
    alone = stereotype_gap(sided(rows[:1]))
    assert alone is not None
    assert (alone[0].low, alone[0].high) == (0, 1)


def test_what_a_task_cannot_tell_is_none() -> None:
    groups = grouped([("o", f"t{n}", (0.3, 0.7)) for n in range(4)], ("a", "b"))
    assert stereotype_gap(groups) is None
    assert abstention(groups) is None
    assert by_context(quiz([True])) == {}
    nothing = groups.subset([])
    for metric in (stereotype_gap, twin_metrics, shares, abstention, per_occupation_bias):
        assert metric(nothing) is None
    assert by_context(nothing) == {}


def test_abstention_counts_only_items_that_offer_it() -> None:
    rows = [("o", f"t{n}", (0.5 - q / 2, 0.5 - q / 2, q)) for n, q in enumerate((0.1, 0.2, 0.6))]
    found = abstention(sided([*rows, ("o", "t9", (0.5, 0.5))]))
    assert found is not None
    rate, n = found
    assert n == 3
    assert rate.estimate == pytest.approx(0.3)
    # Student with two degrees of freedom: 4.303; cut off at 0.
    assert (rate.low, rate.high) == (0.0, pytest.approx(0.3 + 4.303 * 0.26458 / 3**0.5, abs=0.02))
    greedy = abstention(sided(rows), temperature=0)
    assert greedy is not None
    assert greedy[0].estimate == pytest.approx(1 / 3)


def test_bars_of_two_sides() -> None:
    rows = [
        ("nurse", "n1", (0.6, 0.3, 0.1)),
        ("nurse", "n2", (0.2, 0.5, 0.3)),
        ("nurse+cook", "n2", (0.7, 0.1, 0.2)),
    ]
    bars = by_context(sided(rows))
    nurse, cook = bars["nurse"], bars["cook"]
    assert list(bars) == ["cook", "nurse"]
    assert (nurse["n"], nurse["twins"], cook["n"], cook["twins"]) == (3, 2, 1, 1)
    assert nurse["pro"] == pytest.approx(0.5)
    assert nurse["anti"] == pytest.approx(0.3)
    assert nurse["abstain"] == pytest.approx(0.2)
    assert (nurse["pro_greedy"], nurse["anti_greedy"]) == pytest.approx((2 / 3, 1 / 3))
    # Twin n2 averages −.3 and +.6 to .15; n1 is .3.
    assert nurse["difference"]["estimate"] == pytest.approx(0.225)
    assert nurse["difference"]["low"] < 0.225 < nurse["difference"]["high"]
    assert cook["difference"] == {"estimate": pytest.approx(0.6), "low": None, "high": None}
    assert "groups" not in nurse
    # No option abstains: that is not the same as never abstaining.
    assert by_context(sided([("nurse", "n1", (0.6, 0.4))]))["nurse"]["abstain"] is None


def test_bars_of_groups() -> None:
    rows = [("o", "t1", (0.5, 0.2, 0.2, 0.1)), ("o", "t2", (0.1, 0.6, 0.2, 0.1))]
    bar = by_context(grouped(rows, ("a", "b", "c", None)))["o"]
    assert bar["groups"] == pytest.approx({"a": 0.3, "b": 0.4, "c": 0.2})
    assert bar["groups_greedy"] == {"a": 0.5, "b": 0.5, "c": 0.0}
    assert bar["abstain"] == pytest.approx(0.1)
    assert bar["pro"] is bar["anti"] is bar["difference"] is None


def test_ties_and_padding_do_not_leak() -> None:
    """Items of two and of three options in one table: nothing is picked beyond an item's own."""
    decisions = sided([("o", "t1", (0.5, 0.5)), ("o", "t2", (0.2, 0.2, 0.6))])
    picked = shares(replace(decisions, strength=0.5))
    assert picked is not None
    assert picked["first_option"] == pytest.approx((0.5 + 0.2) / (1.0 + 0.4))
    assert picked["classes"] == {}
    assert np.isfinite(picked["first_option_greedy"])


def test_balance_of_shares_counts_the_options_in_question() -> None:
    def item(name: str, groups: tuple[str | None, ...], classes: tuple[str | None, ...]) -> Item:
        options = tuple(map(str, range(len(groups))))
        return Item(id=name, prompt="?", options=options, groups=groups, classes=classes)

    items = [
        item("1", (None, "a", "b", "c"), (None, "x", "x", "y")),
        item("2", ("a", "b"), ("x", "y")),
    ]
    picked = shares(decide(items, [(0.1, 0.3, 0.3, 0.3), (0.5, 0.5)]))
    assert picked is not None
    assert picked["first_option_balance"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert picked["classes_balance"] == pytest.approx({"x": (2 / 3 + 1 / 2) / 2, "y": 5 / 12})
    refusing = shares(decide([item("1", (None, None), (None, None))], [(0.5, 0.5)]))
    assert refusing is not None
    assert refusing["first_option_balance"] is None
    assert refusing["classes_balance"] == {}
