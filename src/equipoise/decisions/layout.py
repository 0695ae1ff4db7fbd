"""A batch of rows as the sequences that a model reads: a row each, or trees of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from equipoise.decisions.batch import Batch
from equipoise.decisions.encode import Encoded
from equipoise.decisions.forward import left_pad
from equipoise.decisions.trees import Tree
from equipoise.models.backbone import weights_dtype
from equipoise.models.model import input_device

if TYPE_CHECKING:
    from equipoise.decisions.prefixes import Cached


@dataclass(frozen=True)
class Layout:
    """Where the tokens of n rows lie in S sequences of T columns.

    Attributes:
        ids: int64 [S, T].
        positions: int64 [S, T]; of each token in its row, cached ones counted.
        mask: int64 [S, T], 1 on real tokens, where a row is a sequence; of trees bool [S, T, T],
            which tokens each attends to.
        sequence: Which sequence each row lies in.
        columns: Of each row, where the tokens of its prefix are that are not cached.
        options: Of each row, where the proper beginnings of its options end; None: not laid out.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    sequence: list[int]
    columns: Sequence[Sequence[int]]
    options: list[list[int]] | None = None

    def inputs(
        self, model: nn.Module, cached: Cached | None, copies: int
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        """What :func:`forward` takes to read the sequences, ``copies`` of each side by side.

        Args:
            model: What reads them.
            cached: What lies before the sequences, of all copies; None: nothing.
            copies: How often each is read.

        Returns:
            Ids, mask and positions on the model's device, and the cache, as keyword arguments.
        """
        device = input_device(model)
        ids, mask, positions = (v.to(device) for v in (self.ids, self.mask, self.positions))
        how: dict[str, Any] = {}
        before = mask[..., :0]
        if cached is not None:
            how = {"use_cache": True, "past_key_values": cached.cache}
            before = cached.mask[::copies].to(mask)  # copies have the same
            if mask.ndim == 3:
                before = before[:, None].expand(-1, mask.shape[1], -1)
        mask = torch.cat([before, mask], -1)
        if mask.ndim == 3:
            dtype = weights_dtype(model)
            added = torch.zeros(mask.shape, dtype=dtype, device=device)
            mask = added.masked_fill_(~mask, torch.finfo(dtype).min)[:, None]
        if copies > 1:
            ids, mask, positions = (v.repeat_interleave(copies, 0) for v in (ids, mask, positions))
        return ids, mask, positions, how


def lay_out(batch: Batch) -> Layout:
    """The sequences of a batch, padded on the left (with token 0, which nothing attends to)."""
    if batch.sequences is None:
        return _row_by_row(batch.rows, batch.starts)
    return _tree_by_tree(batch.rows, batch.sequences)


def _row_by_row(rows: Sequence[Encoded], starts: Sequence[int]) -> Layout:
    ids, mask = left_pad([row.prefix[n:] for row, n in zip(rows, starts, strict=True)], 0)
    width = ids.shape[1]
    positions = ((mask.cumsum(1) - 1) + torch.tensor(starts)[:, None]).clamp(min=0)
    columns = [
        range(width - len(row.prefix) + n, width) for row, n in zip(rows, starts, strict=True)
    ]
    return Layout(ids, positions, mask, list(range(len(rows))), columns)


def _tree_by_tree(rows: Sequence[Encoded], sequences: Sequence[Sequence[Tree]]) -> Layout:
    """Tokens after which something is decided come last: few columns hold them, and need logits.

    With positions and a mask of its own for each token, the order does not matter.
    """
    width = max(sum(len(tree.tokens) for tree in trees) for trees in sequences)
    ids, positions = np.zeros((2, len(sequences), width), dtype=np.int64)
    mask = np.zeros((len(sequences), width, width), dtype=bool)
    mask[:, np.arange(width), np.arange(width)] = True  # padding attends to itself
    sequence = [0] * len(rows)
    columns: list[Sequence[int]] = [()] * len(rows)
    options: list[list[int]] = [[]] * len(rows)
    for s, trees in enumerate(sequences):
        size = sum(len(tree.tokens) for tree in trees)
        decided = np.zeros(size, dtype=bool)
        offset = 0
        for tree in trees:
            for number, prompt in tree.prompts.items():
                decided[[offset + prompt[p - tree.start] for p in rows[number].positions]] = True
                decided[[offset + place for place in tree.options[number]]] = True
            offset += len(tree.tokens)
        # Where each token goes: its rank among those before the decided ones, or among these.
        order = np.argsort(decided, kind="stable")
        place = np.empty(size, dtype=np.int64)
        place[order] = np.arange(width - size, width)
        offset = 0
        for tree in trees:
            here = place[offset : offset + len(tree.tokens)]
            offset += len(tree.tokens)
            ids[s, here] = tree.tokens
            positions[s, here] = np.array(tree.depths) + tree.start
            mask[s, here[:, None], here[None]] = tree.follows()
            for number, prompt in tree.prompts.items():
                sequence[number] = s
                columns[number] = here[prompt].tolist()
                options[number] = here[tree.options[number]].tolist()
    tensors = torch.from_numpy(ids), torch.from_numpy(positions), torch.from_numpy(mask)
    return Layout(*tensors, sequence, columns, options)
