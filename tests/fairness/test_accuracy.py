"""Accuracies, paired drops, perplexity, the certificate and the intervals under them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fairness_tables import decide, quiz
from hypothesis import given
from hypothesis import strategies as st

from equipoise.decisions.decision import Decisions
from equipoise.errors import EquipoiseError
from equipoise.fairness import accuracy, drop_bound, perplexity, unambiguous_accuracy
from equipoise.fairness.interval import (
    paired_drop,
    paired_upper_limit,
    proportion_interval,
    student_quantile,
)
from equipoise.tasks.item import Item


def test_wilson_interval_of_independent_items() -> None:
    """Against the published worked example: 81 of 263 (Newcombe 1998, table I)."""
    found = proportion_interval(np.arange(263) < 81, np.arange(263))
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=2e-4)


def test_twins_that_agree_count_once() -> None:
    hits = np.repeat(np.arange(40) < 30, 2)
    once = proportion_interval(hits[::2], np.arange(40))
    twice = proportion_interval(hits, np.repeat(np.arange(40), 2))
    # The clustered variance has T − 1 below it, Wilson's T.
    assert twice.low == pytest.approx(once.low, abs=3e-3)
    assert proportion_interval(np.ones(80, bool), np.repeat(np.arange(40), 2)).low == (
        proportion_interval(np.ones(40, bool), np.arange(40)).low
    )


def test_twins_that_disagree_count_as_their_items_and_no_more() -> None:
    """Wilson's interval of 41 of 80: no item counts twice."""
    hits = np.array([[1, 0]] * 39 + [[1, 1]], dtype=bool).reshape(-1)
    found = proportion_interval(hits, np.repeat(np.arange(40), 2))
    n, share, z = 80, 41 / 80, 1.959964
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_twins_that_change_against_each_other_count_as_their_items_and_no_more() -> None:
    before = np.array([[1, 0]] * 10 + [[1, 1]] * 30, dtype=bool).reshape(-1)
    after = np.array([[0, 1]] * 9 + [[0, 0]] + [[1, 1]] * 30, dtype=bool).reshape(-1)
    found = paired_drop(before, after, np.repeat(np.arange(40), 2))
    assert found.estimate == pytest.approx(1 / 80)
    assert found.high == pytest.approx(paired_upper_limit(10, 9, 80))
    assert found.low == pytest.approx(-paired_upper_limit(9, 10, 80))


@pytest.mark.parametrize(("df", "exact"), [(2, 4.3027), (4, 2.7764), (10, 2.2281), (100, 1.9840)])
def test_student_quantile(df: int, exact: float) -> None:
    assert student_quantile(1.959964, df) == pytest.approx(exact, rel=0.015 if df < 4 else 1e-3)


def test_paired_limit_without_any_change_is_not_0() -> None:
    z = 1.6448536
    assert paired_upper_limit(0, 0, 200) == pytest.approx(z**2 / (200 + z**2))


@given(st.integers(0, 30), st.integers(0, 30), st.integers(60, 300))
def test_paired_limit_solves_the_score_equation(lost: int, won: int, n: int) -> None:
    """The nuisance is the maximum of the likelihood on a fine grid (a slow reading of Tango)."""
    limit = paired_upper_limit(lost, won, n)
    assert (lost - won) / n <= limit <= 1
    q = np.linspace(max(0, -limit), (1 - limit) / 2, 40_001)[1:-1]
    likelihood = (
        lost * np.log(q + limit) + won * np.log(q) + (n - lost - won) * np.log1p(-2 * q - limit)
    )
    best = q[likelihood.argmax()]
    score = (lost - won - n * limit) / math.sqrt(n * (2 * best + limit * (1 - limit)))
    assert score == pytest.approx(-1.6448536, abs=0.02)


