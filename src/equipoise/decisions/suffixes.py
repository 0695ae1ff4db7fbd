"""The second pass: options longer than what they share, read on top of the prompts' cache.

Where a cache holds more than keys and values (recurrent states), or there is none, prompt and
option are read anew in one row: several tokens at once seldom go on from such a state.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from equipoise.decisions.batch import forward, told
from equipoise.models.backbone import text_config
from equipoise.steering.attach.cache import select_rows

if TYPE_CHECKING:
    from equipoise.steering.attach.attachment import Attachment


@dataclass(frozen=True)
class Steps:
    """The second pass over R suffixes of up to L + 1 tokens.

    ``token`` [R, L]: log-probability of each token after the first; ``valid`` [R, L]: whether
    there is one; ``log_probs`` [R, L, V]: the distributions they were taken from.
    """

    token: Tensor
    valid: Tensor
    log_probs: Tensor


def keeps_keys(model: nn.Module) -> bool:
    """Whether a model's cache is keys and values alone, which several rows can go on from."""
    if getattr(model, "_is_stateful", False):
        return False
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return False
    kinds = getattr(text_config(model), "layer_types", None) or ()
    return all(kind.endswith("attention") and kind != "linear_attention" for kind in kinds)


def second_pass(
    model: nn.Module,
    prompts: Tensor,
    mask: Tensor,
    cache: Any,
    source: Tensor,
    suffixes: Sequence[Sequence[int]],
    attachment: Attachment | None,
    pad: int,
) -> Steps:
    """Read the suffixes, each after its prompt.

    Args:
        model: A causal LM.
        prompts: int64 [B, T]; token ids of the prompts, as far as they are not cached.
        mask: int64 [B, cached + T].
        cache: What the model keeps of the prompts; None: they are read again.
        source: int64 [R]; which prompt each suffix goes on from.
        suffixes: R suffixes.
        attachment: The attached steering, if any.
        pad: A token id to pad with.
    """
    device = mask.device
    length = max(map(len, suffixes)) - 1
    ids = torch.full((len(suffixes), length + 1), pad, device=device)
    for r, suffix in enumerate(suffixes):
        ids[r, : len(suffix)] = torch.tensor(suffix, device=device)
    sizes = torch.tensor([len(s) for s in suffixes], device=device)
    valid = torch.arange(1, length + 1, device=device)[None] < sizes[:, None]
    reads = valid.to(mask.dtype)
    prompt_mask = mask[source]
    full_mask = torch.cat([prompt_mask, reads], 1)
    positions = prompt_mask.sum(1, keepdim=True) + torch.arange(length, device=device)
    read, how = ids[:, :-1], {"past_key_values": cache}
    if cache is None:
        read, how = torch.cat([prompts[source], read], 1), {"use_cache": False}
        positions = torch.cat([(prompt_mask.cumsum(1) - 1).clamp(min=0), positions], 1)
        how["logits_to_keep"] = torch.arange(read.shape[1] - length, read.shape[1], device=device)
    else:
        select_rows(cache, source.cpu())  # its layers may be on several devices
    with _following(attachment, source):
        logits = forward(model, read, full_mask, positions, **how).logits
    log_probs = logits.float().log_softmax(-1)
    token = log_probs.gather(-1, ids[:, 1:, None]).squeeze(-1)
    return Steps(token, valid, log_probs)


@contextlib.contextmanager
def _following(attachment: Attachment | None, source: Tensor) -> Iterator[None]:
    """Per-row settings of an attachment rearranged as the rows are, for the time of a pass."""
    if attachment is None:
        yield
        return
    strength = attachment.strength
    if strength.ndim:
        attachment.strength = strength[source.to(strength.device)]
    lengths, decision = (
        None if value is None else value[source.to(value.device)]
        for value in (attachment.prompt_lengths, attachment.decision)
    )
    try:
        with told(attachment, lengths, decision):
            yield
    finally:
        attachment.strength = strength


def distinct_beginnings(
    source: Sequence[int], suffixes: Sequence[Sequence[int]], device: torch.device
) -> Tensor:
    """Bool [R, L]: the first place each proper beginning of a row's options occurs."""
    length = max(map(len, suffixes)) - 1
    seen: set[tuple[int, tuple[int, ...]]] = set()
    out = torch.zeros(len(suffixes), length, dtype=torch.bool)
    for r, (b, suffix) in enumerate(zip(source, suffixes, strict=True)):
        for end in range(1, len(suffix)):
            key = (b, tuple(suffix[:end]))
            if key not in seen:
                seen.add(key)
                out[r, end - 1] = True
    return out.to(device)
