"""The anchors' pull: KL to the base on prompts and texts that should not change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equipoise.decisions.score import Scores, batches, score
from equipoise.methods.dso import objective
from equipoise.methods.dso.config import DSOConfig
from equipoise.methods.dso.pools import Pool, item_pool, text_pool
from equipoise.methods.method import Anchors
from equipoise.models import Model
from equipoise.steering import Attachment


@dataclass(frozen=True)
class Drawn:
    """Row numbers of a step's anchors."""

    items: list[int]
    texts: list[int]


class AnchorPools:
    """Anchor items and texts with the base's distributions, drawn and pulled on step by step."""

    def __init__(self, model: Model, anchors: Anchors, config: DSOConfig, seed: int) -> None:
        self.model, self.config = model, config
        self.items = item_pool(model, anchors.items)
        self.texts = text_pool(
            model,
            anchors.texts,
            length=config.text_length,
            positions=config.text_positions,
            seed=seed,
        )

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
        needs.
        """
        count = max(1, len(drawn.items) + len(drawn.texts))
        total = 0.0
        for pool, rows in ((self.items, drawn.items), (self.texts, drawn.texts)):
            encoded = [pool.rows[i] for i in rows]
            for chunk in batches(encoded, self.config.batch_tokens):
                index = [rows[j] for j in chunk]
                found = score(self.model.hf, [encoded[j] for j in chunk], attachment=attachment)
                divergence = self._divergence(pool, index, found).sum() / count
                if divergence.requires_grad:
                    (weight * divergence).backward()
                total += float(divergence.detach())
        return total

    def _divergence(self, pool: Pool, index: Sequence[int], found: Scores) -> Tensor:
        """KL of each row to the base, float32 [rows].

        The vocabulary's KL hardly sees options that hold little of the probability (he and she in
        a cloze), so the decision of an item among its options is held as well.
        """
        kl = found.kl(base_nodes(pool, index, found))
        if pool.rows[index[0]].is_text or self.config.decision_weight == 0:
            return kl
        base = pool.options[list(index)]
        decided = objective.decision_kl(of_width(found.options, base.shape[1]), base)
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
