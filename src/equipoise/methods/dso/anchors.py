"""The anchors' pull: KL to the base on prompts and texts that should not change."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from equipoise.decisions.decide import Progress
from equipoise.methods.dso import objective
from equipoise.methods.dso.config import DSOConfig
from equipoise.methods.dso.passes import Draw
from equipoise.methods.dso.pools import item_pool, text_pool
from equipoise.methods.method import FitRequest


class AnchorPools:
    """Anchor items and texts with the base's distributions, drawn and pulled on step by step.

    Attributes:
        items: The items.
        texts: The texts.
        opens: What a row gate says of each item and of each text, float32; None without one.
    """

    def __init__(
        self, request: FitRequest, config: DSOConfig, progress: Progress | None = None
    ) -> None:
        self.model, self.config = request.model, config
        items = request.anchors.items
        self.items = item_pool(self.model, items, request.normalise, progress)
        self.texts = text_pool(
            self.model,
            request.anchors.texts,
            length=config.text_length,
            positions=config.text_positions,
            seed=request.seed,
            progress=progress,
        )
        self.opens: tuple[Tensor | None, Tensor | None] = (None, None)

    def draw(self, generator: torch.Generator) -> list[Draw]:
        """A step's anchors, half items and half texts where there are both.

        Under a gate an anchor counts for the divergence to be expected if the gate fires falsely
        at a rate of ``gate_false_firing`` (:meth:`_insured`).
        """
        share = self.config.anchors_per_step
        if len(self.items) and len(self.texts):
            share = max(1, share // 2)
        pools = self.items, self.texts
        drawn = [torch.randperm(len(pool), generator=generator)[:share] for pool in pools]
        count = max(1, sum(map(len, drawn)))
        draws = []
        for pool, rows, opens in zip(pools, drawn, self.opens, strict=True):
            if opens is None:
                weight, opened = torch.ones(len(rows), device=self.model.device), None
            else:
                weight = self._insured(opens[rows])
                rows, weight = rows[weight.cpu() > 0], weight[weight > 0]
                opened = torch.ones_like(weight)
            draws.append(Draw(pool, rows.tolist(), weight / count, opened))
        return draws

    def _insured(self, opens: Tensor) -> Tensor:
        """What an anchor's divergence under the open gate counts for, float32 [n].

        A gate that is shut on every anchor it knows would leave nothing for the fit to hold, and
        fires on other kinds of prompts all the same. A gate half open steers half as much, and the
        divergence grows with the square.
        """
        leak = self.config.gate_false_firing
        return leak + (1 - leak) * opens.square()

    def divergence(self, draws: Sequence[Draw], options: Tensor, kl: Tensor) -> Tensor:
        """Mean KL of drawn anchors to the base, in nats, differentiable.

        The vocabulary's KL hardly sees options that hold little of the probability (he and she in
        a cloze), so the decision of an item among its options is held as well.

        Args:
            draws: What :meth:`draw` gave.
            options: float32 [anchors, K]; their option scores under the steering.
            kl: float32 [anchors]; their KL over the vocabulary.
        """
        weight = torch.cat([draw.weight for draw in draws])
        total = (weight * kl).sum()
        items = draws[0]
        if items.index and self.config.decision_weight:
            base = self.items.options[items.index]
            ours = options[: len(items.index), : base.shape[1]]
            decided = objective.decision_kl(ours, base)
            total = total + self.config.decision_weight * (items.weight * decided).sum()
        return total
