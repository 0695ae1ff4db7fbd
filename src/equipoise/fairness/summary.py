"""One row of the sweep: everything the decisions at one strength say (``results.json``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from equipoise.decisions.decision import Decisions
from equipoise.fairness.accuracy import unambiguous_accuracy
from equipoise.fairness.behaviour import (
    abstention,
    by_context,
    shares,
    stereotype_gap,
    twin_metrics,
)
from equipoise.fairness.bias import BiasEstimate, estimate_bias
from equipoise.fairness.evidence import collect, option_probabilities
from equipoise.fairness.finite import assert_finite


def summarise(
    ambiguous: Decisions,
    unambiguous: Decisions | None = None,
    *,
    base_unambiguous: Decisions | None = None,
    capability: Mapping[str, dict[str, Any]] | None = None,
    anchor_kl: float | None = None,
    target: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Build one ``sweep`` row of ``equipoise/results/1``.

    Args:
        ambiguous: Decisions on the ambiguous items, at the row's strength.
        unambiguous: Those on the unambiguous items.
        base_unambiguous: The same at strength 0, for the paired drop.
        capability: Per capability, what :func:`~equipoise.fairness.accuracy` or
            :func:`~equipoise.fairness.perplexity` returned.
        anchor_kl: Mean KL(steered ‖ base) in nats on the anchors.
        target: Wanted share of each group (``Task.target``).

    Returns:
        The row; what the task cannot tell is None. Every number is finite.

    Raises:
        EquipoiseError: Scores that are not log-probabilities, a base on other items, a target
            that does not fit.
    """
    soft = collect(ambiguous, option_probabilities(ambiguous), target=target)
    greedy = collect(ambiguous, option_probabilities(ambiguous, 0), target=target)
    bias = None if soft is None else estimate_bias(soft)
    bias_answered = None if soft is None else estimate_bias(soft, conditional_on_answering=True)
    bias_greedy = None if greedy is None else estimate_bias(greedy)
    gap, refusals = stereotype_gap(ambiguous), abstention(ambiguous)
    kl = ambiguous.kl
    row = {
        "strength": float(ambiguous.strength),
        "per_occupation_bias": _bias(bias),
        "per_occupation_bias_greedy": _bias(bias_greedy),
        "per_occupation_bias_answered": _bias(bias_answered),
        "stereotype_gap": None if gap is None else gap[0].as_dict() | {"n": gap[1]},
        "twins": twin_metrics(ambiguous),
        "shares": shares(ambiguous),
        "unambiguous_accuracy": (
            None if unambiguous is None else unambiguous_accuracy(unambiguous, base_unambiguous)
        ),
        "abstention": None if refusals is None else refusals[0].as_dict() | {"n": refusals[1]},
        "capability": dict(capability or {}),
        "kl": {
            "ambiguous": None if kl is None or not len(kl) else float(np.mean(kl)),
            "anchor": anchor_kl,
        },
        "by_occupation": by_context(ambiguous, target=target),
    }
    return assert_finite(row, f"the row of strength {ambiguous.strength:g}")


def _bias(estimate: BiasEstimate | None) -> dict[str, Any] | None:
    return None if estimate is None else estimate.as_dict()
