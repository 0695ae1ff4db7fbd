"""The threshold of a hard gate from a wanted false-firing rate."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def threshold_for(positive: np.ndarray, negative: Iterable[np.ndarray], rate: float) -> float:
    """The threshold that lets most positives through while no kind of negatives exceeds a rate.

    It lies midway, in p, between the lowest positive above the limit and the highest negative
    below that one, so that a clear gap is cut in its middle. It is set on logits, since p itself
    is 1 to rounding from a logit of 17 on, and then no threshold could keep the rate.

    Args:
        positive: float32 [n]; the probe's logits on prompts it should open on; empty: the
            lowest threshold that keeps the rate.
        negative: For each kind of prompts it should stay shut on: logits, float32 [m], m ≥ 1.
        rate: Share of each kind that may fire at most, in [0, 1).

    Returns:
        t, a logit exact in float32: a gate opens where its logit is t or more.
    """
    from scipy.special import expit, logit

    kinds = [np.sort(z.astype(np.float32))[::-1] for z in negative]
    # One more than may fire must stay below; the product may fall short of a whole number.
    limit = max(z[int(rate * len(z) + 1e-9)] for z in kinds)
    above = positive[positive > limit]
    if len(above) == 0:
        return float(np.nextafter(limit, np.float32(np.inf)))
    lowest = np.float32(above.min())
    below = max(z[z < lowest].max() for z in kinds if (z < lowest).any())
    middle = np.float32(logit(expit(np.array([lowest, below], np.float64)).mean()))
    return float(middle if below < middle < lowest else lowest)