@pytest.mark.parametrize(("loss", "together"), [(0.01, False), (0.03, True), (0.2, True)])
def test_paired_limit_covers_the_true_drop(loss: float, together: bool) -> None:
    rng = np.random.default_rng(0)
    twins, covered = np.repeat(np.arange(100), 2), []
    for _ in range(300):
        before = rng.random(200) < 0.9
        luck = rng.random((100, 2))
        if together:
            luck[:, 1] = luck[:, 0]
        after = np.where(before, luck.ravel() > loss, rng.random(200) < 0.05)
        high = paired_drop(before, after, twins).high
        covered.append(high is not None and 0.9 * loss - 0.1 * 0.05 <= high)
    assert np.mean(covered) >= 0.92


def test_accuracy_and_its_drop() -> None:
    before, after = [True] * 9 + [False], [True] * 7 + [False] * 2 + [True]
    found = accuracy(quiz(after, strength=0.5), quiz(before))
    assert found is not None
    assert (found["estimate"], found["n"]) == (0.8, 10)
    assert found["drop"]["estimate"] == pytest.approx(0.1)
    assert found["drop"]["low"] < 0.1 < found["drop"]["high"]
    assert "certificate" not in found
    base = accuracy(quiz(before), quiz(before))
    assert base is not None
    assert base["drop"] == {"estimate": 0.0, "low": 0.0, "high": 0.0}
    # Other scores with the same answers may still have lost something: strength is no proof.
    prompted = quiz(before)
    prompted.scores[:] *= 1.1
    unchanged = accuracy(prompted, quiz(before))
    assert unchanged is not None
    assert unchanged["drop"]["estimate"] == 0 < unchanged["drop"]["high"]
    alone = accuracy(quiz(before))
    assert alone is not None
    assert alone["drop"] is None


def test_a_gate_that_stayed_shut_is_no_proof_of_no_drop() -> None:
    """The very scores of the base, at another strength: what other prompts lose is not known."""
    shut = accuracy(quiz([True] * 32, strength=1.0), quiz([True] * 32))
    assert shut is not None
    assert (
        shut["drop"]["high"]
        == -shut["drop"]["low"]
        == pytest.approx(1.645**2 / (32 + 1.645**2), 1e-3)
    )
    tokens = np.full(32, 50)
    losses = 150 + np.arange(32.0)
    for same in (losses.copy(), losses + 1e-6):  # in another row of a batch, to rounding
        rise = perplexity(same, tokens, losses)["drop"]
        assert rise["estimate"] == pytest.approx(0, abs=1e-6)
        assert (rise["low"], rise["high"]) == (shut["drop"]["low"], shut["drop"]["high"])
    assert perplexity(losses, tokens, losses)["drop"] == dict.fromkeys(
        ("estimate", "low", "high"), 0
    )
    one = perplexity(losses[:1].copy(), tokens[:1], losses[:1])["drop"]
    assert one == {"estimate": 0, "low": None, "high": None}


def test_a_document_without_a_token_to_score_is_no_unit() -> None:
    found = perplexity(np.array([30.0, 0.0]), np.array([10, 0]), np.array([20.0, 0.0]))
    assert found["n"] == 1
    assert found["low"] is found["high"] is found["drop"]["low"] is found["drop"]["high"] is None
    assert found["drop"]["estimate"] == pytest.approx(math.e - 1)


def test_a_drop_needs_the_same_items() -> None:
    with pytest.raises(EquipoiseError, match="paired by item"):
        accuracy(quiz([True, True], strength=1.0), quiz([True]))


def test_coverage_and_answered_only() -> None:
    items = quiz([True] * 4).items
    table = [(0.1, 0.8, 0.1), (0.8, 0.1, 0.1), (0.1, 0.3, 0.6), (0.1, 0.8, 0.1)]
    found = unambiguous_accuracy(decide(items, table))
    assert found is not None
    assert (found["estimate"], found["coverage"]) == (0.5, 0.75)
    assert found["answered_only"] == pytest.approx(2 / 3)
    silent = unambiguous_accuracy(decide(items, [(0.1, 0.1, 0.8)] * 4))
    assert silent is not None
    assert (silent["estimate"], silent["coverage"], silent["answered_only"]) == (0, 0, None)
    ambiguous = decide([Item(id="x", prompt="?", options=("a", "b"))], [(0.5, 0.5)])
    assert accuracy(ambiguous) is None
    assert unambiguous_accuracy(ambiguous) is None


