"""Theorem 2 of DSO: how far a KL divergence lets a capability metric move."""

from __future__ import annotations

import math

from equipoise.errors import EquipoiseError

BERNOULLI_SIGMA = 0.5
"""Sub-Gaussian constant of a metric in [0, 1], such as the accuracy of an item (Hoeffding)."""


def drop_bound(kl: float, sigma: float = BERNOULLI_SIGMA) -> float:
    """Bound on |E_ω[M] − E_0[M]|: σ√(2·KL) (DSO, arXiv 2512.15926, Theorem 2).

    The expectation is over *sampled* answers: of an accuracy, the chance that a sampled answer is
    the right one. Greedy answers have no such bound (51 : 49 turns over at hardly any KL).

    Args:
        kl: Mean KL(steered ‖ base) in nats, measured on the prompts of the metric itself.
        sigma: Sub-Gaussian constant of the metric; 1/2 for accuracies.

    Returns:
        The bound; from 1 on it says nothing about an accuracy.

    Raises:
        EquipoiseError: If ``kl`` is not finite or below 0 by more than rounding.
    """
    if not math.isfinite(kl) or kl < -1e-6:
        raise EquipoiseError(f"a KL divergence cannot be {kl}: the model diverged")
    return sigma * math.sqrt(2 * max(0.0, kl))
