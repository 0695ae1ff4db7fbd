"""Theorem 1 and its like: what an expected reward is, in terms of the bias."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equipoise.decisions import Decisions
from equipoise.errors import EquipoiseError
from equipoise.fairness import by_context, per_occupation_bias
from equipoise.methods.dso.pools import Labels, Stratified
from equipoise.methods.dso.reward import Majority, rewards
from equipoise.tasks.item import Item

SIDES = ("pro", "anti", "abstain")


def sided(n: int, context: str = "nurse") -> list[Item]:
    """Items whose options stand in turn for each side, in turning order."""
    return [
        Item(
            id=f"{context}{i}",
            prompt=f"{context} {i}",
            options=("a", "b", "c"),
            sides=tuple(SIDES[(k + i) % 3] for k in range(3)),
            contexts=(context,),
        )
        for i in range(n)
    ]


def grouped(offers: list[tuple[str | None, ...]], context: str = "nurse") -> list[Item]:
    return [
        Item(
            id=f"{context}{i}",
            prompt=f"{context} {i}",
            options=tuple("abcdef"[: len(groups)]),
            groups=groups,
            contexts=(context,),
        )
        for i, groups in enumerate(offers)
    ]


def expected_reward(
    items: list[Item],
    scores: Tensor,
    kind: Literal["ternary", "paper"] = "ternary",
    target: dict[str, float] | None = None,
    width: float = 0.0,
) -> tuple[Tensor, Majority]:
    """E[r] of each item under the scores, with S* of those very scores."""
    labels = Labels.of(items, target, scores.shape[1])
    contexts = sorted({c for item in items for c in item.contexts})
    majority = Majority(items, contexts, labels, torch.zeros_like(scores))
    policy = scores.softmax(-1)
    context = [contexts.index(item.contexts[0]) for item in items]
    excess = majority.observe(range(len(items)), context, policy)
    reward = rewards(excess, labels.group, labels.wanted, kind=kind, width=width)
    return (policy * reward).sum(-1), majority


def by_side(items: list[Item], scores: Tensor) -> dict[str, Tensor]:
    policy = scores.softmax(-1)
    return {
        side: torch.stack([policy[i, item.sides.index(side)] for i, item in enumerate(items)])
        for side in SIDES
    }


tables = st.lists(
    st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3), min_size=1, max_size=6
)


@settings(max_examples=60, deadline=None)
@given(tables)
def test_theorem_1_holds_with_abstentions(table: list[list[float]]) -> None:
    items, scores = sided(len(table)), torch.tensor(table, dtype=torch.float32)
    p = by_side(items, scores)
    bias = (p["pro"] - p["anti"]).mean().abs()
    expected, majority = expected_reward(items, scores)
    torch.testing.assert_close(expected.mean(), -bias, atol=1e-5, rtol=0)
    assert majority.bias() == pytest.approx(bias.item(), abs=1e-5)
    if bias > 1e-3:  # the literal reward pays for refusing
        paper, _ = expected_reward(items, scores, "paper")
        torch.testing.assert_close(paper.mean(), p["abstain"].mean() - bias, atol=1e-5, rtol=0)


@settings(max_examples=60, deadline=None)
@given(tables, st.sampled_from([None, {"a": 3.0, "b": 1.0, "c": 2.0}]))
def test_groups_lose_twice_their_distance(
    table: list[list[float]], target: dict[str, float] | None
) -> None:
    items = grouped([("a", "b", "c")] * len(table))
    scores = torch.tensor(table, dtype=torch.float32)
    wanted = torch.tensor([3.0, 1.0, 2.0]) / 6 if target else torch.full((3,), 1 / 3)
    distance = (scores.softmax(-1).mean(0) - wanted).abs().sum() / 2
    expected, _ = expected_reward(items, scores, target=target)
    torch.testing.assert_close(expected.mean(), -2 * distance, atol=1e-5, rtol=0)


def test_wanted_shares_are_those_of_the_groups_an_item_offers() -> None:
    # Nine of ten items offer a and b, one offers a and c: fair is .5 : .45 : .05.
    items = grouped([("a", "b", None)] * 9 + [("a", "c", None)])
    fair = torch.zeros(10, 3)
    expected, majority = expected_reward(items, fair)
    torch.testing.assert_close(expected, torch.zeros(10))
    assert majority.bias() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("target", [None, {"a": 1.0, "b": 2.0, "c": 1.0}])
def test_bias_of_training_is_the_plug_in_that_is_reported(
    seed: int, target: dict[str, float] | None
) -> None:
    offers = [("a", "b", None), ("c", "a", None), ("b", "c", "a"), ("b", "a", None)]
    items = grouped(offers, "nurse") + grouped(offers[::-1], "doctor")
    scores = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
    _, majority = expected_reward(items, scores, target=target)
    table = scores.log_softmax(-1).double().numpy()
    reported = per_occupation_bias(Decisions(tuple(items), table), target=target)
    assert majority.bias() == pytest.approx(reported.plug_in, abs=1e-5)


def test_target_must_name_every_group() -> None:
    items = grouped([("a", "b")])
    with pytest.raises(EquipoiseError, match="'b'"):
        Labels.of(items, {"a": 1.0}, 2)
    with pytest.raises(EquipoiseError, match="no share"):
        Labels.of(items, {"a": 0.0, "b": 0.0}, 2)


def test_sign_ramps_up_over_the_width() -> None:
    items = sided(3)
    scores = torch.tensor([[0.1, 0.0, 0.0]] * 3).roll(1, 1)
    p = by_side(items, scores)
    bias = (p["pro"] - p["anti"]).mean().item()
    hard, _ = expected_reward(items, scores)
    soft, _ = expected_reward(items, scores, width=2 * abs(bias))
    torch.testing.assert_close(soft, hard / 2, atol=1e-5, rtol=1e-3)


def test_majority_does_not_lag() -> None:
    items = sided(4, "nurse") + sided(3, "doctor")
    labels = Labels.of(items, None, 3)
    generator = torch.Generator().manual_seed(0)
    majority = Majority(items, ["doctor", "nurse"], labels, torch.zeros(7, 3))
    for _ in range(3):  # the policy moves; a step that sees a whole context knows all of it
        scores = 3 * torch.randn(7, 3, generator=generator)
        found = majority.observe([4, 5, 6], [0, 0, 0], scores[4:].softmax(-1))
        p = by_side(items[4:], scores[4:])
        bias = (p["pro"] - p["anti"]).mean()
        expected = torch.stack([bias, -bias]).expand(3, 2)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(majority.excess()[0], found[0])
    assert (majority.excess()[1] == 0).all()  # of what was not seen, the base's is known


def test_majority_extrapolates_from_a_part() -> None:
    items = sided(6)
    labels = Labels.of(items, None, 3)
    majority = Majority(items, ["nurse"], labels, torch.zeros(6, 3))
    # All six items move alike; two of them are seen.
    scores = torch.stack(
        [torch.tensor([2.0 if s == "pro" else 0.0 for s in item.sides]) for item in items]
    )
    found = majority.observe([0, 1], [0, 0], scores[:2].softmax(-1))
    p = by_side(items, scores)
    assert found[0].abs().max().item() == pytest.approx(
        (p["pro"] - p["anti"]).mean().item(), abs=1e-5
    )
    assert majority.bias() < found[0].abs().max()  # what is kept is what was seen


def long_tail() -> list[Item]:
    sizes = {"one": 1, "few": 7, "some": 60, "many": 490}
    return [
        Item(
            id=f"{context}{i}{half}",
            twin=f"{context}{i}",
            prompt="",
            options=("a", "b"),
            sides=("pro", "anti"),
            contexts=(context,),
        )
        for context, size in sizes.items()
        for i in range(size)
        for half in "xy"
    ]


@pytest.mark.parametrize("n", [1, 3, 4, 10])
def test_every_context_is_drawn_as_often(n: int) -> None:
    items = long_tail()
    draws = Stratified(items)
    generator = torch.Generator().manual_seed(0)
    counts, rounds = np.zeros(4), 2000 // n
    for _ in range(rounds):
        rows, context, twin = draws.draw(n, generator)
        assert [items[i].contexts[0] for i in rows] == [draws.contexts[c] for c in context]
        assert [twin.count(t) for t in sorted(set(twin))] == [2] * n  # twins are drawn whole
        for t in set(twin):
            assert len({items[i].twin for i, u in zip(rows, twin, strict=True) if u == t}) == 1
        counts += np.bincount(context, minlength=4) / 2
    total = counts.sum()
    assert np.abs(counts / total - 0.25).max() < (1e-9 if n == 4 else 4 * 0.45 / total**0.5)


def test_every_twin_of_a_context_is_drawn_as_often() -> None:
    items = [item for item in long_tail() if item.contexts == ("few",)]
    draws = Stratified(items)
    rows, _, _ = draws.draw(7000, torch.Generator().manual_seed(0))
    counts = np.bincount(rows) / 1000
    assert np.abs(counts - 1).max() < 0.15


def test_each_context_counts_a_twin_by_its_own_items() -> None:
    """As the metric does: one item about nurses and three about doctors are a twin of either."""
    told = [("t1", "nurse", 0.9), *[("t1", "doctor", 0.5)] * 3, ("t2", "nurse", 0.3)]
    how = {"prompt": "Who?", "options": ("a", "b"), "sides": ("pro", "anti")}
    items = [
        Item(id=str(i), twin=twin, contexts=(context,), **how)
        for i, (twin, context, _) in enumerate([*told, ("t3", "doctor", 0.5)])
    ]
    pro = torch.tensor([share for *_, share in told] + [0.5])
    scores = torch.stack([pro, 1 - pro], 1).log()
    majority = Majority(items, ["doctor", "nurse"], Labels.of(items, None, 2), scores)
    wanted = by_context(Decisions(tuple(items), scores.double().numpy()))["nurse"]["difference"]
    assert wanted["estimate"] == pytest.approx(0.2)
    nurse = majority.excess()[1]
    assert float(nurse[0] - nurse[1]) / 2 == pytest.approx(0.2)
    moved = majority.observe([0, 4], [1, 1], torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
    assert moved.abs().max() == pytest.approx(0, abs=1e-6)
