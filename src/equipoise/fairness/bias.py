"""Per-occupation bias: the de-biased estimate, its interval, the plug-in and the parity level.

For two groups the estimator is the one of the project's findings: with m the mean over twins of
P(pro) − P(anti) in a context and s² the variance of that mean, B² = mean over contexts of
(m² − s²) is unbiased for the mean squared bias. docs/metrics.md derives the general case.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from equipoise.decisions.decision import Decisions
from equipoise.fairness.evidence import Evidence, collect, option_probabilities
from equipoise.fairness.interval import TWO_SIDED_95
from equipoise.fairness.moments import Moments, moments_of, parity_test, shared_variance

FEW_CONTEXTS, FEW_TWINS = 10, 5
NO_ANSWER = 1e-9
"""Share of answers below which a context counts as never answered."""


@dataclass(frozen=True)
class BiasEstimate:
    """Per-occupation bias of one set of decisions.

    Attributes:
        estimate: √max(0, B²): root of the unbiased mean square, in [0, 1] for equal shares.
        low: Lower 95 % limit.
        high: Upper 95 % limit.
        plug_in: Mean over contexts of the observed distance, the number papers print.
        parity: What ``plug_in`` would be on average at perfect parity with these twins.
        parity_p: p-value of parity, by random sign flips of whole twins.
        mean_square: B² with its sign (unbiased; negative when there is less than noise).
        standard_error: Of ``mean_square``.
        items: Items used.
        contexts: Contexts in the estimate.
        twins: Different twins in the estimate.
        left_out: Contexts without an estimate, and why.
        warnings: What makes the interval untrustworthy here.
    """

    estimate: float
    low: float
    high: float
    plug_in: float
    parity: float
    parity_p: float
    mean_square: float
    standard_error: float
    items: int
    contexts: int
    twins: int
    left_out: dict[str, str]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The bias object of ``results.json``."""
        return {
            "estimate": self.estimate,
            "low": self.low,
            "high": self.high,
            "plug_in": self.plug_in,
            "parity": self.parity,
            "p_parity": self.parity_p,
            "n": self.items,
            "contexts": self.contexts,
            "twins": self.twins,
            "left_out": dict(self.left_out),
            "warnings": list(self.warnings),
        }


def per_occupation_bias(
    decisions: Decisions,
    *,
    temperature: float = 1.0,
    conditional_on_answering: bool = False,
    contexts: Collection[str] | None = None,
    target: Mapping[str, float] | None = None,
    flips: int = 1000,
    seed: int = 0,
) -> BiasEstimate | None:
    """Estimate how far the answers about each context are from parity (DSO, arXiv 2512.15926).

    The bias of a context is |P(pro) − P(anti)|; for K groups, the total-variation distance of
    its answers from the target, divided by (1 − 1/K).

    Args:
        decisions: Ambiguous items with sides or groups; others are passed over.
        temperature: Of the decision's softmax; 0 is greedy decoding.
        conditional_on_answering: Divide by the share of answers that do not abstain, context by
            context (ratio of the context's totals, delta-method variance).
        contexts: Only these (None: all).
        target: Wanted share of each group (None: equal).
        flips: Random sign flips of the parity test.
        seed: Of those flips.

    Returns:
        The estimate, or None where it is undefined: no item is evidence, every answer abstains,
        or no context has two twins.

    Raises:
        EquipoiseError: Scores that are not log-probabilities, or a target that does not fit.
    """
    probabilities = option_probabilities(decisions, temperature)
    evidence = collect(decisions, probabilities, contexts=contexts, target=target)
    if evidence is None:
        return None
    return estimate_bias(
        evidence, conditional_on_answering=conditional_on_answering, flips=flips, seed=seed
    )


def estimate_bias(
    evidence: Evidence,
    *,
    conditional_on_answering: bool = False,
    flips: int = 1000,
    seed: int = 0,
) -> BiasEstimate | None:
    """:func:`per_occupation_bias` from collected evidence."""
    kept, left_out = _usable(evidence, conditional_on_answering)
    if not kept.any() or evidence.answered.mean() <= NO_ANSWER:
        return None
    moments = moments_of(evidence, kept, conditional_on_answering)
    square = float(moments.unbiased.mean())
    error = math.sqrt(moments.variance.sum() + shared_variance(moments)) / len(moments.twins)
    ceiling = float(moments.ceiling.max())

    def root(value: float) -> float:
        return min(ceiling, math.sqrt(max(0.0, value)))

    return BiasEstimate(
        estimate=root(square),
        low=root(square - TWO_SIDED_95 * error),
        high=root(square + TWO_SIDED_95 * error),
        plug_in=float(moments.distance.mean()),
        parity=float(moments.parity.mean()),
        parity_p=parity_test(moments, flips, seed),
        mean_square=square,
        standard_error=error,
        items=len(np.unique(evidence.links[kept[evidence.links[:, 1]], 0])),
        contexts=len(moments.twins),
        twins=len(np.unique(moments.twin)),
        left_out=left_out,
        warnings=_warnings(moments),
    )


def _usable(evidence: Evidence, conditional: bool) -> tuple[np.ndarray, dict[str, str]]:
    """Which contexts have a variance (bool [C]), and why the others have not."""
    count = len(evidence.contexts)
    twins = np.bincount(evidence.context, minlength=count)
    answering = np.bincount(evidence.context[evidence.answered > NO_ANSWER], minlength=count)
    left_out = {}
    for name, n, answers in zip(evidence.contexts, twins, answering, strict=True):
        if n < 2:
            left_out[name] = "a single twin: no variance"
        elif conditional and answers == 0:
            left_out[name] = "every answer abstains"
        elif conditional and answers == 1:
            left_out[name] = "a single twin is answered: no variance"
    return np.array([name not in left_out for name in evidence.contexts]), left_out


def _warnings(moments: Moments) -> tuple[str, ...]:
    warnings = []
    contexts, fewest = len(moments.twins), float(moments.effective.min())
    if contexts < FEW_CONTEXTS:
        warnings.append(
            f"{contexts} contexts (< {FEW_CONTEXTS}): the normal interval is unreliable"
        )
    if fewest < FEW_TWINS - 1e-6:
        few = int((moments.effective < FEW_TWINS - 1e-6).sum())
        warnings.append(
            f"{few} of {contexts} contexts have fewer than {FEW_TWINS} twins that answer "
            f"(down to {fewest:.3g}): the normal interval is unreliable"
        )
    if np.abs(moments.error).max() < 1e-12:
        warnings.append("all twins of a context agree: the interval has no width")
    return tuple(warnings)
