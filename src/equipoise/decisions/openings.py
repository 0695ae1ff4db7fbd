"""What a row gate says of prompts, asked once: it reads the unsteered prompt and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from equipoise.decisions.batch import batches, forward, left_pad
from equipoise.decisions.encode import Encoded
from equipoise.steering.attach.forward import Forward

if TYPE_CHECKING:
    from equipoise.steering.attach.attachment import Attachment


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
    device = next(model.parameters()).device
    prompts = [Encoded(row.prefix[: row.prompt_length], (), ()) for row in rows]
    found = torch.zeros(len(rows), device=device)
    for index in batches(model, prompts, batch_tokens):
        ids, mask = left_pad([prompts[i].prefix for i in index], 0, device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        read = partial(forward, model, ids, mask, positions, use_cache=False)
        told = Forward(ids.shape[0], ids.shape[1], device, attention=mask)
        found[index] = gate.ask(read, told).to(device)
    return found
