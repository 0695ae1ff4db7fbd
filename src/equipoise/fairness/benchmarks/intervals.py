"""Shares and signed ratios with n and interval; None for an empty cell, never NaN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from equipoise.decisions.decision import Decisions
from equipoise.fairness.evidence import cluster_index, option_probabilities
from equipoise.fairness.interval import (
    TWO_SIDED_95,
    clustered_ratio,
    proportion_interval,
    student_quantile,
)
from equipoise.tasks.item import Item

Cell = dict[str, Any] | None


def share(hits: np.ndarray, twins: Sequence[str]) -> Cell:
    """Share of hits (bool [n]) with Wilson's interval at the effective number of items, and n."""
    if not len(hits):
        return None
    return proportion_interval(hits, cluster_index(twins)).as_dict() | {"n": len(hits)}


def signed_ratio(numerator: np.ndarray, denominator: np.ndarray, twins: Sequence[str]) -> Cell:
    """Ratio in [-1, 1] of two sums (float [n]) with a 95 % interval, and n (the denominator).

    Student interval over twins by the delta method, cut off at -1 and 1. While no twin differs
    from the others their spread cannot be seen, and the half-width is Wilson's for a share of 0,
    z²/(T + z²) for T twins that count. None if the denominator is 0.
    """
    counted = denominator > 0
    if not counted.any():
        return None
    clusters = cluster_index(twins)
    ratio, error, _ = clustered_ratio(numerator, denominator, clusters)
    count = len(np.unique(clusters[counted]))
    if count < 2:
        low, high = -1.0, 1.0
    else:
        half = student_quantile(TWO_SIDED_95, count - 1) * error
        if error < 1e-12:
            half = TWO_SIDED_95**2 / (count + TWO_SIDED_95**2)
        low, high = max(-1.0, ratio - half), min(1.0, ratio + half)
    return {"estimate": ratio, "low": low, "high": high, "n": int(denominator.sum())}


def twins_of(items: Sequence[Item]) -> list[str]:
    """The twin of each item."""
    return [item.twin for item in items]


def greedy_picks(decisions: Decisions) -> np.ndarray:
    """Index of each item's most probable option, int [n]; checked scores."""
    return option_probabilities(decisions, 0).argmax(axis=1)
