"""Decisions of a model on items, at one strength or at several in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from equipoise.decisions.decision import Decisions
from equipoise.decisions.encode import Encoded, encode_items, encode_text
from equipoise.decisions.ladder import BATCH_TOKENS, Progress, climb
from equipoise.decisions.score import Normalise
from equipoise.models import Model
from equipoise.tasks.item import Item

if TYPE_CHECKING:
    from equipoise.steering import Steering


def decide(
    model: Model,
    items: Sequence[Item],
    *,
    steering: Steering | None = None,
    strengths: Sequence[float] = (0.0,),
    normalise: Normalise = "sum",
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> list[Decisions]:
    """Score items at every strength; all strengths of a row share a batch.

    Args:
        model: The model.
        items: Items to decide; may be empty.
        steering: What is applied; None measures the base model (only strength 0 makes sense).
        strengths: Strengths ω to measure at.
        normalise: ``sum`` of an option's token log-probabilities, or their ``mean``.
        batch_tokens: Tokens per forward pass, over all strengths.
        progress: Called with the number of items just done.

    Returns:
        One :class:`Decisions` per strength, in the order asked for, each with its KL to the base
        (strength 0 is measured in the same batches) when there is a steering.

    Raises:
        EquipoiseError: A strength other than 0 and nothing to apply at it.
    """
    rows = encode_items(model, items)
    width = max((len(item.options) for item in items), default=2)
    scores = np.full((len(strengths), len(rows), width), -np.inf)
    kl = np.zeros((len(strengths), len(rows)))
    for index, found, divergence in climb(model, rows, steering, strengths, batch_tokens, progress):
        options = found.scored(normalise)
        table = options.double().cpu().numpy().reshape(len(index), -1, options.shape[1])
        for k in range(len(strengths)):
            scores[k, index, : options.shape[1]] = table[:, k]
        kl[:, index] = divergence
    return [
        Decisions(tuple(items), scores[k], None if steering is None else kl[k], float(w))
        for k, w in enumerate(strengths)
    ]


@dataclass(frozen=True)
class TextScores:
    """Log-likelihood of n texts at S strengths.

    Attributes:
        log_probability: float64 [S, n], in nats.
        tokens: int64 [n]; how many tokens that is of.
        kl: float64 [S, n]; KL(steered ‖ base) in nats per token; None without a steering.
    """

    log_probability: np.ndarray
    tokens: np.ndarray
    kl: np.ndarray | None


def score_texts(
    model: Model,
    texts: Sequence[str],
    *,
    steering: Steering | None = None,
    strengths: Sequence[float] = (0.0,),
    window: int = 256,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> TextScores:
    """Log-likelihood of each text (all its tokens but the first of every window).

    A text longer than ``window`` tokens is read in windows that do not overlap. ``progress`` is
    called with the number of texts just done.
    """
    rows: list[Encoded] = []
    owner: list[int] = []
    for number, text in enumerate(texts):
        for row in encode_text(model, text, window=window):
            rows.append(row)
            owner.append(number)
    total = np.zeros((len(strengths), len(texts)))
    kl = np.zeros_like(total)
    tokens = np.zeros(len(texts), dtype=np.int64)
    left = np.bincount(owner, minlength=len(texts))  # windows
    if progress is not None and (blank := int((left == 0).sum())):
        progress(blank)
    for index, found, divergence in climb(model, rows, steering, strengths, batch_tokens, None):
        measured = found.options.double().cpu().numpy().reshape(len(index), len(strengths))
        for j, i in enumerate(index):
            n = len(rows[i].positions)
            total[:, owner[i]] += measured[j]
            kl[:, owner[i]] += divergence[:, j] * n
            tokens[owner[i]] += n
            left[owner[i]] -= 1
        if progress is not None:
            progress(sum(int(left[text] == 0) for text in {owner[i] for i in index}))
    kl /= np.maximum(tokens, 1)
    return TextScores(total, tokens, None if steering is None else kl)
