"""Which rows of a step are twins, and how their options correspond."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from equipoise.tasks.item import Item


def pair_up(items: Sequence[Item], twin: Sequence[int], width: int) -> tuple[Tensor, Tensor]:
    """Pair each row with the next of its twin, the last with the first.

    Args:
        items: The n rows' items.
        twin: Each row's number of the twin it was drawn with.
        width: Number of columns of the option scores.

    Returns:
        ``align`` int64 [n, width], for each option its place among the partner's; ``partner``
        int64 [n], −1 for a row without a twin that has the same options.
    """
    align = torch.zeros(len(items), width, dtype=torch.long)
    partner = torch.full((len(items),), -1)
    members: dict[int, list[int]] = defaultdict(list)
    for row, number in enumerate(twin):
        members[number].append(row)
    for group in members.values():
        for row, other in zip(group, [*group[1:], group[0]], strict=True):
            mine, theirs = items[row].options, items[other].options
            if other != row and sorted(mine) == sorted(theirs):
                partner[row] = other
                align[row, : len(mine)] = torch.tensor([theirs.index(option) for option in mine])
    return align, partner
