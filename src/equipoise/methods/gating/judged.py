"""What a probe says of prompts that it was not fitted on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from equipoise.methods.gating.examples import POSITIVE, Examples
from equipoise.methods.gating.probe import logits_of
from equipoise.steering import Gate

JudgedOn = Literal["held-out", "cross-validated", "training"]
_FOLDS = 5


@dataclass(frozen=True)
class Judged:
    """Prompts with a probe's logits.

    Attributes:
        examples: n prompts, of both sides.
        logits: float32 [n].
        on: ``held-out`` prompts; where these lack a side, the trained ones, each judged by a probe
            fitted without its fold (``cross-validated``); where a side has a single twin, by the
            probe that was fitted on it (``training``), which promises nothing.
        crossed: Kinds of negatives that the held-out prompts lack: of these, the trained ones,
            cross-validated.
    """

    examples: Examples
    logits: np.ndarray
    on: JudgedOn
    crossed: tuple[str, ...] = ()

    def small_kinds(self, rate: float | None) -> tuple[tuple[str, ...], bool]:
        """Kinds of negatives of fewer twins than a false-firing rate can be told by, 1/rate.

        By itself such a kind would demand that none of its prompts fires, and one odd prompt would
        set the threshold for all the others.

        Returns:
            Their names, and whether they count together: if they have so many twins together, or
            if there is no larger kind. A rate of 0 is told by any number.
        """
        examples = self.examples
        twins = {kind: self._twins([kind]) for kind in examples.negative_kinds}
        least = 1 / rate - 1e-9 if rate else 0
        small = tuple(kind for kind, count in twins.items() if count < least)
        return small, bool(small) and (len(small) == len(twins) or self._twins(small) >= least)

    def limits(self, rate: float) -> list[np.ndarray]:
        """The logits of each kind that must keep a rate; small ones together, or not at all."""
        kinds = self.examples.kinds
        small, together = self.small_kinds(rate)
        alone = [kind for kind in self.examples.negative_kinds if kind not in small]
        found = [self.logits[kinds == kind] for kind in alone]
        return [*found, self.logits[np.isin(kinds, small)]] if together else found

    def _twins(self, kinds: Sequence[str]) -> int:
        return len(np.unique(self.examples.clusters[np.isin(self.examples.kinds, kinds)]))


def judge(
    gate: Gate, fit: Callable[[Examples], Gate], train: Examples, held_out: Examples
) -> Judged:
    """Find the prompts to judge a gate by, and what its probe says of them.

    Args:
        gate: Fitted on ``train``.
        fit: How it was fitted.
        train: Of both sides.
        held_out: May be empty, or of one side.
    """
    if not held_out.two_sided:
        crossed = _cross_validated(fit, train)
        if crossed is None:
            return Judged(train, logits_of(gate, train), "training")
        return Judged(train, crossed, "cross-validated")
    logits = logits_of(gate, held_out)
    lacking = ~np.isin(train.kinds, [POSITIVE, *held_out.negative_kinds])
    crossed = _cross_validated(fit, train) if lacking.any() else None
    if crossed is None:
        return Judged(held_out, logits, "held-out")
    others = train.only(lacking)
    logits = np.concatenate([logits, crossed[lacking]])
    return Judged(held_out + others, logits, "held-out", tuple(others.negative_kinds))


def _cross_validated(fit: Callable[[Examples], Gate], train: Examples) -> np.ndarray | None:
    """Logits [n], each of a probe fitted without its fold; None where a side has a single twin."""
    logits = np.full(len(train), np.nan, np.float32)
    for fold in _folds(train):
        rest = np.setdiff1d(np.arange(len(train)), fold)
        if not train.only(rest).two_sided:
            return None
        logits[fold] = logits_of(fit(train.only(rest)), train.only(fold))
    return None if np.isnan(logits).any() else logits


def _folds(examples: Examples) -> Iterator[np.ndarray]:
    """Row numbers of each fold: whole twins, both sides evenly; none where a side has one twin."""
    from sklearn.model_selection import StratifiedGroupKFold

    opens, clusters = examples.opens, examples.clusters
    count = min(_FOLDS, *(len(np.unique(clusters[side])) for side in (opens, ~opens)))
    if count < 2:
        return
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        # What cannot be spread evenly is still spread.
        warnings.simplefilter("ignore", UserWarning)
        for _, fold in folds.split(opens, opens, clusters):
            yield fold
