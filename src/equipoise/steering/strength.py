"""The strength ω: what may be set, and how it meets a batch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property

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


class Setting:
    """A strength, and the state of the parameters it meets; a pass keeps the one it began with.

    Also what coefficients are kept by: another strength, or other parameters, are another object.

    Attributes:
        strength: 0-d, or 1-D; a strength that is learned is the caller's own tensor.
        changes: How often that had been changed in place; only its owner can.
        per_row: Whether each row has its own.
        off: Whether nothing is steered, nor a gradient wanted.
        thread: The only thread with a pass that goes by it, where that is known.
    """

    def __init__(self, strength: Tensor) -> None:
        self.strength = strength
        self.changes = changes_of(strength)
        self.thread: int | None = None
        self.per_row = strength.ndim > 0
        self.off = not strength.requires_grad and bool((strength == 0).all())
        self._devices: dict[torch.device, Tensor] = {}

    @cached_property
    def values(self) -> tuple[float, ...]:
        """The strength as numbers: one, or one per row."""
        return tuple(self.strength.detach().float().reshape(-1).tolist())

    def on(self, device: torch.device) -> Tensor:
        """The strength on a device, float32."""
        if self.strength.requires_grad:
            return self.strength.float().to(device)  # anew, for the graph of each pass
        if device not in self._devices:
            with torch.inference_mode(False):
                self._devices[device] = self.strength.to(device)
        return self._devices[device]


def changes_of(strength: Tensor) -> int:
    """How often a strength that is learned was changed in place."""
    return strength._version if strength.requires_grad else 0


def _tensor(value: float | Sequence[float]) -> Tensor:
    try:
        return torch.tensor(value, dtype=torch.float32)
    except (TypeError, ValueError):
        raise SteeringError(f"strength must be a number or numbers; got {value!r}") from None
