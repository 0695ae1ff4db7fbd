"""The places at which a batch's options, or texts, are decided, and what is read off there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.decisions.encode import Encoded


class Step(NamedTuple):
    """The log-probability of ``token`` at node number ``node``; it counts for ``of``."""

    of: int
    node: int
    token: int


class Nodes:
    """The nodes of n rows: places after which a next-token distribution counts.

    First those within what each row's options share, row by row, then the proper beginnings of its
    options beyond that, each once.

    Attributes:
        row: Which row each of the N nodes belongs to.
        pairs: Row and number of each of the P options (of a text: 0).
        steps: What an option's log-probability is the sum of; ``of`` is the option's pair.
        spaces: The same of the prompt's own white space; ``of`` is the row.
        reach: What the log-probability of getting to a node is the sum of; ``of`` is the node.
        before: Nodes within the prompt.
    """

    def __init__(self, rows: Sequence[Encoded]) -> None:
        self.row = [b for b, row in enumerate(rows) for _ in row.positions]
        self.pairs: list[tuple[int, int]] = []
        self.steps: list[Step] = []
        self.spaces: list[Step] = []
        self.reach: list[Step] = []
        self.before: list[int] = []
        start = 0
        for b, row in enumerate(rows):
            read = self._text if row.is_text else self._item
            read(b, row, start)
            start += len(row.positions)

    def _text(self, b: int, row: Encoded, start: int) -> None:
        pair = len(self.pairs)
        self.pairs.append((b, 0))
        for j, position in enumerate(row.positions):
            self.steps.append(Step(pair, start + j, row.prefix[position + 1]))

    def _item(self, b: int, row: Encoded, start: int) -> None:
        shared = [
            (start + j, row.prefix[position + 1]) for j, position in enumerate(row.positions[:-1])
        ]
        last = start + len(shared)
        self.before += range(start, start + row.spacing)
        self.spaces += [Step(b, *step) for step in shared[: row.spacing]]
        to_last = shared[row.spacing :]
        for j in range(len(to_last) + 1):
            self.reach += [Step(start + row.spacing + j, *step) for step in to_last[:j]]
        inside: dict[tuple[int, ...], int] = {}
        for k, suffix in enumerate(row.suffixes):
            pair = len(self.pairs)
            self.pairs.append((b, k))
            way, node = list(to_last), last
            self.steps += [Step(pair, *step) for step in shared]
            for t, token in enumerate(suffix):
                if t >= row.unscored:
                    self.steps.append(Step(pair, node, token))
                if t == len(suffix) - 1:
                    break
                way.append((node, token))
                beginning = suffix[: t + 1]
                if beginning not in inside:
                    inside[beginning] = len(self.row)
                    self.row.append(b)
                    self.reach += [Step(inside[beginning], *step) for step in way]
                node = inside[beginning]

    def weights(self, log_probs: Tensor) -> Tensor:
        """Probability of getting to each node, 0 within the prompt: float32 [N, C].

        Args:
            log_probs: float32 [N, C, V]; next-token log-probabilities at the nodes, C of each.
        """
        found = total(self.reach, log_probs, len(self.row)).exp()
        if self.before:
            inside = torch.zeros(len(self.row), 1, dtype=torch.bool, device=found.device)
            inside[self.before] = True
            found = found.masked_fill(inside, 0.0)
        return found


def total(steps: Sequence[Step], log_probs: Tensor, n: int) -> Tensor:
    """Sums of steps, float32 [n, C], of log-probabilities [N, C, V] at the nodes."""
    out = log_probs.new_zeros(n, log_probs.shape[1])
    if not steps:
        return out
    of, node, token = torch.tensor(steps, device=log_probs.device).unbind(1)
    return out.index_add(0, of, log_probs[node, :, token])
