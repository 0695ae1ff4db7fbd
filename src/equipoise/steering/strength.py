"""The strength ω: what may be set, and how it meets a batch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from equipoise.errors import SteeringError

Strength = float | Sequence[float] | Tensor


def as_strength(value: Strength) -> Tensor:
    """A strength as a tensor, 0-d (for every row) or 1-D (one per row of the batch).

    A tensor that is learned stays itself, so that a loss can be differentiated by the strength;
    of any other a float32 copy is made, which later changes of it do not reach.

    Raises:
        SteeringError: NaN or infinite, empty, or of more than one dimension.
    """
    tensor = value if isinstance(value, Tensor) else _tensor(value)
    if tensor.ndim > 1 or tensor.numel() == 0:
        raise SteeringError(
            f"strength must be a number, or one number per row; got shape {tuple(tensor.shape)}"
        )
    if not tensor.requires_grad:
        # Set in inference mode, it must serve a pass with autograd too.
        with torch.inference_mode(False):
            tensor = tensor.to(torch.float32, copy=True)
    seen = tensor.detach()
    if not bool(seen.isfinite().all()):
        raise SteeringError(f"strength must be finite; got {seen.tolist()}")
    outside = seen[(seen < 0) | (seen > 1)]
    if len(outside):
        got = sorted({round(value, 6) for value in outside.tolist()})
        warnings.warn(
            f"strength outside [0, 1] extrapolates beyond what was fitted; got {got}",
            stacklevel=3,
        )
    return tensor


def _tensor(value: float | Sequence[float]) -> Tensor:
    try:
        return torch.tensor(value, dtype=torch.float32)
    except (TypeError, ValueError):
        raise SteeringError(f"strength must be a number or numbers; got {value!r}") from None
