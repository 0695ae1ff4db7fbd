"""Scores a benchmark is known by, where they take more than decisions on items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.decisions.decide import Progress, score_texts
from equipoise.decisions.write import write_at
from equipoise.fairness.benchmarks import free_text_scores, load_scorer, pair_scores
from equipoise.models import Model
from equipoise.steering import Steering
from equipoise.tasks.item import OpenPrompt, SentencePair, Split
from equipoise.tasks.lm_eval import LmEvalTask

if TYPE_CHECKING:
    from equipoise.study.settings import Settings


def beside_items(
    model: Model,
    pairs: Sequence[SentencePair],
    prompts: Sequence[OpenPrompt],
    steering: Steering | None,
    strengths: Sequence[float],
    settings: Settings,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """What the pairs and the prompts of a task say, for each strength; empty without any."""
    found: list[dict[str, Any]] = [{} for _ in strengths]
    if pairs:
        sentences = [pair.more for pair in pairs] + [pair.less for pair in pairs]
        read = score_texts(
            model,
            sentences,
            steering=steering,
            strengths=strengths,
            batch_tokens=settings.batch_tokens,
            progress=progress,
        )
        tokens = read.tokens.reshape(2, -1)
        for scores, total in zip(found, read.log_probability, strict=True):
            scores |= pair_scores(pairs, total.reshape(2, -1), tokens)
    if prompts:
        scorer = load_scorer(settings.scorer)
        written = write_at(
            model,
            [one.prompt for one in prompts],
            steering=steering,
            strengths=strengths,
            temperature=settings.temperature,
            max_new_tokens=settings.max_new_tokens,
            seed=settings.hash_seed,
            batch_tokens=settings.batch_tokens,
            progress=progress,
        )
        for scores, answers in zip(found, written, strict=True):
            scores["free_text"] = free_text_scores(prompts, answers, scorer) | {
                "max_new_tokens": settings.max_new_tokens,
                "temperature": settings.temperature,
            }
    return found


def by_lm_eval(
    model: Model,
    tasks: Mapping[str, LmEvalTask],
    split: Split,
    steering: Steering | None,
    strengths: Sequence[float],
    batch_tokens: int,
    progress: Progress | None,
) -> dict[str, list[np.ndarray] | None]:
    """Per task of lm-eval, who was right at each strength, bool [n]; None: no documents."""
    if not tasks:
        return {}
    from equipoise.decisions.lm_eval import right_at  # imports lm-eval

    judged: dict[str, list[np.ndarray] | None] = dict.fromkeys(tasks)
    for name, task in tasks.items():
        if task.count(split):
            judged[name] = list(
                right_at(
                    model,
                    task,
                    split,
                    steering=steering,
                    strengths=strengths,
                    batch_tokens=batch_tokens,
                    progress=progress,
                )
            )
    return judged
