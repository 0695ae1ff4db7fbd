"""Lettered multiple choice: one prompt for every benchmark that answers with a letter."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

from equipoise.tasks.splits import unit_hash

LETTERS = ("A", "B", "C", "D", "E")


def lettered(question: str, choices: Sequence[str]) -> str:
    """The question, a line for each choice, and ``Answer:``, to be followed by a letter."""
    lines = (f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return "\n".join([question.strip(), *lines, "Answer:"])


def hashed_order(count: int, *key: object) -> tuple[int, ...]:
    """One of the orders of ``count`` things, by a hash of the key; each equally likely."""
    orders = list(permutations(range(count)))
    return orders[int(unit_hash("order", *key) * len(orders))]
