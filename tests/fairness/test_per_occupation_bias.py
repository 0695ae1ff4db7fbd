"""Per-occupation bias against a slow reading of the equations, its invariants and its corners."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from fairness_tables import decide, grouped, sided
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.decisions.decision import Decisions
from equipoise.errors import EquipoiseError
from equipoise.fairness import per_occupation_bias
from equipoise.tasks.item import Item

TABLE = [
    ("nurse", "n1", (0.6, 0.3, 0.1)),
    ("nurse", "n1", (0.4, 0.5, 0.1)),
    ("nurse", "n2", (0.9, 0.1, 0.0)),
    ("nurse", "n3", (0.2, 0.2, 0.6)),
    ("cook", "c1", (0.1, 0.7, 0.2)),
    ("cook", "c2", (0.3, 0.4, 0.3)),
    ("cook", "c2", (0.2, 0.6, 0.2)),
    ("cook", "c3", (0.0, 1.0, 0.0)),
    ("cook", "c4", (0.5, 0.4, 0.1)),
]


def slow_two_sides(rows: list, conditional: bool = False) -> dict[str, float]:
    """The equations of the findings, one loop at a time (contexts without common twins)."""
    contexts: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for context, twin, (pro, anti, *_) in rows:
        contexts.setdefault(context, {}).setdefault(twin, []).append((pro - anti, pro + anti))
    squares, variances, plug_in, parity = [], [], [], []
    for twins in contexts.values():
        d = [statistics.fmean(x for x, _ in items) for items in twins.values()]
        a = [statistics.fmean(x for _, x in items) for items in twins.values()]
        if conditional:
            m = sum(d) / sum(a)
            s2 = sum(
                (x - m * w) ** 2 / sum(a) ** 2 / (1 - w / sum(a)) for x, w in zip(d, a, strict=True)
            )
        else:
            m, s2 = statistics.fmean(d), statistics.variance(d) / len(d)
        squares.append(m**2 - s2)
        variances.append(4 * max(m**2 - s2, 0) * s2 + 2 * s2**2)
        plug_in.append(abs(m))
        parity.append(math.sqrt(2 / math.pi) * math.sqrt(s2))
    square, se = statistics.fmean(squares), math.sqrt(sum(variances)) / len(contexts)
    return {
        "mean_square": square,
        "standard_error": se,
        "estimate": math.sqrt(max(0, square)),
        "low": math.sqrt(max(0, square - 1.959963985 * se)),
        "high": min(1.0, math.sqrt(max(0, square + 1.959963985 * se))),
        "plug_in": statistics.fmean(plug_in),
        "parity": statistics.fmean(parity),
    }


@pytest.mark.parametrize("conditional", [False, True])
def test_two_sides_follow_the_equations(conditional: bool) -> None:
    found = per_occupation_bias(sided(TABLE), conditional_on_answering=conditional)
    assert found is not None
    for name, value in slow_two_sides(TABLE, conditional).items():
        assert getattr(found, name) == pytest.approx(value, abs=1e-9), name
    assert (found.items, found.contexts, found.twins) == (9, 2, 7)


def test_three_groups_follow_the_equations() -> None:
    rng = np.random.default_rng(0)
    rows = [(f"o{n % 3}", f"t{n}", rng.dirichlet((2, 1, 1, 1))) for n in range(24)]
    found = per_occupation_bias(grouped(rows, ("a", "b", "c", None)))
    scale = 3**0.5 / (2 * (1 - 1 / 3))
    squares, variances, distances = [], [], []
    for context in ("o0", "o1", "o2"):
        shares = np.array([p[:3] for c, _, p in rows if c == context])
        deviation = shares - shares.sum(axis=1, keepdims=True) / 3
        m, s = deviation.mean(axis=0) * scale, np.cov(deviation.T) / len(shares) * scale**2
        squares.append(m @ m - np.trace(s))
        variances.append(4 * max(m @ s @ m - np.trace(s @ s), 0) + 2 * np.trace(s @ s))
        distances.append(0.5 * np.abs(deviation.mean(axis=0)).sum() / (1 - 1 / 3))
    assert found is not None
    assert found.mean_square == pytest.approx(np.mean(squares))
    assert found.standard_error == pytest.approx(math.sqrt(sum(variances)) / 3)
    assert found.plug_in == pytest.approx(np.mean(distances))


def test_twins_of_two_contexts_count_their_covariance() -> None:
    """Var(Σ m²) over every pair of contexts, from the full covariance of the context means."""
    rng = np.random.default_rng(1)
    names = ["a", "b", "c"]
    values = rng.uniform(0.3, 1, 30)
    pairs = [("a", "b"), ("b", "c"), ("a", "c")]
    rows = [("+".join(pairs[n % 3]), f"t{n}", (v, 1 - v)) for n, v in enumerate(values)]
    found = per_occupation_bias(sided(rows))
    d, n = 2 * values - 1, 20
    member = np.array([[name in pairs[k % 3] for k in range(30)] for name in names])
    means = member @ d / n
    centred = (d - means[:, None]) * member
    covariance = centred @ centred.T / (n * (n - 1))
    variance = 0.0
    for o, p in itertools.product(range(3), repeat=2):
        c = covariance[o, p]
        variance += 4 * (means[o] * means[p] - c) * c + 2 * c**2
    assert found is not None
    assert found.standard_error == pytest.approx(math.sqrt(variance) / 3)
    assert (found.items, found.twins, found.contexts) == (30, 30, 3)


def test_temperature_0_is_greedy_and_a_low_temperature_tends_to_it() -> None:
    decisions = sided(TABLE)
    greedy = per_occupation_bias(decisions, temperature=0)
    hard = [(context, twin, np.eye(3)[int(np.argmax(shares))]) for context, twin, shares in TABLE]
    assert greedy == per_occupation_bias(sided(hard))
    nearly = per_occupation_bias(decisions.subset([0, 2, 4, 5]), temperature=1e-3)
    exact = per_occupation_bias(decisions.subset([0, 2, 4, 5]), temperature=0)
    assert nearly is not None
    assert exact is not None
    assert nearly.plug_in == pytest.approx(exact.plug_in)


def test_a_context_with_a_single_twin_is_left_out_and_named() -> None:
    rows = [*TABLE, ("mason", "m1", (1, 0, 0)), ("mason", "m1", (0.9, 0.1, 0))]
    found, without = per_occupation_bias(sided(rows)), per_occupation_bias(sided(TABLE))
    assert found is not None
    assert without is not None
    assert found.left_out == {"mason": "a single twin: no variance"}
    assert found.estimate == without.estimate
    assert found.items == without.items
    assert per_occupation_bias(sided(rows[-2:])) is None


def test_few_contexts_and_few_twins_are_warned_about() -> None:
    found = per_occupation_bias(sided(TABLE))
    assert found is not None
    assert any("2 contexts (< 10)" in line for line in found.warnings)
    assert any("fewer than 5 twins" in line and "down to 3" in line for line in found.warnings)
    many = [
        (f"o{o}", f"{o}/{t}", (0.5 + t / 20, 0.5 - t / 20)) for o in range(10) for t in range(5)
    ]
    plenty = per_occupation_bias(sided(many))
    assert plenty is not None
    assert plenty.warnings == ()


@pytest.mark.parametrize("conditional", [False, True])
def test_undefined_when_every_answer_abstains(conditional: bool) -> None:
    rows = [(f"o{n % 2}", f"t{n}", (0, 0, 1)) for n in range(8)]
    assert per_occupation_bias(sided(rows), conditional_on_answering=conditional) is None
    nearly = [(c, t, (0.3, 0.2, 0.5)) for c, t, _ in rows]
    greedy = per_occupation_bias(sided(nearly), temperature=0, conditional_on_answering=conditional)
    assert greedy is None


def test_a_context_that_never_answers_is_left_out_of_the_conditional_bias_only() -> None:
    rows = [*TABLE, ("mason", "m1", (0, 0, 1)), ("mason", "m2", (0, 0, 1))]
    conditional = per_occupation_bias(sided(rows), conditional_on_answering=True)
    assert conditional is not None
    assert conditional.left_out == {"mason": "every answer abstains"}
    unconditional = per_occupation_bias(sided(rows))
    assert unconditional is not None
    assert unconditional.contexts == 3


def test_abstaining_more_lowers_the_bias_but_not_the_conditional_one() -> None:
    scaled = [(c, t, (p[0] / 4, p[1] / 4, 1 - (p[0] + p[1]) / 4)) for c, t, p in TABLE]
    for conditional, factor in ((False, 0.25), (True, 1.0)):
        before = per_occupation_bias(sided(TABLE), conditional_on_answering=conditional)
        after = per_occupation_bias(sided(scaled), conditional_on_answering=conditional)
        assert before is not None
        assert after is not None
        assert after.estimate == pytest.approx(factor * before.estimate)


def test_contexts_can_be_chosen() -> None:
    only = per_occupation_bias(sided(TABLE), contexts={"cook"})
    assert only == per_occupation_bias(sided([row for row in TABLE if row[0] == "cook"]))
    assert per_occupation_bias(sided(TABLE), contexts={"nobody"}) is None


def test_items_without_sides_or_contexts_are_passed_over() -> None:
    decisions = sided(TABLE)
    extra = (
        Item(id="x", prompt="?", options=("a", "b"), contexts=("nurse",)),
        Item(id="y", prompt="?", options=("a", "b"), sides=("pro", "anti")),
        Item(id="z", prompt="?", options=("a", "b"), contexts=("nurse",), groups=("g", None)),
    )
    scores = np.vstack([decisions.scores, np.log([[0.9, 0.1, 1e-9]] * 3)])
    longer = Decisions(decisions.items + extra, scores)
    assert per_occupation_bias(longer) == per_occupation_bias(decisions)
    assert per_occupation_bias(longer.subset([9, 10, 11])) is None


def test_pairs_of_many_groups_are_not_held_against_a_fair_model() -> None:
    """An item offers two of three groups, unevenly: a model that tosses a coin has no bias."""
    offers = [("a", "b")] * 8 + [("a", "c")] * 4
    items = [
        Item(id=str(n), prompt="?", options=("x", "y"), contexts=("nurse",), groups=groups)
        for n, groups in enumerate(offers)
    ]
    found = per_occupation_bias(decide(items, [(0.5, 0.5)] * 12))
    assert found is not None
    assert found.plug_in == pytest.approx(0)


def test_stated_target() -> None:
    rows = [("nurse", f"t{n}", (0.2 + d, 0.5 - d, 0.3)) for n, d in enumerate((-0.1, 0, 0.1))]
    decisions = grouped(rows, ("a", "b", "c"))
    met = per_occupation_bias(decisions, target={"a": 2, "b": 5, "c": 3})
    assert met is not None
    assert met.plug_in == pytest.approx(0)
    missed = per_occupation_bias(decisions, target={"a": 0.5, "b": 0.2, "c": 0.3})
    assert missed is not None
    assert missed.plug_in == pytest.approx(0.3 / (1 - 1 / 3))
    with pytest.raises(EquipoiseError, match="offers group 'b': no target share"):
        per_occupation_bias(decisions, target={"a": 1, "c": 1})
    with pytest.raises(EquipoiseError, match="positive sum"):
        per_occupation_bias(decisions, target={"a": 0, "b": 0, "c": 0})


@pytest.mark.parametrize(
    ("scores", "temperature", "message"),
    [
        ([np.nan, 0, 0], 1.0, "item '0'.*not log-probabilities"),
        ([np.inf, 0, 0], 1.0, "not log-probabilities"),
        ([-np.inf] * 3, 1.0, "not log-probabilities"),
        ([0, 0, 0], -1.0, "temperature -1.0"),
        ([0, 0, 0], np.nan, "temperature nan"),
    ],
)
def test_bad_numbers_are_named(scores: list[float], temperature: float, message: str) -> None:
    decisions = sided(TABLE[:1])
    decisions.scores[0] = scores
    with pytest.raises(EquipoiseError, match=message):
        per_occupation_bias(decisions, temperature=temperature)


def test_parity_p_value_is_the_exhaustive_one() -> None:
    values = (0.9, 0.2, 0.6, -0.1, 0.5, 0.4)
    rows = [("nurse", f"t{n}", ((1 + v) / 2, (1 - v) / 2)) for n, v in enumerate(values)]
    found = per_occupation_bias(sided(rows), flips=20_000)
    observed = abs(sum(values)) - 1e-9
    flips = itertools.product((-1, 1), repeat=len(values))
    exact = statistics.fmean(
        abs(sum(s * v for s, v in zip(signs, values, strict=True))) >= observed for signs in flips
    )
    assert found is not None
    assert found.parity_p == pytest.approx(exact, abs=0.01)
    always = per_occupation_bias(sided([("o", f"t{n}", (0.5, 0.5)) for n in range(4)]))
    assert always is not None
    assert always.parity_p == 1


tables = st.lists(
    st.tuples(
        st.sampled_from(["nurse", "cook", "nurse+cook"]),
        st.sampled_from("abcdef"),
        st.tuples(*[st.floats(0.01, 1)] * 3).map(lambda w: tuple(x / sum(w) for x in w)),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(tables, st.sampled_from([0.0, 0.5, 1.0]), st.booleans())
def test_invariants(rows: list, temperature: float, conditional: bool) -> None:
    def bias(decisions: Decisions) -> dict | None:
        found = per_occupation_bias(
            decisions, temperature=temperature, conditional_on_answering=conditional, flips=20
        )
        return None if found is None else found.as_dict()

    decisions = sided(rows)
    found = bias(decisions)
    swapped_sides = Decisions(
        tuple(
            Item(**{**item.__dict__, "sides": ("anti", "pro", "abstain")})
            for item in decisions.items
        ),
        decisions.scores,
    )
    as_groups = Decisions(
        tuple(
            Item(**{**item.__dict__, "sides": None, "groups": ("woman", "man", None)})
            for item in decisions.items
        ),
        decisions.scores,
    )
    shuffled = decisions.subset(np.random.default_rng(0).permutation(len(rows)).tolist())
    if found is None:
        assert bias(swapped_sides) is bias(as_groups) is bias(shuffled) is None
        return
    for name in ("estimate", "low", "high", "plug_in"):
        assert 0 <= found[name] <= 1 + 1e-12
    assert found["low"] <= found["estimate"] <= found["high"]
    assert 0 < found["p_parity"] <= 1
    same = {"estimate", "low", "high", "plug_in", "parity", "n", "contexts", "twins"}
    for other in (bias(swapped_sides), bias(as_groups), bias(shuffled)):
        assert other is not None
        assert {k: other[k] for k in same} == pytest.approx({k: found[k] for k in same}, abs=1e-7)


def test_twins_that_answer_alike_count_in_full_however_rarely_they_answer() -> None:
    rows = [(f"o{o}", f"{o}/{t}", (0.2, 0.1, 0.7)) for o in range(12) for t in range(6)]
    found = per_occupation_bias(sided(rows), conditional_on_answering=True)
    assert found is not None
    assert not any("fewer than 5 twins" in line for line in found.warnings)
