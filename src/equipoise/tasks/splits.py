"""Splits by hash: the same item lands in the same split on every machine and in every run.

Neither the order of the items, nor their number, nor a seed moves an item between splits, so a
file that grows never leaks a tested item into a later fit.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from equipoise.tasks.item import Item, Split

SHARES: tuple[tuple[Split, float], ...] = (("train", 0.5), ("validation", 0.2), ("test", 0.3))
HELD_OUT_SHARE = 0.2
MIN_CONTEXTS = 10  # with fewer, holding some out leaves too few to fit and to judge on


def digest(*parts: object) -> str:
    """SHA-256 hex digest of the arguments' texts."""
    return hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).hexdigest()


def unit_hash(*parts: object) -> float:
    """A number in [0, 1), uniform over its arguments' texts and fixed for ever."""
    return int(digest(*parts)[:13], 16) / 16**13  # 52 bits: exact in a float, and below 1


def hold_out(contexts: Iterable[str], share: float = HELD_OUT_SHARE) -> frozenset[str]:
    """The share (rounded to whole contexts) that hashes lowest; nothing below MIN_CONTEXTS."""
    ranked = sorted(set(contexts), key=lambda context: unit_hash("context", context))
    if len(ranked) < MIN_CONTEXTS:
        return frozenset()
    return frozenset(ranked[: round(share * len(ranked))])


def split_of(key: str) -> Split:
    """Train, validation or test, by a hash of the key in the proportions of SHARES."""
    value, edge = unit_hash("split", key), 0.0
    for name, share in SHARES:
        edge += share
        if value < edge:
            return name
    return SHARES[-1][0]


def assign_splits(
    items: Sequence[Item],
    *,
    held_out: Collection[str] | None = None,
    key: Callable[[Item], str] = lambda item: item.twin,
) -> tuple[Item, ...]:
    """The items, each with a split.

    Items of one key (a twin) go together: to ``unseen`` if any of them speaks about a held-out
    context, else to train, validation or test by a hash of the key.

    Args:
        items: The items; splits they have are replaced.
        held_out: Contexts to hold out; None chooses among those of the ambiguous items.
        key: What must stay on one side of a split; the twin unless told.
    """
    if held_out is None:
        held_out = hold_out(c for item in items if item.ambiguous for c in item.contexts)
    contexts: dict[str, set[str]] = defaultdict(set)
    for item in items:
        contexts[key(item)].update(item.contexts)
    return tuple(
        replace(
            item,
            split=split_of(key(item)) if contexts[key(item)].isdisjoint(held_out) else "unseen",
        )
        for item in items
    )
