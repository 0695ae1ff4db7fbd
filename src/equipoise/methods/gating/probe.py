"""Probes and kernel machines: the fit is scikit-learn's; a steering keeps what it found."""

from __future__ import annotations

import warnings
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from equipoise.methods.gating.examples import Examples
from equipoise.steering import Gate, KernelGate, ProbeGate

# Tight: the same prompts must give the same gate whatever the batches they were read in.
_TOLERANCE, _MAX_ITERATIONS = 1e-7, 5000
_ROUNDING = 1e-4
_NARROW = 1024
"""Width up to which a Newton step, cubic in it, is cheap."""
_KERNEL_C = 3.0
_NEARNESS = 3.0
"""The kernel's γ is this over the number of coordinates, each in units of its spread."""


def fit_probe(
    examples: Examples,
    site: str,
    *,
    c: float = 1.0,
    standardise: bool = True,
    balance: bool = True,
    hard: Collection[str] = (),
) -> ProbeGate:
    """A soft row gate p = σ(wᵀh + b) by ℓ2-penalised logistic regression.

    Args:
        examples: Of one site, ``h`` [n, d], both sides present.
        site: The site's key.
        c: Inverse strength of the penalty.
        standardise: Penalise in units of each coordinate's spread (folded into w and b), so that
            ``c`` means the same at every layer of every model.
        balance: Weigh the two sides alike, and the kinds of the negative side alike.
        hard: Kinds that look most like the positive side: together half of the negative side's
            weight, when balancing.

    Raises:
        EquipoiseError: A side is missing.
    """
    examples.check_two_sided()
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    h = examples.h.astype(np.float64)
    mean, spread = np.zeros(h.shape[1]), np.ones(h.shape[1])
    if standardise:
        mean, spread = h.mean(0), _spreads(h)
    weights = balanced_weights(examples, hard) if balance else None
    # Raw activations have coordinates far larger than the rest, on which lbfgs does not converge.
    solver = "lbfgs" if standardise or h.shape[1] > _NARROW else "newton-cholesky"
    model = LogisticRegression(C=c, tol=_TOLERANCE, max_iter=_MAX_ITERATIONS, solver=solver)
    with warnings.catch_warnings():
        # Whatever it comes to, the report says how well the probe tells.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((h - mean) / spread, examples.opens, sample_weight=weights)
    w = model.coef_[0] / spread
    bias = float(model.intercept_[0] - w @ mean)
    return ProbeGate(site, torch.from_numpy(w), bias, soft=True)


def fit_kernel(
    examples: Examples, site: str, query: Tensor, *, hard: Collection[str] = ()
) -> KernelGate:
    """A soft row gate by a support vector machine with a Gaussian kernel.

    p is σ of the machine's margin: it ranks, and is no calibrated probability.

    Args:
        examples: Of one site, ``h`` [n, 2d] as read with the query, both sides present.
        site: The site's key.
        query: float32 [d].
        hard: As of :func:`fit_probe`; sides and kinds are balanced in the same way.

    Raises:
        EquipoiseError: A side is missing.
    """
    examples.check_two_sided()
    from sklearn.svm import SVC

    h = examples.h.astype(np.float64)
    width = h.shape[1]
    scale = np.sqrt(_NEARNESS / width) / _spreads(h)
    machine = SVC(C=_KERNEL_C, gamma=1.0)
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


def _spreads(h: np.ndarray) -> np.ndarray:
    """Standard deviation of each coordinate of h [n, d]; infinite where it is constant."""
    spread = h.std(0)
    # What is constant but for rounding tells nothing, and must not be blown up.
    spread[spread <= _ROUNDING * np.sqrt(np.square(h).mean(0))] = np.inf
    return np.asarray(spread)


def balanced_weights(examples: Examples, hard: Collection[str] = ()) -> np.ndarray:
    """Weights of mean 1: half for each side, and the negative half shared out among its kinds."""
    kinds = examples.negative_kinds
    hard_kinds = [kind for kind in kinds if kind in hard]
    easy_kinds = [kind for kind in kinds if kind not in hard]
    share = dict.fromkeys(kinds, 0.5 / len(kinds))
    if hard_kinds and easy_kinds:
        share |= dict.fromkeys(hard_kinds, 0.25 / len(hard_kinds))
        share |= dict.fromkeys(easy_kinds, 0.25 / len(easy_kinds))
    weights = np.where(examples.opens, 0.5 / examples.opens.sum(), 0.0)
    for kind in kinds:
        of_kind = examples.kinds == kind
        weights[of_kind] = share[kind] / of_kind.sum()
    return weights * len(examples)


def logits_of(gate: Gate, examples: Examples) -> np.ndarray:
    """The logit of the gate's p for each example, float32 [n], exactly as the gate computes it."""
    return gate.logit(torch.from_numpy(examples.h)).numpy()
