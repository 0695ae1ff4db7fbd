"""Scores that benchmarks are known by, from the decisions on their items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from equipoise.decisions.decision import Decisions
from equipoise.fairness.benchmarks.bbq import bbq_scores
from equipoise.fairness.benchmarks.ceb import ceb_scores
from equipoise.fairness.benchmarks.crows_pairs import crows_pairs, pair_scores
from equipoise.fairness.benchmarks.free_text import free_text_scores
from equipoise.fairness.benchmarks.questions import question_scores
from equipoise.fairness.benchmarks.scorers import (
    LexiconScorer,
    Scorer,
    load_scorer,
    scorer_source,
)
from equipoise.fairness.benchmarks.unqover import unqover_scores
from equipoise.fairness.finite import assert_finite

__all__ = [
    "BENCHMARKS",
    "LexiconScorer",
    "Scorer",
    "bbq_scores",
    "benchmark_scores",
    "ceb_scores",
    "crows_pairs",
    "free_text_scores",
    "load_scorer",
    "pair_scores",
    "question_scores",
    "scorer_source",
    "unqover_scores",
]

BENCHMARKS: dict[str, Callable[[Decisions], dict[str, Any]]] = {
    "bbq": bbq_scores,
    "ceb": ceb_scores,
    "unqover": unqover_scores,
    **dict.fromkeys(("mmlu", "arc-easy", "arc-challenge", "openbookqa"), question_scores),
}
"""By task name: its scores from decisions on its items, ambiguous and unambiguous together."""


def benchmark_scores(task_name: str, decisions: Decisions) -> dict[str, Any] | None:
    """The benchmark's own scores, ready for JSON.

    Args:
        task_name: Name of the task.
        decisions: On its items, ambiguous and unambiguous together.

    Returns:
        What the benchmark's function says; None for a task without scores of its own, or without
        any decision.

    Raises:
        EquipoiseError: Scores that are not log-probabilities.
    """
    if task_name not in BENCHMARKS or not len(decisions):
        return None
    return assert_finite(BENCHMARKS[task_name](decisions), f"the scores of {task_name}")
