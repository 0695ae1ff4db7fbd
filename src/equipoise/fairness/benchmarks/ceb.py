"""CEB's scores of questions with a right answer (Wang et al., 2024): accuracies."""

from __future__ import annotations

from typing import Any

import numpy as np

from equipoise.decisions.decision import Decisions
from equipoise.fairness.benchmarks.intervals import Cell, greedy_picks, share, twins_of
from equipoise.fairness.evidence import cluster_index
from equipoise.fairness.interval import mean_interval


def ceb_scores(decisions: Decisions) -> dict[str, Any]:
    """Accuracy of the recognition and selection questions, per part and axis and pooled.

    Returns:
        ``pooled`` and ``by_context`` of ``accuracy`` and ``balanced_accuracy``, the mean over the
        right answers of the accuracy among the questions that have it (null where there is only
        one: always giving it would score 1); each with ``estimate``, ``low``, ``high``, ``n``.

    Raises:
        EquipoiseError: Scores that are not log-probabilities.
    """
    right = greedy_picks(decisions) == np.array([item.answer for item in decisions.items])
    contexts = np.array([item.contexts[0] for item in decisions.items], dtype=str)
    everything = np.ones(len(decisions), dtype=bool)
    return {
        "pooled": _cell(decisions, right, everything),
        "by_context": {
            str(name): _cell(decisions, right, contexts == name) for name in np.unique(contexts)
        },
    }


def _cell(decisions: Decisions, right: np.ndarray, kept: np.ndarray) -> dict[str, Cell]:
    rows = np.flatnonzero(kept)
    twins = twins_of([decisions.items[row] for row in rows])
    answers = np.array([decisions.items[row].answer for row in rows])
    return {
        "accuracy": share(right[rows], twins),
        "balanced_accuracy": _balanced(right[rows], answers, twins),
    }


def _balanced(right: np.ndarray, answers: np.ndarray, twins: list[str]) -> Cell:
    """Mean recall with a Student interval over twins of its linearised terms."""
    _, classes, sizes = np.unique(answers, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        return None
    recalls = np.bincount(classes, weights=right) / sizes
    balanced = float(recalls.mean())
    if balanced in (0.0, 1.0):  # no spread to be seen: the interval of a plain share
        return share(right, twins)
    weights = len(right) / (len(sizes) * sizes[classes])
    terms = balanced + weights * (right - recalls[classes])
    return mean_interval(terms, cluster_index(twins)).as_dict() | {"n": len(right)}
