"""What a scorer says of free text, by social group (as CEB asks of continuation, conversation)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from equipoise.errors import EquipoiseError
from equipoise.fairness.benchmarks.intervals import Cell
from equipoise.fairness.benchmarks.scorers import Scorer
from equipoise.fairness.interval import TWO_SIDED_95, mean_interval, proportion_interval
from equipoise.tasks.item import OpenPrompt

SHUFFLES = 200


def free_text_scores(
    prompts: Sequence[OpenPrompt], answers: Sequence[str], scorer: Scorer
) -> dict[str, Any]:
    """What a scorer says of the answers to a benchmark's prompts.

    Args:
        prompts: The n prompts.
        answers: What the model wrote to each, without the prompt.
        scorer: Judges the answers.

    Returns:
        ``scorer`` (its name), ``pooled`` with the ``mean`` score and ``answered``, the share of
        answers that hold a word (``estimate``, ``low``, ``high``, ``n``), and ``by_part``: for each
        part and axis these two, ``by_group`` the mean for each social group, and ``gap``, the
        largest less the smallest group mean, with ``highest`` and ``lowest``, the groups, and
        ``parity``, what it would be on average if the answers were dealt to the groups by lot.
        ``gap`` is null for fewer than two groups, its limits where one of the two has a single
        answer.

    Raises:
        EquipoiseError: Another number of answers, or scores that are not n numbers in [0, 1].
    """
    if len(prompts) != len(answers):
        raise EquipoiseError(f"{len(answers)} answers to {len(prompts)} prompts")
    scores = np.asarray(scorer(answers), dtype=float)
    if scores.shape != (len(answers),) or not ((scores >= 0) & (scores <= 1)).all():
        raise EquipoiseError(
            f"scorer {scorer.name!r} must give one number in [0, 1] for each of {len(answers)} "
            f"answers; it gave shape {scores.shape}"
        )
    keys = np.array([f"{prompt.part}: {prompt.axis}" for prompt in prompts], dtype=str)
    groups = np.array([prompt.group for prompt in prompts], dtype=str)
    spoke = np.array([any(character.isalpha() for character in text) for text in answers])
    return {
        "scorer": scorer.name,
        "pooled": {"mean": _mean(scores), "answered": _share(spoke)},
        "by_part": {
            str(key): _part(scores[here], spoke[here], groups[here])
            for key in np.unique(keys)
            for here in [keys == key]
        },
    }


def _part(scores: np.ndarray, spoke: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    names, index = np.unique(groups, return_inverse=True)
    return {
        "mean": _mean(scores),
        "answered": _share(spoke),
        "gap": _gap(scores, names, index),
        "by_group": {str(name): _mean(scores[index == k]) for k, name in enumerate(names)},
    }


def _share(hits: np.ndarray) -> Cell:
    return proportion_interval(hits, np.arange(len(hits))).as_dict() | {"n": len(hits)}


def _mean(scores: np.ndarray) -> Cell:
    """Mean score; while all are 0, or all 1, no spread is seen and the interval is a share's."""
    if np.isin(scores, (scores[0],)).all() and scores[0] in (0.0, 1.0):
        return _share(scores > 0)
    return mean_interval(scores, np.arange(len(scores))).as_dict() | {"n": len(scores)}


def _gap(scores: np.ndarray, names: np.ndarray, index: np.ndarray) -> Cell:
    """Between the extreme groups; the interval is that of these two, as if chosen beforehand."""
    if len(names) < 2:
        return None
    sizes = np.bincount(index)

    def means(values: np.ndarray) -> np.ndarray:
        return np.bincount(index, weights=values) / sizes

    observed = means(scores)
    top, bottom = int(observed.argmax()), int(observed.argmin())
    gap = float(np.ptp(observed))
    low = high = None
    if min(sizes[top], sizes[bottom]) > 1:
        error = math.sqrt(
            sum(float(scores[index == k].var(ddof=1)) / int(sizes[k]) for k in (top, bottom))
        )
        low, high = max(-1.0, gap - TWO_SIDED_95 * error), min(1.0, gap + TWO_SIDED_95 * error)
    random = np.random.default_rng(0)
    parity = float(np.mean([np.ptp(means(random.permutation(scores))) for _ in range(SHUFFLES)]))
    return {
        "estimate": gap,
        "low": low,
        "high": high,
        "n": len(scores),
        "parity": parity,
        "highest": str(names[top]),
        "lowest": str(names[bottom]),
    }
