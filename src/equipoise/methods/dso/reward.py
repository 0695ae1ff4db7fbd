"""The reward, and the side each context's answers currently favour (dso.md, "Objective")."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.methods.dso.pools import Labels
from equipoise.tasks.item import Item


class Majority:
    """S*: how much each context favours each group, followed as the policy moves.

    Keeps the last known deviation of every item from its wanted group shares and averages these
    per context, every twin of it alike, as the metric does. What a step sees of a context corrects
    that average by the change since its items were last seen, so that S* does not lag behind the
    policy by an epoch (a lag makes training swing from side to side).

    Args:
        items: The n ambiguous training items.
        contexts: Their contexts, in the order of the stratified draw.
        labels: What their options mean.
        options: float32 [n, K]; the base model's option scores.
    """

    def __init__(
        self, items: Sequence[Item], contexts: Sequence[str], labels: Labels, options: Tensor
    ) -> None:
        number = {context: c for c, context in enumerate(contexts)}
        pairs = [(i, number[c]) for i, item in enumerate(items) for c in item.contexts]
        self._item = torch.tensor([i for i, _ in pairs])
        self._context = torch.tensor([c for _, c in pairs])
        self._contexts = len(contexts)
        self._labels = labels
        members = Counter((items[i].twin, c) for i, c in pairs)
        self._weights = {(i, c): 1.0 / members[items[i].twin, c] for i, c in pairs}
        self._weight = torch.tensor([self._weights[pair] for pair in pairs])
        self.deviation = deviations(options.softmax(-1).cpu(), labels.group, labels.wanted)
        wanted = self._mean(labels.wanted[self._item], self._weight, self._context)
        self._room = (1 - wanted).clamp(min=1e-6)
        self._offered = (wanted > 0).sum(-1).clamp(min=2)

    def observe(self, rows: Sequence[int], context: Sequence[int], probabilities: Tensor) -> Tensor:
        """Take in option probabilities [n, K] of a step's rows; the excess of their contexts.

        Returns:
            float32 [n, G]; what :meth:`excess` is for each row's context, as of this step.
        """
        index, groups = torch.as_tensor(rows), torch.as_tensor(context)
        labels = self._labels
        fresh = deviations(probabilities.detach().cpu(), labels.group[index], labels.wanted[index])
        weight = torch.tensor([self._weights[pair] for pair in zip(rows, context, strict=True)])
        moved = self._mean(fresh - self.deviation[index], weight, groups)
        now = self._now() + moved
        self.deviation[index] = fresh
        return (now / self._room)[groups]

    def excess(self) -> Tensor:
        """float32 [contexts, G]: each group's share beyond its target, scaled as a bias in [-1, 1].

        For two groups and equal targets this is ±(P(pro) − P(anti)).
        """
        return self._now() / self._room

    def _now(self) -> Tensor:
        return self._mean(self.deviation[self._item], self._weight, self._context)

    def _mean(self, values: Tensor, weight: Tensor, context: Tensor) -> Tensor:
        """Mean over each context's twins of items' values (0 where none is), [contexts, G].

        Args:
            values: float32 [m, G]; of an item in one of its contexts each.
            weight: float32 [m]; one over the items of its twin in that context.
            context: int64 [m].
        """
        total = torch.zeros(self._contexts, values.shape[1])
        total.index_add_(0, context, weight[:, None] * values)
        count = torch.bincount(context, weight, minlength=self._contexts)
        return total / torch.where(count > 0, count, 1.0)[:, None]

    def bias(self) -> float:
        """Mean over contexts of the total variation from the target (two groups: |δ|)."""
        distance = self._now().abs().sum(-1) / 2
        return float((distance / (1 - 1 / self._offered)).mean())


def deviations(probabilities: Tensor, group: Tensor, wanted: Tensor) -> Tensor:
    """Share of each group less its wanted part of the answers that pick one, float32 [n, G].

    Args:
        probabilities: float32 [n, K]; of the options.
        group: float32 [n, K, G]; which group an option picks.
        wanted: float32 [n, G].
    """
    picked = torch.einsum("nk,nkg->ng", probabilities, group)
    return picked - wanted * picked.sum(-1, keepdim=True)


def rewards(
    excess: Tensor,
    group: Tensor,
    wanted: Tensor,
    *,
    kind: Literal["ternary", "paper"],
    width: float,
) -> Tensor:
    """Reward of every option, float32 [n, K].

    ``ternary``: an option earns minus the (smoothed) sign of its group's excess, centred so that
    answers that pick no group earn 0; with two groups E[r] = −|P(pro) − P(anti)| also when some
    answers abstain. ``paper``: −1 for a group in excess, +1 for anything else, abstaining too.

    Args:
        excess: float32 [n, G]; of each row's context.
        group: float32 [n, K, G]; which group an option picks.
        wanted: float32 [n, G]; of each row.
        kind: Which reward.
        width: Bias over which the sign ramps up; 0 for the hard sign.
    """
    sign = excess.sign() if width == 0 else (excess / width).clamp(-1, 1)
    picks = group.sum(-1)
    mine = torch.einsum("nkg,ng->nk", group, sign)
    if kind == "paper":
        return torch.where(picks > 0, -mine, torch.ones_like(mine))
    return -(mine - picks * (sign * wanted).sum(-1, keepdim=True))
