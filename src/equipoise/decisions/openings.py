"""What a row gate says of prompts, asked once: it reads the unsteered prompt and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from equipoise.decisions.batch import batches
from equipoise.decisions.encode import Encoded
from equipoise.decisions.forward import forward
from equipoise.decisions.layout import lay_out
from equipoise.errors import SteeringError
from equipoise.models import Model
from equipoise.models.model import input_device
from equipoise.steering.attach.forward import Forward

if TYPE_CHECKING:
    from equipoise.steering import Steering
    from equipoise.steering.attach.attachment import Attachment
    from equipoise.steering.attach.row_gate import RowGate


def row_decisions(
    model: nn.Module, rows: Sequence[Encoded], attachment: Attachment | None, batch_tokens: int
) -> Tensor | None:
    """A row gate's decisions on encoded rows, at whatever strength they are steered afterwards.

    Args:
        model: A causal LM with the steering attached.
        rows: n rows.
        attachment: The attached steering.
        batch_tokens: Tokens per forward pass; each ends where the gate has read.

    Returns:
        float32 [n] on the model's device; None where nothing need be asked beforehand: no row gate,
        or one that reads its site within the steered pass. Of a text it reads the whole.
    """
    gate = None if attachment is None else attachment.row_gate
    if gate is None or not (gate.asks_first or any(row.is_text for row in rows)):
        return None
    return _ask(model, rows, gate, batch_tokens)


def openings(
    model: Model,
    rows: Sequence[Encoded],
    steering: Steering,
    batch_tokens: int,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """What a steering's row gate says of n encoded rows, in [0, 1]: float64 [n].

    ``progress`` is called with the number of rows just read.
    """
    with steering.applied(model, strength=0.0) as attachment, torch.inference_mode():
        if attachment.row_gate is None:
            raise SteeringError("this steering has no gate that decides per row")
        found = _ask(model.hf, rows, attachment.row_gate, batch_tokens, progress)
    return found.double().cpu().numpy()


def _ask(
    model: nn.Module,
    rows: Sequence[Encoded],
    gate: RowGate,
    batch_tokens: int,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    device = input_device(model)
    prompts = [Encoded(row.prefix[: row.prompt_length], (), ()) for row in rows]
    found = torch.zeros(len(rows), device=device)
    for batch in batches(model, prompts, batch_tokens):
        ids, mask, positions, _ = lay_out(batch).inputs(model, None, 1)
        read = partial(forward, model, ids, mask, positions, use_cache=False)
        told = Forward(ids.shape[0], ids.shape[1], device, attention=mask)
        found[batch.index] = gate.ask(read, told).to(device)
        if progress is not None:
            progress(len(batch.index))
    return found
