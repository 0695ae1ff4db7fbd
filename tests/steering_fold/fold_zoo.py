"""Tiny models from the walk, steerings for them, and a slow reading of the steering map."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from architectures.checks import random_steering
from architectures.tiny import build

from equipoise.steering import Affine, Steering

__all__ = ["STRENGTH", "build", "ids", "logits", "random_steering", "slowly_steered"]

STRENGTH = 0.6


def ids(rows: int = 2) -> Tensor:
    """int64 [rows, 9]."""
    return torch.randint(3, 90, (rows, 9), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def logits(model: nn.Module, rows: int = 2) -> Tensor:
    return model(input_ids=ids(rows), use_cache=False).logits


def slowly_steered(model: PreTrainedModel, steering: Steering, strength: float) -> Tensor:
    """Logits under ĥ = h + ω (a ⊙ h + b), by plain hooks that read as the equation does."""

    def hook(transform: Affine):
        def apply(module: nn.Module, args: object, h: Tensor) -> Tensor:
            a = 0 if transform.a is None else transform.a
            b = 0 if transform.b is None else transform.b
            return h + strength * (a * h + b)

        return apply

    handles = [
        model.get_submodule(path).register_forward_hook(hook(transform))
        for path, transform in steering.transforms.items()
    ]
    try:
        return logits(model)
    finally:
        for handle in handles:
            handle.remove()
