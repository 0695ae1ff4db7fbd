"""Every row at every strength, batch by batch: what audits and sweeps are made of."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from equipoise.decisions.batch import batches
from equipoise.decisions.encode import Encoded
from equipoise.decisions.openings import row_decisions
from equipoise.decisions.packing import packable_kinds
from equipoise.decisions.prefixes import Prefixes, sharable_lengths
from equipoise.decisions.score import Scores, score
from equipoise.errors import EquipoiseError
from equipoise.models import Model

if TYPE_CHECKING:
    from equipoise.steering import Steering
    from equipoise.steering.attach.attachment import Attachment

Progress = Callable[[int], None]
BATCH_TOKENS = 4096
"""Tokens per forward pass unless asked otherwise: more is no faster on a CPU."""


def climb(
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
    with attached(model, steering) as attachment, torch.inference_mode():
        decisions = row_decisions(model.hf, rows, attachment, batch_tokens)
        shared = sharable_lengths(model.hf, attachment, rows)
        prefixes = Prefixes(model.hf, attachment, ladder)
        kinds = packable_kinds(model.hf, len(rows), attachment, decisions)
        for batch in batches(model.hf, rows, batch_tokens, copies, shared, kinds):
            found = score(
                model.hf,
                batch,
                attachment=attachment,
                decisions=None if decisions is None else decisions[batch.index],
                strengths=ladder,
                cached=prefixes.read(batch.beginnings),
            )
            divergence = np.zeros((len(asked), len(batch.index)))
            if attachment is not None:
                kl = found.kl(_base_nodes(found, copies, base))
                divergence = kl.double().cpu().numpy().reshape(-1, copies).T[: len(asked)]
            if copies > len(asked):
                found = _drop_last(found, copies)
            yield batch.index, found, divergence
            if progress is not None:
                progress(len(batch.index))


def _base_nodes(found: Scores, copies: int, base: int) -> torch.Tensor:
    """For every node, the same node of the row's copy number ``base``, [N, V]."""
    of_base = found.nodes.unflatten(0, (-1, copies))[:, base : base + 1]
    return of_base.expand(-1, copies, -1).flatten(0, 1)


def _drop_last(found: Scores, copies: int) -> Scores:
    """Without each row's last copy (the base, measured only for the KL)."""
    keep = torch.arange(found.options.shape[0], device=found.options.device) % copies != copies - 1
    return Scores(
        found.options[keep],
        found.lengths[keep],
        found.nodes[:0],
        found.row[:0],
        found.weight[:0],
        found.spacing[keep],
    )


@contextlib.contextmanager
def attached(model: Model, steering: Steering | None) -> Iterator[Attachment | None]:
    """The steering attached at strength 0; None where there is none."""
    if steering is None:
        yield None
        return
    with steering.applied(model, strength=0.0) as attachment:
        yield attachment
