"""Whether a cache holds what an uncached pass would compute now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from equipoise.errors import SteeringError
from equipoise.steering.attach.forward import Forward
from equipoise.steering.strength import Setting

if TYPE_CHECKING:
    from equipoise.steering.attach.attachment import Attachment


def check_cache(attachment: Attachment, setting: Setting, forward: Forward) -> None:
    """Refuse a cache whose tokens an attachment would steer otherwise than it did.

    Args:
        attachment: The attachment.
        setting: The strength of this pass.
        forward: A pass that goes on from a cache.

    Raises:
        SteeringError: They were steered at another strength, or by prompts that ended elsewhere.
    """
    scope, now = attachment.steering.scope, setting.values
    filled = forward.stamp.strengths.get(attachment.uid) if forward.stamp else None
    filled = filled or (0.0,)
    same = _same(filled, now)
    if same and (setting.off or not scope.told_by_prompt or forward.same_prompts()):
        return
    if scope.told_by_prompt and torch.equal(
        _amounts(attachment, forward, filled, forward.cached_lengths()),
        _amounts(attachment, forward, now, forward.prompt_lengths()),
    ):
        return
    if same:
        raise SteeringError(
            f"the cache was filled under prompts of other lengths, and the token scope '{scope}' "
            "would steer cached tokens otherwise now: start from an empty cache, or take a scope "
            "that does not depend on where the prompt ends"
        )
    raise SteeringError(
        f"the cache was filled at strength {_shown(filled)}, this call runs at {_shown(now)}: "
        "start from an empty cache"
    )


def _amounts(
    attachment: Attachment, forward: Forward, strengths: tuple[float, ...], lengths: Tensor | None
) -> Tensor:
    """Strength of each cached token, float32 [rows, past]; of lengths unknown, none was steered."""
    index, real = forward.cached_layout()
    strength = torch.tensor(strengths, device=forward.device)
    if lengths is None or not strength.any():
        return torch.zeros(index.shape, device=forward.device)
    if len(strengths) > 1:
        strength = forward.expand(strength, "cached strengths")
    return attachment.steering.scope.covers(index, real, lengths) * strength[:, None]


def _same(filled: tuple[float, ...], now: tuple[float, ...]) -> bool:
    long, short = (filled, now) if len(filled) >= len(now) else (now, filled)
    if len(long) % len(short):
        return False
    repeat = len(long) // len(short)
    return long == tuple(value for value in short for _ in range(repeat))


def _shown(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else str([round(v, 4) for v in values])
