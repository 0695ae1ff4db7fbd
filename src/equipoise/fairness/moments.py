"""Means and variances of the contexts behind the bias estimate (docs/metrics.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from equipoise.fairness.evidence import Evidence, sums


@dataclass(frozen=True)
class Moments:
    """Means and variances of the C usable contexts from their R rows of G groups.

    Deviations are scaled so that a context's squared length is at least the square of its bias,
    and equal to it for two groups.

    Attributes:
        context: int [R].
        twin: int [R].
        share: float64 [R, G], what the twin adds to its context's mean.
        error: float64 [R, G], the twin's independent part of the error of that mean: the sum of
            its outer products over a context estimates the covariance of the mean.
        mean: float64 [C, G].
        twins: int [C].
        effective: float64 [C], twins that carry the mean: fewer than ``twins`` where it is
            conditional on answering and most of them abstain.
        unbiased: float64 [C], squared length of the mean less its variance.
        variance: float64 [C], of ``unbiased``.
        distance: float64 [C], the observed bias.
        parity: float64 [C], its expectation at parity.
        ceiling: float64 [C], the largest possible bias.
    """

    context: np.ndarray
    twin: np.ndarray
    share: np.ndarray
    error: np.ndarray
    mean: np.ndarray
    twins: np.ndarray
    effective: np.ndarray
    unbiased: np.ndarray
    variance: np.ndarray
    distance: np.ndarray
    parity: np.ndarray
    ceiling: np.ndarray


def moments_of(evidence: Evidence, kept: np.ndarray, conditional: bool) -> Moments:
    """Reduce the rows of the ``kept`` contexts (bool [C]) to their means and variances.

    With ``conditional`` the mean of a context is the ratio of its totals, deviation to answered.
    """
    rows = kept[evidence.context]
    context = (np.cumsum(kept) - 1)[evidence.context[rows]]
    twins = np.bincount(context)
    k = evidence.offered[kept]
    normaliser = 1 - 1 / k
    # √K · ‖δ‖₂ ≥ ‖δ‖₁ (Cauchy-Schwarz; equal for K = 2), and the distance is ‖δ‖₁ / 2.
    scale = np.sqrt(k) / (2 * normaliser)

    deviation = evidence.deviation[rows] * scale[context, None]
    weight = evidence.answered[rows] if conditional else np.ones(len(context))
    total = np.bincount(context, weights=weight)
    mean = sums(deviation, context, len(twins)) / total[:, None]
    residual = deviation - weight[:, None] * mean[context]
    # A ratio of totals linearised at its estimate. A residual is too small by the twin's leverage
    # (CR2, Bell & McCaffrey 2002); with unit weights that is n/(n − 1), the variance of a mean.
    leverage = weight / total[context]
    error = residual / (total[context] * np.sqrt(1 - leverage))[:, None]

    outer = np.einsum("rg,rh->rgh", error, error)
    covariance = np.zeros((len(twins), *outer.shape[1:]))
    np.add.at(covariance, context, outer)
    squared = np.einsum("cgh,cgh->c", covariance, covariance)
    signal = np.einsum("cg,cgh,ch->c", mean, covariance, mean) - squared
    variances = np.einsum("cgg->cg", covariance)
    to_distance = 1 / np.sqrt(k)
    return Moments(
        context=context,
        twin=evidence.twin[rows],
        share=deviation / total[context, None],
        error=error,
        mean=mean,
        twins=twins,
        effective=total**2 / np.bincount(context, weights=weight**2),
        unbiased=(mean**2).sum(axis=1) - variances.sum(axis=1),
        variance=4 * np.maximum(signal, 0) + 2 * squared,
        distance=np.abs(mean).sum(axis=1) * to_distance,
        parity=math.sqrt(2 / math.pi) * np.sqrt(variances).sum(axis=1) * to_distance,
        ceiling=evidence.farthest[kept] / normaliser,
    )


def shared_variance(moments: Moments) -> float:
    """What twins that speak about several contexts add to the variance of the summed squares.

    For contexts o ≠ p with C the covariance of their means: 4 m_o'C m_p − 2‖C‖² each way (0 for
    contexts without a common twin). A negative sum is not taken credit for.
    """
    order = np.argsort(moments.twin, kind="stable")
    twin, context, error = moments.twin[order], moments.context[order], moments.error[order]
    pairs: list[np.ndarray] = []
    for lag in range(1, int(np.bincount(twin).max())):
        left = np.flatnonzero(twin[lag:] == twin[:-lag])
        pairs.append(np.stack([left, left + lag]))
    if not pairs:
        return 0.0
    left, right = np.concatenate(pairs, axis=1)
    count = len(moments.twins)
    codes, pair = np.unique(context[left] * count + context[right], return_inverse=True)
    blocks = np.zeros((len(codes), error.shape[1], error.shape[1]))
    np.add.at(blocks, pair, np.einsum("rg,rh->rgh", error[left], error[right]))
    first, second = np.divmod(codes, count)
    signal = np.einsum("pg,pgh,ph->", moments.mean[first], blocks, moments.mean[second])
    return max(0.0, 2 * float(4 * signal - 2 * (blocks**2).sum()))


def parity_test(moments: Moments, flips: int, seed: int) -> float:
    """p-value of parity: flip the sign of whole twins, compare the summed squared means.

    Exact where swapping the sides of a twin changes nothing under parity (two groups);
    asymptotic for more (a wild bootstrap).
    """
    twin = np.unique(moments.twin, return_inverse=True)[1]
    shape = (flips, int(twin.max()) + 1)
    signs = 2 * np.random.default_rng(seed).integers(0, 2, shape, dtype=np.int8) - 1
    flipped = np.zeros(flips)
    ends = np.cumsum(moments.twins)
    for start, end in zip(ends - moments.twins, ends, strict=True):
        flipped += ((signs[:, twin[start:end]] @ moments.share[start:end]) ** 2).sum(axis=1)
    observed = float((moments.mean**2).sum())
    reached = int((flipped >= observed * (1 - 1e-9) - 1e-15).sum())
    return (1 + reached) / (1 + flips)
