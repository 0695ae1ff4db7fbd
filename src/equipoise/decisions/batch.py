"""Batches of token rows, and the forward pass they go through."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from equipoise.decisions.encode import Encoded
from equipoise.models.backbone import text_config

if TYPE_CHECKING:
    from equipoise.decisions.prefixes import Cached
    from equipoise.steering.attach.attachment import Attachment

CACHED_PER_TOKEN = 16
"""Cached tokens that may lie before each token of a batch: they cost memory, hardly time."""


# No mask keeps padding out of recurrent states and compressed blocks; positions that count columns.
_COUNTS_PADDING = {
    *("deepseek_v4", "recurrent_gemma", "rwkv", "xlstm"),
    *("bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "git", "marian", "mbart", "mvp"),
    *("pegasus", "plbart", "trocr", "whisper"),
}


def counts_padding(model: nn.Module) -> bool:
    """Whether padding before a prompt changes what a model answers.

    Found by reading padded rows and single ones with every architecture of transformers 5.23.
    """
    return text_config(model).model_type in _COUNTS_PADDING


def batches(
    model: nn.Module,
    rows: Sequence[Encoded],
    budget: int,
    copies: int = 1,
    shared: Sequence[int] | None = None,
) -> Iterator[list[int]]:
    """Indices of ``rows`` in batches of similar length, at most ``budget`` tokens each.

    Items and texts are never mixed, nor rows that share a beginning and rows that do not; rows of
    the same beginning follow each other. For a model that counts padding, rows are of one length.

    Args:
        model: What reads them.
        rows: The rows.
        budget: Tokens that may go through the model at once.
        copies: How often each row is repeated in its batch.
        shared: How many leading tokens of each row are cached beforehand.
    """
    ahead = shared or [0] * len(rows)
    kinds: list[tuple[int, ...]] = [
        (row.is_text, n > 0) for row, n in zip(rows, ahead, strict=True)
    ]
    if counts_padding(model):
        kinds = [(row.is_text, n, len(row.prefix)) for row, n in zip(rows, ahead, strict=True)]

    def place(i: int) -> tuple[Any, ...]:
        row, n = rows[i], ahead[i]
        return kinds[i], n, row.prefix[:n], len(row.prefix), i

    batch: list[int] = []
    longest = cached = 0
    for index in sorted(range(len(rows)), key=place):
        tail = rows[index].cost - ahead[index]
        longest, cached = max(longest, tail), max(cached, ahead[index])
        width = max(longest, cached / CACHED_PER_TOKEN)
        full = (len(batch) + 1) * width * copies > budget
        if batch and (full or kinds[batch[0]] != kinds[index]):
            yield batch
            batch, longest, cached = [], tail, ahead[index]
        batch.append(index)
    if batch:
        yield batch


def left_pad(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, int64 [B, longest row]."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for b, row in enumerate(rows):
        ids[b, width - len(row) :] = torch.tensor(row)
        mask[b, width - len(row) :] = 1
    return ids.to(device), mask.to(device)


def after(
    rows: Sequence[Sequence[int]], cached: Cached | None, pad: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """What :func:`forward` takes to read rows on from what is cached of them.

    Args:
        rows: Token ids of B whole rows.
        cached: Their beginnings, read before; None: nothing was.
        pad: A token id to pad with.
        device: Of the model.

    Returns:
        Ids and positions of what is left of the rows, int64 [B, T], left-padded; the mask over
        cached and new columns; and the cache, as keyword arguments.
    """
    read = [0] * len(rows) if cached is None else cached.lengths
    ids, mask = left_pad([row[n:] for row, n in zip(rows, read, strict=True)], pad, device)
    how: dict[str, Any] = {}
    if cached is not None:
        mask = torch.cat([cached.mask, mask], 1)
        how = {"use_cache": True, "past_key_values": cached.cache}
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    return ids, mask, positions, how


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
        mask: int64 [B, T], or longer by what is cached.
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
