"""The anchors' pull: KL to the base on prompts and texts that should not change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equipoise.decisions.batch import batches
from equipoise.decisions.score import Scores, score
from equipoise.methods.dso import objective
from equipoise.methods.dso.config import DSOConfig
from equipoise.methods.dso.pools import Pool, item_pool, text_pool
from equipoise.methods.method import FitRequest
from equipoise.steering import Attachment


@dataclass(frozen=True)
class Drawn:
    """Row numbers of a step's anchors."""

    items: list[int]
    texts: list[int]


class AnchorPools:
    """Anchor items and texts with the base's distributions, drawn and pulled on step by step.

    Attributes:
        items: The items.
        texts: The texts.
        opens: What a row gate says of each item and of each text, float32; None without one.
    """

    def __init__(self, request: FitRequest, config: DSOConfig) -> None:
        self.model, self.config, self.normalise = request.model, config, request.normalise
        self.items = item_pool(self.model, request.anchors.items, self.normalise)
        self.texts = text_pool(
            self.model,
            request.anchors.texts,
            length=config.text_length,
            positions=config.text_positions,
            seed=request.seed,
        )
        self.opens: tuple[Tensor | None, Tensor | None] = (None, None)

    def draw(self, generator: torch.Generator) -> Drawn:
        """A step's anchors, half items and half texts where there are both."""
        share = self.config.anchors_per_step
        if len(self.items) and len(self.texts):
            share = max(1, share // 2)
        items = torch.randperm(len(self.items), generator=generator)[:share].tolist()
        texts = torch.randperm(len(self.texts), generator=generator)[:share].tolist()
        return Drawn(items, texts)

    def backward(self, attachment: Attachment, drawn: Drawn, weight: float) -> float:
        """Add the gradient of ``weight`` times the mean divergence; returns that mean, in nats.

        Goes over the anchors in small batches, so that long prompts do not set the memory a step
        needs. Under a gate it is the mean to be expected if the gate fires falsely at a rate of
        ``gate_false_firing`` (:meth:`_insured`).
        """
        count = max(1, len(drawn.items) + len(drawn.texts))
        total = 0.0
        pools = zip((self.items, self.texts), (drawn.items, drawn.texts), self.opens, strict=True)
        for pool, drawn_rows, opens in pools:
            chance = None if opens is None else self._insured(opens)
            rows = [i for i in drawn_rows if chance is None or float(chance[i]) > 0]
            encoded = [pool.rows[i] for i in rows]
            for chunk in batches(encoded, self.config.batch_tokens):
                index = [rows[j] for j in chunk]
                found = score(
                    self.model.hf,
                    [encoded[j] for j in chunk],
                    attachment=attachment,
                    decisions=None if chance is None else torch.ones(len(index)),
                )
                divergence = self._divergence(pool, index, found)
                if chance is not None:
                    divergence = chance[index] * divergence
                divergence = divergence.sum() / count
                if divergence.requires_grad:
                    (weight * divergence).backward()
                total += float(divergence.detach())
        return total

    def _insured(self, opens: Tensor) -> Tensor:
        """What an anchor's divergence under the open gate counts for, float32 [n].

        A gate that is shut on every anchor it knows would leave nothing for the fit to hold, and
        fires on other kinds of prompts all the same. A gate half open steers half as much, and the
        divergence grows with the square.
        """
        leak = self.config.gate_false_firing
        return leak + (1 - leak) * opens.square()

    def _divergence(self, pool: Pool, index: Sequence[int], found: Scores) -> Tensor:
        """KL of each row to the base, float32 [rows].

        The vocabulary's KL hardly sees options that hold little of the probability (he and she in
        a cloze), so the decision of an item among its options is held as well.
        """
        kl = found.kl(base_nodes(pool, index, found))
        if pool.rows[index[0]].is_text or self.config.decision_weight == 0:
            return kl
        base = pool.options[list(index)]
        options = of_width(found.scored(self.normalise), base.shape[1])
        decided = objective.decision_kl(options, base)
        return kl + self.config.decision_weight * decided


def base_nodes(pool: Pool, index: Sequence[int], found: Scores) -> Tensor:
    """The base's distributions at the nodes of a batch drawn from a pool, in its node order."""
    stacked = torch.cat([pool.nodes[i] for i in index])
    order = torch.argsort(found.row, stable=True)  # stacked by row; nodes may not be
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return stacked[place]


def of_width(options: Tensor, width: int) -> Tensor:
    """Scores [n, K] with ``width`` columns: a batch is as wide as the most options in it."""
    return nn.functional.pad(options, (0, width - options.shape[1]), value=float("-inf"))
