"""Rows as trees: what several of them begin with is read once, as one branch of a sequence.

A sequence may hold several trees. Each token attends to what it follows and to nothing else, and
has its place in its row for its position, so that a row is read as it would be alone.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

import numpy as np

from equipoise.decisions.encode import Encoded
from equipoise.decisions.tokens import common_length

LONGEST = 2048
"""Tokens of a sequence that several rows share, at most: its mask has as many rows and columns."""

ALONE = 1024
"""Tokens of a row up to which it pays to read its options with it if it shares nothing."""

_PAIR = 2
"""Attention between two tokens takes 1 / (2 d) of a token's other work: its products 1 / (3 d), the
rest is softmax and mask (measured on a CPU, d = 144 and 256)."""


@dataclass(eq=False)
class Tree:
    """The tokens of some rows, with their options, after what is cached of each.

    Attributes:
        key: What its rows have in common (``grow``).
        start: How many tokens of each are cached.
        tokens: Token ids, n; each comes after the one it follows.
        parents: For each token the one it follows; −1: none, it is a row's first.
        depths: For each token how many lie before it in its row, cached ones apart.
        prompts: By row, where the tokens of its prefix are.
        options: By row, where the proper beginnings of its options end, each once.
    """

    key: int = 0
    start: int = 0
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    prompts: dict[int, list[int]] = field(default_factory=dict)
    options: dict[int, list[int]] = field(default_factory=dict)
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def is_row(self) -> bool:
        """Whether it is a single row, and better read as one, without a mask for each token."""
        if len(self.options) > 1:
            return False
        return len(self.tokens) > ALONE or not any(self.options.values())

    def add(self, number: int, row: Encoded) -> None:
        """Take in a row, from its token ``start`` on."""
        prompt = self.prompts[number] = self._follow(-1, row.prefix[self.start :])
        ends = [end for s in row.suffixes for end in self._follow(prompt[-1], s[:-1])]
        self.options[number] = list(dict.fromkeys(ends))

    def _follow(self, at: int, tokens: Sequence[int]) -> list[int]:
        """Where each of the tokens is that come after ``at``."""
        places = []
        for token in tokens:
            child = self._children.get((at, token))
            if child is None:
                child = self._children[at, token] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(at)
                self.depths.append(0 if at < 0 else self.depths[at] + 1)
            places.append(child)
            at = child
        return places

    def renumbered(self, numbers: Mapping[int, int]) -> Tree:
        """The same tree with other numbers for its rows."""
        prompts = {numbers[number]: places for number, places in self.prompts.items()}
        options = {numbers[number]: places for number, places in self.options.items()}
        return replace(self, prompts=prompts, options=options)

    def follows(self) -> np.ndarray:
        """Which tokens each token attends to: bool [n, n]."""
        seen = np.eye(len(self.tokens), dtype=bool)
        for token, parent in enumerate(self.parents):
            if parent >= 0:
                seen[token] |= seen[parent]
        return seen


def grow(
    rows: Sequence[Encoded],
    starts: Sequence[int],
    keys: Sequence[int],
    width: int,
    limit: int,
) -> Iterator[Tree]:
    """Rows in trees, each with as many rows as it pays to read together.

    A row joins a tree if the tokens it saves cost more than the attention between its other tokens
    and the tree's, which is computed and masked.

    Args:
        rows: The rows, items all.
        starts: How many tokens of each are cached.
        keys: Only rows of the same key, which tells what is cached of them, share a tree.
        width: d of the model.
        limit: Tokens of a tree, at most; a row longer than that is a tree of its own.
    """

    def place(i: int) -> tuple[int, tuple[int, ...]]:
        return keys[i], rows[i].prefix[starts[i] :]

    limit = min(limit, LONGEST)
    tree, before = Tree(), -1
    for i in sorted(range(len(rows)), key=place):
        row, start = rows[i], starts[i]
        if before >= 0 and tree.key == keys[i]:
            shared = common_length(rows[before].prefix[start:], row.prefix[start:])
            new = row.cost - start - shared
            size = len(tree.tokens)
            joins = _PAIR * width * shared >= size * new and size + new <= limit
        else:
            joins = False
        if not joins:
            if before >= 0:
                yield tree
            tree = Tree(keys[i], start)
        tree.add(i, row)
        before = i
    if before >= 0:
        yield tree


def side_by_side(trees: Sequence[Tree], width: int) -> list[list[Tree]]:
    """Trees in sequences; only those of the same key share one.

    Of several lengths that of the least work, padding and masked attention counted.

    Args:
        trees: The trees.
        width: d of the model.
    """
    ordered = sorted(trees, key=lambda tree: -len(tree.tokens))
    sizes = [len(tree.tokens) for tree in ordered]
    least = sum(sizes) / sizes[0]
    lengths = {max(sizes[0], ceil(sum(sizes) / ceil(least * k / 8))) for k in range(1, 9)}
    lengths |= {length + sizes[-1] // 2 for length in lengths}
    tried = {n: _fitted(ordered, n) for n in lengths if n <= max(sizes[0], LONGEST)}

    def work(length: int) -> float:
        return len(tried[length]) * length * (1 + length / (_PAIR * width))

    return tried[min(sorted(tried), key=work)]


def _fitted(trees: Sequence[Tree], length: int) -> list[list[Tree]]:
    """Trees, largest first, each where the least room is left over."""
    sequences: list[list[Tree]] = []
    room: dict[int, list[tuple[int, int]]] = {}  # of a key: tokens left, and in which sequence
    for tree in trees:
        size, left = len(tree.tokens), room.setdefault(tree.key, [])
        place = bisect_left(left, (size, 0))
        if place < len(left):
            free, k = left.pop(place)
        else:
            free, k = length, len(sequences)
            sequences.append([])
        sequences[k].append(tree)
        insort(left, (free - size, k))
    return sequences
