"""The slope and shift of a transform: what folding and export can express."""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.errors import SteeringError
from equipoise.steering.transforms import Additive, Affine, Replace, Scale, Transform


def affine_form(transform: Transform) -> tuple[Tensor | None, Tensor | None]:
    """The a and b [d] of ĥ = h + ω (a ⊙ h + b); None where there is none, never both.

    Raises:
        SteeringError: The transform is no such map.
    """
    if isinstance(transform, Affine):
        return transform.a, transform.b
    if isinstance(transform, Additive):
        return None, transform.v
    if isinstance(transform, Scale):
        return transform.slope, None
    if isinstance(transform, Replace):
        return -torch.ones_like(transform.v), transform.v
    raise SteeringError(f"a {transform.kind!r} transform is not of the form h + ω (a ⊙ h + b)")
