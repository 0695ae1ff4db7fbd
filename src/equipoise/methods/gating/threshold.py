"""The threshold of a hard gate from a wanted false-firing rate."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def threshold_for(positive: np.ndarray, negative: Iterable[np.ndarray], rate: float) -> float:
    """The threshold that lets most positives through while no kind of negatives exceeds a rate.

    It lies midway between the lowest positive above the limit and the highest negative below that
    one, so that a clear gap is cut in its middle.

    Args:
        positive: float32 [n]; the probe's p on prompts it should open on; empty: the
            lowest threshold that keeps the rate.
        negative: For each kind of prompts it should stay shut on: p, float32 [m], m ≥ 1.
        rate: Share of each kind that may fire at most, in [0, 1).

    Returns:
        t, exact in float32: a gate opens where p ≥ t. At most 1, where a float32 p may be 1 itself;
        only then can the rate be exceeded.
    """
    kinds = [np.sort(p.astype(np.float32))[::-1] for p in negative]
    # One more than may fire must stay below; the product may fall short of a whole number.
    limit = max(p[int(rate * len(p) + 1e-9)] for p in kinds)
    above = positive[positive > limit]
    if len(above) == 0:
        threshold = np.nextafter(limit, np.float32(2))
    else:
        lowest = np.float32(above.min())
        below = max(p[p < lowest].max() for p in kinds if (p < lowest).any())
        middle = np.float32((np.float64(lowest) + np.float64(below)) / 2)
        threshold = middle if middle > below else lowest
    return float(min(threshold, np.float32(1)))
