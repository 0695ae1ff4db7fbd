"""How well a probe ranks and how true its p is, with twins as the independent units."""

from __future__ import annotations

import numpy as np

from equipoise.fairness.interval import LEVEL, Interval

_BINS = 10
_RESAMPLES, _CHUNK = 1000, 100


def ranks_by_chance(logits: np.ndarray, opens: np.ndarray, clusters: np.ndarray) -> float:
    """p-value of the one-sided Mann-Whitney test that a probe ranks no better than chance.

    Of the twins' mean ranks, one for each side that a twin is on: copies of a prompt are no new
    evidence. Where a twin is on both sides its two means rise and fall together, which only makes
    the test more careful.

    Args:
        logits: float [n].
        opens: Whether the gate should open, bool [n], of both sides.
        clusters: int [n].
    """
    from scipy.stats import mannwhitneyu, rankdata

    if np.ptp(logits) == 0:
        return 1.0
    ranks = rankdata(logits)

    def means(side: np.ndarray) -> np.ndarray:
        number = np.unique(clusters[side], return_inverse=True)[1].reshape(-1)
        return np.asarray(np.bincount(number, weights=ranks[side]) / np.bincount(number))

    return float(mannwhitneyu(means(opens), means(~opens), alternative="greater").pvalue)


def figures(logits: np.ndarray, opens: np.ndarray, clusters: np.ndarray) -> dict[str, Interval]:
    """AUROC, balanced accuracy, Brier score and calibration error with 95 % intervals.

    Percentile intervals of a bootstrap over twins; of the calibration error, which resampling
    raises, the basic interval. Where nothing overlaps, no resample does either, and the interval
    is a point. Where a side is of a single twin, nothing is known: 0 to 1.

    Args:
        logits: float [n].
        opens: bool [n], of both sides.
        clusters: int [n].

    Returns:
        ``auroc``, ``balanced_accuracy`` (at p = 1/2), ``brier`` and ``calibration_error`` (in ten
        equal bins of p); in the last three either side weighs alike.
    """
    names = ("auroc", "balanced_accuracy", "brier", "calibration_error")
    order = np.argsort(logits, kind="stable")
    logits, opens = logits[order].astype(np.float64), opens[order]
    number = np.unique(clusters[order], return_inverse=True)[1].reshape(-1)
    count = int(number.max()) + 1
    (estimate,) = _weighed(logits, opens, np.ones((1, len(logits))))
    if min(len(np.unique(number[side])) for side in (opens, ~opens)) < 2:
        return {k: Interval(float(e), 0.0, 1.0) for k, e in zip(names, estimate, strict=True)}
    rng = np.random.default_rng(0)
    found = np.concatenate(
        [
            _weighed(
                logits,
                opens,
                rng.multinomial(count, np.full(count, 1 / count), size=_CHUNK)[:, number],
            )
            for _ in range(_RESAMPLES // _CHUNK)
        ]
    )
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(found, [tail, 1 - tail], axis=0)
    low[3], high[3] = 2 * estimate[3] - high[3], 2 * estimate[3] - low[3]
    low, high = np.clip(np.minimum(low, estimate), 0, 1), np.clip(np.maximum(high, estimate), 0, 1)
    return {
        name: Interval(float(e), float(a), float(b))
        for name, e, a, b in zip(names, estimate, low, high, strict=True)
    }


def _weighed(logits: np.ndarray, opens: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The four figures [B, 4] where prompts, sorted by logit [n], come ``times`` [B, n] each.

    NaN where a side is missing.
    """
    one, other = times * opens, times * ~opens
    with np.errstate(invalid="ignore", divide="ignore"):
        one, other = one / one.sum(1, keepdims=True), other / other.sum(1, keepdims=True)
    # Equal logits count half: what lies below the first of them, and half of what lies at them.
    start = np.flatnonzero(np.diff(logits, prepend=-np.inf))
    at, at_one = (np.add.reduceat(side, start, axis=1) for side in (other, one))
    auroc = (at_one * (at.cumsum(1) - at / 2)).sum(1)
    p = 1 / (1 + np.exp(-np.maximum(logits, -700)))
    both = (one + other) / 2
    right = both @ ((p >= 0.5) == opens)
    brier = both @ np.square(p - opens)
    bins = np.eye(_BINS)[np.minimum((p * _BINS).astype(int), _BINS - 1)]
    gaps = (both * (p - opens)) @ bins
    return np.stack([auroc, right, brier, np.abs(gaps).sum(1)], axis=1)
