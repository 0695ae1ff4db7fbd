"""How large activations are at each site, the proximal ℓ1 step, and pruning by effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.decisions.batch import Batch
from equipoise.decisions.encode import Encoded
from equipoise.decisions.score import score
from equipoise.models import Model
from equipoise.steering import Affine, Steering


def site_scale(model: Model, paths: Sequence[str], rows: Sequence[Encoded]) -> dict[str, Tensor]:
    """Root mean square of every unit at each site over the rows' tokens, {path: float32 [d]}.

    Measured on the unsteered model, rows of one shape together: padding would count.
    """
    squares: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def record(path: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
            flat = output.detach().float().flatten(0, -2)
            squares[path] = squares.get(path, 0) + flat.square().sum(0)
            counts[path] = counts.get(path, 0) + len(flat)

        return hook

    handles = [model.hf.get_submodule(p).register_forward_hook(record(p)) for p in paths]
    try:
        with torch.no_grad():
            for _, alike in groupby(sorted(rows, key=_shape), key=_shape):
                score(model.hf, Batch.of(list(alike)))
    finally:
        for handle in handles:
            handle.remove()
    return {p: (squares[p] / counts[p]).sqrt().clamp(min=1e-6) for p in paths}


def _shape(row: Encoded) -> tuple[int, list[int]]:
    return len(row.prefix), [len(suffix) for suffix in row.suffixes]


def parts(steering: Steering) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Every learned vector: (site key, "a" or "b", parameter)."""
    for key, transform in steering.transforms.items():
        assert isinstance(transform, Affine)
        for name in ("a", "b"):
            value = getattr(transform, name)
            if value is not None:
                yield key, name, value


@torch.no_grad()
def proximal_l1(parameter: Tensor, step: Tensor | float) -> None:
    """Soft threshold in place: the proximal map of step · ‖x‖₁. Gives exact zeros."""
    parameter.copy_(parameter.sign() * (parameter.abs() - step).clamp(min=0))


@torch.no_grad()
def keep_top_share(steering: Steering, share: float, scale: Mapping[str, Tensor]) -> None:
    """Zero all but the given share of entries, by how much they move an activation.

    The effect of aᵢ is |aᵢ| times the usual size of unit i; that of bᵢ is |bᵢ|.
    """
    effects = [
        (value, value.abs() * scale[key].to(value) if name == "a" else value.abs())
        for key, name, value in parts(steering)
    ]
    flat = torch.cat([effect.flatten().cpu() for _, effect in effects])
    kept = max(1, round(share * len(flat)))
    threshold = float(flat.topk(kept).values[-1])
    for value, effect in effects:
        value.masked_fill_(effect < threshold, 0.0)
