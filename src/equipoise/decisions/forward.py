"""The forward pass that batches of token rows go through."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from equipoise.steering.attach.attachment import Attachment


def left_pad(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, int64 [B, longest row]."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for b, row in enumerate(rows):
        ids[b, width - len(row) :] = torch.tensor(row)
        mask[b, width - len(row) :] = 1
    return ids.to(device), mask.to(device)


def forward(
    model: nn.Module,
    ids: Tensor,
    mask: Tensor,
    positions: Tensor,
    logits_to_keep: Tensor | None = None,
    **kwargs: Any,
) -> Any:
    """Run a model with what its architecture accepts.

    Args:
        model: A causal LM.
        ids: int64 [B, T].
        mask: int64 [B, T], or longer by what is cached; or what attention adds, [B, 1, T, ...].
        positions: int64 [B, T].
        logits_to_keep: int64 [k], columns whose logits are returned; None: all.
        **kwargs: Passed on.
    """
    accepted = inspect.signature(model.forward).parameters
    if "position_ids" in accepted:
        kwargs["position_ids"] = positions
    if "logits_to_keep" in accepted and logits_to_keep is not None:
        return model(input_ids=ids, attention_mask=mask, logits_to_keep=logits_to_keep, **kwargs)
    output = model(input_ids=ids, attention_mask=mask, **kwargs)
    if logits_to_keep is not None:
        output.logits = output.logits[:, logits_to_keep]
    return output


@contextlib.contextmanager
def told(
    attachment: Attachment | None, lengths: Tensor | None, decision: Tensor | None
) -> Iterator[None]:
    """Where prompts end, and what a row gate says of them, for the time of a pass or generation.

    Args:
        attachment: Of the steering, if any.
        lengths: int64 [rows]; real tokens of each prompt; None: to be told from the pass itself.
        decision: float32 [rows]; None: the gate is asked.
    """
    if attachment is None:
        yield
        return
    before = attachment.prompt_lengths, attachment.decision
    attachment.prompt_lengths, attachment.decision = lengths, decision
    try:
        yield
    finally:
        attachment.prompt_lengths, attachment.decision = before
