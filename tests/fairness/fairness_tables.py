"""Hand-made items and decisions for the fairness tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from equipoise.decisions.decision import Decisions
from equipoise.tasks.item import Item

SIDES = ("pro", "anti", "abstain")
Row = tuple[str, str, Sequence[float]]


def decide(items: Sequence[Item], table: Sequence[Sequence[float]], **fields: object) -> Decisions:
    """Decisions whose probabilities at temperature 1 are the table's (rows may be short)."""
    scores = np.full((len(items), max(map(len, table))), -np.inf)
    for row, shares in enumerate(table):
        with np.errstate(divide="ignore"):
            scores[row, : len(shares)] = np.log(np.asarray(shares, dtype=float))
    return Decisions(tuple(items), scores, **fields)  # type: ignore[arg-type]


def sided(rows: Sequence[Row], **fields: object) -> Decisions:
    """Rows (context or contexts joined by '+', twin, [P(pro), P(anti), P(abstain)])."""
    items = [
        Item(
            id=str(number),
            prompt="?",
            options=("x", "y", "cannot tell")[: len(shares)],
            contexts=tuple(context.split("+")),
            sides=SIDES[: len(shares)],
            twin=twin,
        )
        for number, (context, twin, shares) in enumerate(rows)
    ]
    return decide(items, [shares for _, _, shares in rows], **fields)


def grouped(rows: Sequence[Row], groups: Sequence[str | None]) -> Decisions:
    """Rows (context, twin, probabilities of the groups' options)."""
    items = [
        Item(
            id=str(number),
            prompt="?",
            options=tuple(f"option {k}" for k in range(len(groups))),
            contexts=(context,),
            groups=tuple(groups),
            twin=twin,
        )
        for number, (context, twin, _) in enumerate(rows)
    ]
    return decide(items, [shares for _, _, shares in rows])


def quiz(right: Sequence[bool], *, twin_size: int = 1, **fields: object) -> Decisions:
    """Unambiguous items of three options answered right (option 1) or wrong (option 0)."""
    items = [
        Item(
            id=str(n),
            prompt="?",
            options=("a", "b", "cannot tell"),
            sides=(None, None, "abstain"),
            answer=1,
            twin=str(n // twin_size),
        )
        for n in range(len(right))
    ]
    return decide(items, [(0.1, 0.8, 0.1) if ok else (0.8, 0.1, 0.1) for ok in right], **fields)
