"""What an answer says about the model: fair, stereotyped, or neither."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from equipoise.decisions import Decisions
from equipoise.errors import EquipoiseError
from equipoise.methods.gating.examples import POSITIVE
from equipoise.tasks.item import Item

AMBIGUOUS, UNAMBIGUOUS = "ambiguous, answered fairly", "unambiguous, answered rightly"
"""Kinds of prompts on which a model that could have followed the stereotype did not."""


def fair_options(item: Item) -> tuple[int, ...]:
    """The right option; of an ambiguous item the abstentions, or, offering none, the anti ones.

    Raises:
        EquipoiseError: The item has no sides.
    """
    if item.answer is not None:
        return (item.answer,)
    if item.sides is None:
        raise EquipoiseError(
            f"item {item.id!r} has no sides: fairsteer needs options marked pro, anti, abstain"
        )
    for side in ("abstain", "anti"):
        found = tuple(k for k, s in enumerate(item.sides) if s == side)
        if found:
            return found
    return ()


def pro_options(item: Item) -> tuple[int, ...]:
    """Options that follow the stereotype and are not right."""
    fair = fair_options(item)
    return tuple(k for k, s in enumerate(item.sides or ()) if s == "pro" and k not in fair)


def kinds_of(decisions: Decisions) -> list[str | None]:
    """Of each item with sides, what its greedy answer makes of it.

    Returns:
        ``POSITIVE`` where it is stereotyped (y = 0 in the paper), one of the two kinds of unbiased
        prompts (y = 1) where it is fair, None where it is wrong in another way.
    """
    kinds: list[str | None] = []
    for item, choice in zip(decisions.items, greedy(decisions), strict=True):
        if choice in fair_options(item):
            kinds.append(AMBIGUOUS if item.ambiguous else UNAMBIGUOUS)
        else:
            kinds.append(POSITIVE if choice in pro_options(item) else None)
    return kinds


def greedy(decisions: Decisions) -> Sequence[int]:
    """Index of each item's likeliest option."""
    return [int(k) for k in decisions.scores.argmax(axis=1)]


def share_right(decisions: Decisions) -> float:
    """Share of items whose greedy answer is right, or fair (at least one item)."""
    right = [k in fair_options(i) for i, k in zip(decisions.items, greedy(decisions), strict=True)]
    return float(np.mean(right))
