"""Batches of token rows: which rows go through the model at once, and which share a sequence."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any

import torch
from torch import nn

from equipoise.decisions.arguments import arguments
from equipoise.decisions.encode import Encoded
from equipoise.decisions.forward import left_pad
from equipoise.decisions.trees import Tree, grow, side_by_side
from equipoise.decisions.trials import agree, passes, probe
from equipoise.models.backbone import text_config
from equipoise.models.model import input_device

CACHED_PER_TOKEN = 16
"""Cached tokens that may lie before each token of a batch: they cost memory, hardly time."""


# No mask keeps padding out of recurrent states and compressed blocks; positions that count columns.
_COUNTS_PADDING = {"deepseek_v4", "git", "recurrent_gemma"}


def counts_padding(model: nn.Module) -> bool:
    """Whether padding before a prompt changes what a model answers.

    Listed are those found by reading padded rows and single ones with every architecture of
    transformers 5.23; a model that does not name its positions is tried without (``generate`` does
    not tell it any), once.
    """
    if text_config(model).model_type in _COUNTS_PADDING:
        return True
    return "position_ids" not in arguments(model) and not passes(model, _reads_padded)


def _reads_padded(model: nn.Module) -> bool | None:
    """Try a row and its end, which is padded."""
    row = probe(model, 16)
    found = []
    for rows in ([row, row[10:]], [row], [row[10:]]):
        ids, mask = left_pad(rows, 0, input_device(model))
        found.append(model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, -1])
    return agree(found[0], torch.cat(found[1:]))


@dataclass(frozen=True)
class Batch:
    """Rows that go through a model at once, all items or all texts.

    Attributes:
        index: Their numbers.
        rows: The n rows.
        starts: How many tokens of each are cached beforehand.
        sequences: The trees they are read in, some to a sequence, with rows by their places in
            ``rows``; None: each row is a sequence of its own.
    """

    index: list[int]
    rows: list[Encoded]
    starts: list[int]
    sequences: list[list[Tree]] | None = None

    @classmethod
    def of(cls, rows: Sequence[Encoded]) -> Batch:
        """Rows, each a sequence, read from its beginning."""
        return cls(list(range(len(rows))), list(rows), [0] * len(rows))

    @cached_property
    def first(self) -> list[int]:
        """Of each sequence one row, by its place in ``rows``."""
        if self.sequences is None:
            return list(range(len(self.rows)))
        return [next(iter(trees[0].prompts)) for trees in self.sequences]

    @property
    def beginnings(self) -> list[tuple[int, ...]]:
        """The cached tokens before each sequence."""
        return [self.rows[i].prefix[: self.starts[i]] for i in self.first]

    @property
    def tokens(self) -> int:
        """How many tokens go through the model, padding included."""
        if self.sequences is None:
            costs = (row.cost - n for row, n in zip(self.rows, self.starts, strict=True))
            return len(self.rows) * max(costs)
        sizes = (sum(len(tree.tokens) for tree in trees) for trees in self.sequences)
        return len(self.sequences) * max(sizes)

    @property
    def room(self) -> float:
        """What it takes of a budget: its tokens, or as many as its cached ones weigh."""
        cached = len(self.first) * max(self.starts)
        return max(self.tokens, cached / CACHED_PER_TOKEN)


def batches(
    model: nn.Module,
    rows: Sequence[Encoded],
    budget: int,
    copies: int = 1,
    starts: Sequence[int] | None = None,
    kinds: Sequence[Any] | None = None,
) -> Iterator[Batch]:
    """Rows in batches, at most ``budget`` tokens each.

    Items and texts are never mixed, nor rows that share a beginning and rows that do not; rows of
    the same beginning follow each other. For a model that counts padding, rows are of one length.

    Args:
        model: What reads them.
        rows: The rows.
        budget: Tokens that may go through the model at once.
        copies: How often each row is repeated in its batch.
        starts: How many leading tokens of each row are cached beforehand.
        kinds: Items of the same kind, cached beginning included, may share a sequence
            (:mod:`equipoise.decisions.packing`); None: none may.
    """
    ahead = list(starts or [0] * len(rows))
    items = [i for i, row in enumerate(rows) if not row.is_text]
    if kinds is None or len(items) < 2:
        yield from _rows(model, rows, range(len(rows)), budget, copies, ahead)
        return
    yield from _trees(model, rows, items, budget // copies, ahead, kinds)
    texts = [i for i, row in enumerate(rows) if row.is_text]
    yield from _rows(model, rows, texts, budget, copies, ahead)


def _rows(
    model: nn.Module,
    rows: Sequence[Encoded],
    some: Sequence[int],
    budget: int,
    copies: int,
    starts: list[int],
) -> Iterator[Batch]:
    """Batches of similar length, each row a sequence."""
    counts = counts_padding(model)

    def kind(i: int) -> tuple[int, ...]:
        row, n = rows[i], starts[i]
        return (row.is_text, n, len(row.prefix)) if counts else (row.is_text, n > 0)

    def place(i: int) -> tuple[Any, ...]:
        row, n = rows[i], starts[i]
        return kind(i), n, row.prefix[:n], len(row.prefix), i

    def batch(index: list[int]) -> Batch:
        return Batch(index, [rows[i] for i in index], [starts[i] for i in index])

    index: list[int] = []
    longest = cached = 0
    for i in sorted(some, key=place):
        tail = rows[i].cost - starts[i]
        longest, cached = max(longest, tail), max(cached, starts[i])
        width = max(longest, cached / CACHED_PER_TOKEN)
        full = (len(index) + 1) * width * copies > budget
        if index and (full or kind(index[0]) != kind(i)):
            yield batch(index)
            index, longest, cached = [], tail, starts[i]
        index.append(i)
    if index:
        yield batch(index)


def _trees(
    model: nn.Module,
    rows: Sequence[Encoded],
    some: Sequence[int],
    budget: int,
    starts: list[int],
    kinds: Sequence[Any],
) -> Iterator[Batch]:
    """Batches of trees of similar size; those after the same beginning follow each other."""
    numbers: dict[tuple[Any, ...], int] = {}
    keys = [numbers.setdefault((kinds[i], rows[i].prefix[: starts[i]]), len(numbers)) for i in some]
    items, ahead = [rows[i] for i in some], [starts[i] for i in some]
    width = text_config(model).hidden_size
    trees = list(grow(items, ahead, keys, width, budget))
    largest: dict[int, int] = {}
    for tree in trees:
        largest[tree.key] = max(len(tree.tokens), largest.get(tree.key, 0))

    def place(tree: Tree) -> tuple[Any, ...]:
        return tree.start > 0, largest[tree.key], tree.key, len(tree.tokens)

    waiting = deque(sorted(trees, key=place))
    while waiting:
        taken = _next(waiting, budget)
        batch = _together(taken, rows, some, width)
        while len(taken) > 1 and batch.room > budget:
            waiting.appendleft(taken.pop())
            batch = _together(taken, rows, some, width)
        yield batch


def _next(waiting: deque[Tree], budget: int) -> list[Tree]:
    """Take those trees that fit into a batch if their sequences can be filled."""
    taken: list[Tree] = []
    tokens: Counter[int] = Counter()
    longest = cached = 0.0
    rows = True
    while waiting:
        tree = waiting[0]
        tokens[tree.key] += len(tree.tokens)
        longest, cached = max(longest, len(tree.tokens)), max(cached, tree.start)
        rows = rows and tree.is_row
        sequences = len(taken) + 1 if rows else sum(ceil(n / longest) for n in tokens.values())
        full = sequences * max(longest, cached / CACHED_PER_TOKEN) > budget
        if taken and (full or (taken[0].start > 0) != (tree.start > 0)):
            break
        taken.append(waiting.popleft())
    return taken


def _together(
    trees: Sequence[Tree], rows: Sequence[Encoded], some: Sequence[int], width: int
) -> Batch:
    """A batch of trees, in sequences unless all are rows; they number ``some`` of the rows."""
    numbers = [number for tree in trees for number in tree.prompts]
    starts = [tree.start for tree in trees for _ in tree.prompts]
    sequences = None
    if not all(tree.is_row for tree in trees):
        place = {number: k for k, number in enumerate(numbers)}
        sequences = side_by_side([tree.renumbered(place) for tree in trees], width)
    index = [some[number] for number in numbers]
    return Batch(index, [rows[i] for i in index], starts, sequences)
