"""Intervals of means, proportions and paired differences whose items come in twins."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
ONE_SIDED_95 = NormalDist().inv_cdf(LEVEL)
TWO_SIDED_95 = NormalDist().inv_cdf(0.5 + LEVEL / 2)


@dataclass(frozen=True)
class Interval:
    """A number with its confidence limits; the limits are None where nothing bounds them."""

    estimate: float
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, float | None]:
        """``estimate``, ``low`` and ``high``, ready for JSON."""
        return asdict(self)


def student_quantile(z: float, df: int) -> float:
    """Student's t quantile that belongs to the normal quantile ``z``.

    Cornish-Fisher expansion to 1/df⁴ (Abramowitz & Stegun 26.7.5): within 0.1 % of the exact
    two-sided 95 % point from df = 4 on; too short for df = 1 (11.3 for 12.7).
    """
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / df ** (power + 1) for power, term in enumerate(terms))


def clustered_ratio(
    numerator: np.ndarray, denominator: np.ndarray, clusters: np.ndarray
) -> tuple[float, float, int]:
    """Ratio of two sums and its standard error, clusters being the independent units.

    Args:
        numerator: float [n].
        denominator: float [n], with a positive sum (all ones: an ordinary mean).
        clusters: int [n], values 0..T-1 without gaps.

    Returns:
        The ratio, its linearised (delta method) standard error, and T. The error is infinite for
        a single cluster.
    """
    total = float(denominator.sum())
    ratio = float(numerator.sum()) / total
    residuals = np.bincount(clusters, weights=numerator - ratio * denominator)
    count = len(residuals)
    if count < 2:
        return ratio, math.inf, count
    return ratio, math.sqrt(count / (count - 1) * float(residuals @ residuals)) / total, count


def mean_interval(values: np.ndarray, clusters: np.ndarray) -> Interval:
    """Mean of values in [0, 1] with a 95 % interval that stays there (float [n], int [n]).

    Student interval of the clustered mean, cut off at 0 and 1; [0, 1] for a single cluster.
    """
    mean, error, count = clustered_ratio(values, np.ones(len(values)), clusters)
    if count < 2:
        return Interval(mean, 0.0, 1.0)
    half = student_quantile(TWO_SIDED_95, count - 1) * error
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half))


def proportion_interval(hits: np.ndarray, clusters: np.ndarray) -> Interval:
    """Share of hits (bool [n]) with Wilson's 95 % interval at the effective number of items.

    The effective number is n over the design effect of the clusters (Korn & Graubard 1998); while
    no item differs from the others the effect cannot be seen, and each cluster counts once.
    """
    n = len(hits)
    share, error, count = clustered_ratio(hits.astype(float), np.ones(n), clusters)
    spread = share * (1 - share)
    effective = float(count)
    if spread > 0 and error > 0:
        effective = max(1.0, min(float(n), spread / error**2))
    z2 = TWO_SIDED_95**2
    centre = (share + z2 / (2 * effective)) / (1 + z2 / effective)
    half = math.sqrt(z2 * (spread / effective + z2 / (4 * effective**2))) / (1 + z2 / effective)
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def paired_upper_limit(lost: float, won: float, n: float, z: float = ONE_SIDED_95) -> float:
    """Upper confidence limit of (lost − won)/n, the difference of two paired proportions.

    Tango's score interval (Statistics in Medicine 17, 1998), which stays honest when nothing
    changes: with lost = won = 0 it is z²/(n + z²), not 0.

    Args:
        lost: Items right before and wrong after.
        won: Items wrong before and right after.
        n: All items (real numbers are fine: counts over a design effect).
        z: Normal quantile of the one-sided level.
    """

    def statistic(delta: float) -> float:
        b = -lost - won + (2 * n - lost + won) * delta
        root = math.sqrt(max(0.0, b * b + 8 * n * won * delta * (1 - delta)))
        nuisance = max(0.0, (root - b) / (4 * n))
        variance = n * (2 * nuisance + delta * (1 - delta))
        gap = lost - won - n * delta
        return gap / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gap)

    low, high = (lost - won) / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if statistic(middle) > -z else (low, middle)
    return high


def paired_drop(before: np.ndarray, after: np.ndarray, clusters: np.ndarray) -> Interval:
    """Drop of an accuracy, paired by item, with **one-sided** 95 % limits on either side.

    Args:
        before: bool [n], right at strength 0.
        after: bool [n], right now.
        clusters: int [n], values 0..T-1; twins rise and fall together, so the counts are divided
            by the design effect of the differences (while no item changed: by n/T).
    """
    n = len(before)
    difference = before.astype(float) - after.astype(float)
    lost, won = float((difference > 0).sum()), float((difference < 0).sum())
    mean, error, count = clustered_ratio(difference, np.ones(n), clusters)
    independent = (lost + won - n * mean**2) / n**2
    effect = n / count
    if independent > 0 and math.isfinite(error):
        effect = max(1.0, error**2 / independent)
    lost, won, size = lost / effect, won / effect, n / effect
    return Interval(mean, -paired_upper_limit(won, lost, size), paired_upper_limit(lost, won, size))
