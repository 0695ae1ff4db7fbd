"""The second pass: options longer than what they share, read on top of the prompts' cache.

Where a cache holds more than keys and values (recurrent states), or there is none, prompt and
option are read anew in one row: several tokens at once seldom go on from such a state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from equipoise.decisions.arguments import arguments, behind
from equipoise.decisions.encode import Encoded
from equipoise.decisions.forward import forward, told
from equipoise.models.backbone import text_config
from equipoise.steering.attach.cache import select_rows

if TYPE_CHECKING:
    from equipoise.steering.attach.attachment import Attachment


def keeps_keys(model: nn.Module) -> bool:
    """Whether a model's cache is keys and values alone, which several rows can go on from."""
    if getattr(behind(model), "_is_stateful", False):
        return False
    if "past_key_values" not in arguments(model):
        return False
    kinds = getattr(text_config(model), "layer_types", None) or ()
    return all(kind.endswith("attention") and kind != "linear_attention" for kind in kinds)


def keeps_all(model: nn.Module) -> bool:
    """Whether it keeps those of all tokens; sliding windows forget, and count padding."""
    config = text_config(model)
    # GPT-Neo, whose windows count padding too, has a name of its own for its layers.
    names = ("layer_types", "attention_layers")
    kinds = [kind for name in names for kind in getattr(config, name, None) or ()]
    forgets = getattr(config, "sliding_window", None) is not None or any(
        kind not in ("full_attention", "global") for kind in kinds
    )
    return not forgets and keeps_keys(model)


def options_after(
    model: nn.Module,
    rows: Sequence[Encoded],
    prompts: Tensor,
    mask: Tensor,
    cache: Any,
    copies: int,
    attachment: Attachment | None,
) -> Tensor:
    """Read the options' tokens, each option after its prompt.

    Args:
        model: A causal LM.
        rows: n rows.
        prompts: int64 [n · copies, T]; token ids of the prompts, as far as they are not cached.
        mask: int64 [n · copies, cached + T].
        cache: What the model keeps of the prompts; None: they are read again.
        copies: How often each row was read, side by side.
        attachment: The attached steering, if any.

    Returns:
        float32 [M, copies, V]; log-probabilities after each proper beginning of an option, in the
        order of :class:`equipoise.decisions.nodes.Nodes`.
    """
    device = mask.device
    longer = [(b, s) for b, row in enumerate(rows) for s in row.suffixes if len(s) > 1]
    length = max(len(suffix) for _, suffix in longer) - 1
    read = torch.zeros(len(longer), length, dtype=torch.long)
    sizes = torch.tensor([len(suffix) - 1 for _, suffix in longer])
    for r, (_, suffix) in enumerate(longer):
        read[r, : len(suffix) - 1] = torch.tensor(suffix[:-1])
    reads = (torch.arange(length) < sizes[:, None]).to(mask).repeat_interleave(copies, 0)
    read = read.to(device).repeat_interleave(copies, 0)
    source = torch.tensor([b * copies + c for b, _ in longer for c in range(copies)], device=device)
    prompt_mask = mask[source]
    full_mask = torch.cat([prompt_mask, reads], 1)
    positions = prompt_mask.sum(1, keepdim=True) + torch.arange(length, device=device)
    how = {"past_key_values": cache}
    if cache is None:
        read, how = torch.cat([prompts[source], read], 1), {"use_cache": False}
        positions = torch.cat([(prompt_mask.cumsum(1) - 1).clamp(min=0), positions], 1)
        how["logits_to_keep"] = torch.arange(read.shape[1] - length, read.shape[1], device=device)
    else:
        select_rows(cache, source.cpu())  # its layers may be on several devices
    with _following(attachment, source):
        logits = forward(model, read, full_mask, positions, **how).logits
    once = _first_occurrences(longer, length).to(device)
    found = logits.float().log_softmax(-1).unflatten(0, (-1, copies))
    return found.transpose(1, 2)[once]


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


def _first_occurrences(longer: Sequence[tuple[int, Sequence[int]]], length: int) -> Tensor:
    """Bool [R, length]: the first place each proper beginning of a row's options occurs."""
    seen: set[tuple[int, tuple[int, ...]]] = set()
    out = torch.zeros(len(longer), length, dtype=torch.bool)
    for r, (b, suffix) in enumerate(longer):
        for end in range(1, len(suffix)):
            key = (b, tuple(suffix[:end]))
            if key not in seen:
                seen.add(key)
                out[r, end - 1] = True
    return out
