"""Kernel gates: the fit is scikit-learn's; what it keeps lives in a steering afterwards."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from equipoise.methods.gating.examples import Examples
from equipoise.methods.gating.probe import balanced_weights, spreads
from equipoise.steering import KernelGate

_C = 3.0
_NEARNESS = 3.0
"""The kernel's γ is this over the number of coordinates, each in units of its spread."""


def fit_kernel(
    examples: Examples, site: str, query: Tensor, *, hard: Collection[str] = ()
) -> KernelGate:
    """A soft row gate by a support vector machine with a Gaussian kernel.

    p is σ of the machine's margin: it ranks, and is no calibrated probability.

    Args:
        examples: Of one site, ``h`` [n, 2d] as read with the query, both sides present.
        site: The site's key.
        query: float32 [d].
        hard: As of :func:`.fit_probe`; sides and kinds are balanced in the same way.

    Raises:
        EquipoiseError: A side is missing.
    """
    examples.check_two_sided()
    from sklearn.svm import SVC

    h = examples.h.astype(np.float64)
    width = h.shape[1]
    scale = np.sqrt(_NEARNESS / width) / spreads(h)
    machine = SVC(C=_C, gamma=1.0)
    machine.fit(h * scale, examples.opens, sample_weight=balanced_weights(examples, hard))
    return KernelGate(
        site,
        query,
        torch.from_numpy(scale),
        torch.from_numpy(machine.support_vectors_),
        torch.from_numpy(machine.dual_coef_[0]),
        float(machine.intercept_[0]),
        soft=True,
    )
