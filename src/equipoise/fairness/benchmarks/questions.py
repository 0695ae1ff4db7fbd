"""Accuracy on questions with a right answer: MMLU, ARC, OpenBookQA."""

from __future__ import annotations

from typing import Any

import numpy as np

from equipoise.decisions.decision import Decisions
from equipoise.fairness.benchmarks.intervals import greedy_picks, share, twins_of


def question_scores(decisions: Decisions) -> dict[str, Any]:
    """Share of right answers over all questions and, where there are several, per subject.

    Args:
        decisions: On items; those without an answer do not count. The first context is the subject.

    Returns:
        ``pooled`` and, of several subjects, ``by_subject`` of ``accuracy`` with ``estimate``,
        ``low``, ``high`` and ``n``.

    Raises:
        EquipoiseError: Scores that are not log-probabilities.
    """
    decisions = decisions.subset(lambda item: item.answer is not None)
    right = greedy_picks(decisions) == np.array([item.answer for item in decisions.items])
    twins = np.array(twins_of(decisions.items), dtype=object)
    subjects = np.array([(item.contexts or ("",))[0] for item in decisions.items], dtype=str)
    names = np.unique(subjects)
    scores: dict[str, Any] = {"pooled": {"accuracy": share(right, list(twins))}}
    if len(names) > 1:
        scores["by_subject"] = {
            str(name): {"accuracy": share(right[subjects == name], list(twins[subjects == name]))}
            for name in names
        }
    return scores