def test_certificate_comes_with_the_kl() -> None:
    found = accuracy(quiz([True] * 4, kl=np.array([0.0, 0.02, 0.02, 0.04])))
    assert found is not None
    assert found["kl"] == pytest.approx(0.02)
    assert found["certificate"] == pytest.approx(0.5 * math.sqrt(0.04))
    assert drop_bound(0.5, sigma=2) == 2
    assert drop_bound(-1e-9) == 0
    for bad in (math.nan, math.inf, -0.1):
        with pytest.raises(EquipoiseError, match="diverged"):
            drop_bound(bad)


@given(st.lists(st.floats(0.001, 0.999), min_size=2, max_size=6), st.floats(-2, 2))
def test_certificate_holds_for_any_two_distributions(base: list[float], tilt: float) -> None:
    p = np.array(base) / sum(base)
    q = p * np.exp(tilt * np.arange(len(p)))
    q /= q.sum()
    assert abs(q[0] - p[0]) <= drop_bound(float((q * np.log(q / p)).sum())) + 1e-8


def test_perplexity_is_paired_by_document() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(50, 150, 30)
    base = tokens * rng.normal(3, 0.5, 30)
    found = perplexity(base + 0.01 * tokens, tokens, base)
    assert found["estimate"] == pytest.approx(math.exp((base.sum()) / tokens.sum() + 0.01))
    # All documents rise alike: the ratio is known exactly though the perplexity is not.
    assert found["drop"]["estimate"] == pytest.approx(math.exp(0.01) - 1)
    assert found["drop"]["high"] == pytest.approx(math.exp(0.01) - 1)
    assert found["low"] < found["estimate"] < found["high"]
    assert (found["n"], found["tokens"]) == (30, int(tokens.sum()))
    single = perplexity(base[:1], tokens[:1], base[:1])
    assert single["low"] is single["high"] is single["drop"]["high"] is None
    assert perplexity(base, tokens)["drop"] is None


@pytest.mark.parametrize("same", [0, 7])
def test_limits_of_a_perplexity_are_student_s(same: int) -> None:
    """Two-sided 95 % for itself, one-sided for its rise; some documents may not change at all.

    Of documents of one length the mean per token is an ordinary mean.
    """
    from scipy.stats import t

    rng = np.random.default_rng(1)
    losses, change = rng.normal(3, 0.5, 30), rng.normal(0.02, 0.05, 30)
    change[:same] = 0.0
    found = perplexity(80 * (losses + change), np.full(30, 80), 80 * losses)
    for values, level, limits, less in (
        (losses + change, 0.975, found, 0),
        (change, 0.95, found["drop"], 1),
    ):
        half = t.ppf(level, 29) * values.std(ddof=1) / math.sqrt(30)
        wanted = np.exp(values.mean() + half * np.array([-1, 0, 1])) - less
        got = [limits[name] for name in ("low", "estimate", "high")]
        assert got == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_perplexity_refuses_what_is_not_a_number() -> None:
    with pytest.raises(EquipoiseError, match="no token"):
        perplexity(np.array([]), np.array([]))
    for loss, message in (
        (math.nan, "NaN"),
        (math.inf, "infinite"),
        (1e6, "no language model's loss"),
    ):
        with pytest.raises(EquipoiseError, match=message):
            perplexity(np.array([loss, 1.0]), np.array([2, 2]))


def test_the_certificate_is_of_sampled_answers() -> None:
    """It bounds the chance of a right answer, however all greedy ones turn over."""
    items = tuple(Item(id=str(i), prompt="p", options=("a", "b"), answer=0) for i in range(20))
    before, after = np.array([0.501, 0.499]), np.array([0.499, 0.501])
    kl = float((after * np.log(after / before)).sum())
    base = Decisions(items, np.log(np.tile(before, (20, 1))))
    now = Decisions(items, np.log(np.tile(after, (20, 1))), kl=np.full(20, kl), strength=1.0)
    found = accuracy(now, base)
    assert found["drop"]["estimate"] == 1.0
    assert before[0] - after[0] <= found["certificate"] < 0.003
