"""Decisions of a model on items, at one strength or at several in one batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from equipoise.decisions.decision import Decisions
from equipoise.decisions.encode import Encoded, encode_item, encode_text
from equipoise.decisions.score import Scores, batches, score
from equipoise.errors import EquipoiseError
from equipoise.models import Model
from equipoise.tasks.item import Item

if TYPE_CHECKING:
    from equipoise.steering import Steering

Progress = Callable[[int], None]
BATCH_TOKENS = 2048
"""Tokens per forward pass unless asked otherwise: more is no faster on a CPU."""


def decide(
    model: Model,
    items: Sequence[Item],
    *,
    steering: Steering | None = None,
    strengths: Sequence[float] = (0.0,),
    normalise: Literal["sum", "mean"] = "sum",
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
    rows = [encode_item(model, item) for item in items]
    width = max((len(item.options) for item in items), default=2)
    scores = np.full((len(strengths), len(rows), width), -np.inf)
    kl = np.zeros((len(strengths), len(rows)))
    for index, found, divergence in _sweep(
        model, rows, steering, strengths, batch_tokens, progress
    ):
        options = found.options
        if normalise == "mean":
            options = options / found.lengths.clamp(min=1)
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

    A text longer than ``window`` tokens is read in windows that do not overlap.
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
    for index, found, divergence in _sweep(
        model, rows, steering, strengths, batch_tokens, progress
    ):
        measured = found.options.double().cpu().numpy().reshape(len(index), len(strengths))
        for j, i in enumerate(index):
            n = len(rows[i].positions)
            total[:, owner[i]] += measured[j]
            kl[:, owner[i]] += divergence[:, j] * n
            tokens[owner[i]] += n
    kl /= np.maximum(tokens, 1)
    return TextScores(total, tokens, None if steering is None else kl)


def _sweep(
    model: Model,
    rows: Sequence[Encoded],
    steering: Steering | None,
    strengths: Sequence[float],
    batch_tokens: int,
    progress: Progress | None,
) -> Iterator[tuple[list[int], Scores, np.ndarray]]:
    """Yield (row indices, scores of rows × strengths, KL [strengths, rows]) batch by batch.

    A batch holds each of its rows at every strength, strength 0 last where KL needs the base.
    """
    asked = [float(w) for w in strengths]
    if steering is None and any(asked):
        raise EquipoiseError(f"strengths {asked} without a steering to apply")
    ladder = asked + ([0.0] if steering is not None and 0.0 not in asked else [])
    base = ladder.index(0.0) if 0.0 in ladder else 0
    copies = len(ladder)
    with _attached(model, steering) as attachment, torch.inference_mode():
        for index in batches(rows, batch_tokens, copies):
            repeated = [rows[i] for i in index for _ in ladder]
            if attachment is not None:
                attachment.strength = torch.tensor(ladder * len(index), device=model.device)
            found = score(model.hf, repeated, attachment=attachment)
            divergence = np.zeros((len(asked), len(index)))
            if attachment is not None:
                kl = found.kl(_base_nodes(found, copies, base))
                divergence = kl.double().cpu().numpy().reshape(-1, copies).T[: len(asked)]
            if copies > len(asked):
                found = _drop_last(found, copies)
            yield index, found, divergence
            if progress is not None:
                progress(len(index))


def _base_nodes(found: Scores, copies: int, base: int) -> torch.Tensor:
    """For every node, the same node of the row's copy number ``base``, [N, V].

    Copies of a row have the same nodes in the same order.
    """
    order = torch.argsort(found.row, stable=True)  # the nodes of a row side by side
    row = found.row[order]
    sizes = torch.bincount(found.row)
    starts = sizes.cumsum(0) - sizes
    rank = torch.arange(len(order), device=order.device) - starts[row]
    source = torch.empty_like(order)
    source[order] = order[starts[row // copies * copies + base] + rank]
    return found.nodes[source]


def _drop_last(found: Scores, copies: int) -> Scores:
    """Without each row's last copy (the base, measured only for the KL)."""
    keep = torch.arange(found.options.shape[0], device=found.options.device) % copies != copies - 1
    return Scores(
        found.options[keep], found.lengths[keep], found.nodes[:0], found.row[:0], found.weight[:0]
    )


@contextlib.contextmanager
def _attached(model: Model, steering: Steering | None) -> Iterator[Any]:
    if steering is None:
        yield None
        return
    with steering.applied(model, strength=0.0) as attachment:
        yield attachment
