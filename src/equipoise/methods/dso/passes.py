"""A step's rows through the steered model: one pass where they fit, bounded memory where not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equipoise.decisions.batch import Batch, batches
from equipoise.decisions.packing import packable_kinds
from equipoise.decisions.score import Normalise, Scores, score
from equipoise.methods.dso.pools import Pool
from equipoise.steering import Attachment


@dataclass(frozen=True)
class Draw:
    """Rows drawn from a pool for a step.

    Attributes:
        pool: Where from.
        index: Which n rows of it.
        weight: float32 [n]; what each counts for in its pool's mean.
        opens: float32 [n]; what a row gate says of them; None: it is asked in the pass, or none.
    """

    pool: Pool
    index: list[int]
    weight: Tensor
    opens: Tensor | None


class Pass:
    """Draws from several pools, read together.

    If all rows fit into ``batch_tokens``, one graph serves forward and backward. Otherwise the
    forward pass keeps no graph, and :meth:`backward` reads the rows again chunk by chunk, each
    with the loss's gradient in its scores: the same gradient for a third more time, in memory
    that does not grow with the step (gradient caching, arXiv 2101.06983, section 3.2).

    Attributes:
        options: float32 [rows, width]; option scores, ``-inf`` where there is none (a text has one
            column); of the draws' rows, one draw after the other.
        kl: float32 [rows]; each row's KL to the base, in nats.
    """

    def __init__(
        self,
        model: nn.Module,
        attachment: Attachment,
        draws: Sequence[Draw],
        *,
        width: int,
        normalise: Normalise,
        batch_tokens: int,
    ) -> None:
        self._model, self._attachment = model, attachment
        self._width, self._normalise = width, normalise
        where = [(draw, i) for draw in draws for i in draw.index]
        self._rows = [draw.pool.rows[i] for draw, i in where]
        self._base = [draw.pool.nodes[i] for draw, i in where]
        opens = [draw.opens for draw in draws if draw.opens is not None]
        self._opens = torch.cat(opens) if opens else None
        kinds = packable_kinds(model, len(self._rows), attachment, self._opens)
        self._chunks = list(batches(model, self._rows, batch_tokens, kinds=kinds))
        self._split = sum(chunk.tokens for chunk in self._chunks) > max(
            batch_tokens, max(row.cost for row in self._rows)
        )
        with torch.set_grad_enabled(not self._split):
            read = [self._read(chunk) for chunk in self._chunks]
        order = torch.tensor([i for chunk in self._chunks for i in chunk.index]).argsort()
        self.options = torch.cat([options for options, _ in read])[order.to(read[0][0].device)]
        self.kl = torch.cat([kl for _, kl in read])[order.to(read[0][1].device)]
        if self._split:
            self.options.requires_grad_()
            self.kl.requires_grad_()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss of ``options`` and ``kl`` to the steering's parameters."""
        loss.backward()
        if not self._split:
            return
        by_options, by_kl = self.options.grad, self.kl.grad
        for chunk in self._chunks:
            options, kl = self._read(chunk)
            shares = [
                (part, gradient[chunk.index])
                for part, gradient in ((options, by_options), (kl, by_kl))
                if gradient is not None and part.requires_grad
            ]
            if shares:
                parts, gradients = zip(*shares, strict=True)
                torch.autograd.backward(parts, gradients)

    def _read(self, chunk: Batch) -> tuple[Tensor, Tensor]:
        """Option scores and KL of some rows, [rows, width] and [rows]."""
        found = score(
            self._model,
            chunk,
            attachment=self._attachment,
            decisions=None if self._opens is None else self._opens[chunk.index],
        )
        options = found.scored(self._normalise)
        beyond = self._width - options.shape[1]
        options = nn.functional.pad(options, (0, beyond), value=float("-inf"))
        return options, found.kl(_in_node_order([self._base[i] for i in chunk.index], found))


def _in_node_order(stacked: Sequence[Tensor], found: Scores) -> Tensor:
    """The base's distributions at a batch's nodes, from those of each row, float [N, V]."""
    order = torch.argsort(found.row, stable=True)  # stacked by row; nodes may not be
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return torch.cat(list(stacked))[place]
