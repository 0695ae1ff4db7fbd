"""What a model decided: option scores of a list of items at one strength (numpy only)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from equipoise.tasks.item import Item


@dataclass(frozen=True, repr=False)
class Decisions:
    """Option scores of items at one strength.

    Attributes:
        items: The n items, in order.
        scores: float64 [n, k]; log-probability of each option's tokens in nats, ``-inf`` beyond
            an item's own options (k = the largest number of options).
        kl: float64 [n] or None; KL(steered ‖ base) in nats over the full vocabulary at the
            decision positions.
        strength: ω at which they were taken.
    """

    items: tuple[Item, ...]
    scores: np.ndarray
    kl: np.ndarray | None = None
    strength: float = 0.0

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"Decisions({len(self)} items, strength {self.strength:g})"

    @property
    def mass(self) -> np.ndarray:
        """float64 [n]: raw probability the options hold together (of all the model could say)."""
        return np.exp(np.logaddexp.reduce(self.scores, axis=1))

    def probabilities(self, temperature: float = 1.0) -> np.ndarray:
        """float64 [n, k]: softmax of the scores at a temperature; 0 means greedy (one-hot)."""
        if temperature == 0:
            return np.eye(self.scores.shape[1])[self.scores.argmax(axis=1)]
        scaled = self.scores / temperature
        weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    def subset(self, keep: Sequence[int] | Callable[[Item], bool]) -> Decisions:
        """The decisions on some items, by index or by a predicate on the item."""
        if callable(keep):
            keep = [i for i, item in enumerate(self.items) if keep(item)]
        index = np.asarray(keep, dtype=int)
        return replace(
            self,
            items=tuple(self.items[i] for i in index),
            scores=self.scores[index],
            kl=None if self.kl is None else self.kl[index],
        )
