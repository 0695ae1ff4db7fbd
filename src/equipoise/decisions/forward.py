"""The forward pass that batches of token rows go through."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from equipoise.decisions.arguments import arguments, learns_prompt, takes_positions
from equipoise.errors import EquipoiseError
from equipoise.models.model import unwrap

if TYPE_CHECKING:
    from equipoise.decisions.layout import Layout
    from equipoise.decisions.prefixes import Cached
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

    Raises:
        EquipoiseError: The model reads other tokens than it is given.
    """
    if learns_prompt(model):
        raise _others_read(model)  # it may drop our cache and positions, and not tell
    if takes_positions(model):
        kwargs["position_ids"] = positions
    keep = logits_to_keep if "logits_to_keep" in arguments(model) else None
    if keep is not None:
        kwargs["logits_to_keep"] = keep
    output = model(input_ids=ids, attention_mask=mask, **kwargs)
    if output.logits.shape[1] != (ids.shape[1] if keep is None else len(keep)):
        raise _others_read(model)
    if logits_to_keep is not None and keep is None:
        output.logits = output.logits[:, logits_to_keep]
    return output


def last_logits(model: nn.Module, layout: Layout, cached: Cached | None = None) -> Tensor:
    """Logits after the last prompt token of each row, [n, V]."""
    ids, mask, positions, how = layout.inputs(model, cached, 1)
    logits: Tensor = forward(model, ids, mask, positions, **{"use_cache": False} | how).logits
    return logits[layout.sequence, [columns[-1] for columns in layout.columns]]


def _others_read(model: nn.Module) -> EquipoiseError:
    return EquipoiseError(
        f"{type(unwrap(model)).__name__} reads tokens of its own beside the prompt (prompt or "
        "prefix tuning?), so that scores would be of the wrong tokens; use the model without "
        "them, or an adapter of its weights (LoRA)"
    )


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
