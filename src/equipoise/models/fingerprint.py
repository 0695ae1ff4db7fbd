"""A fingerprint of a model's weights: fast, and the same in float32 and bfloat16."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.errors import SteeringError
from equipoise.models.model import Model, unwrap

_SAMPLE = 64
_STRUCTURE = 16


def fingerprint(model: Model | nn.Module) -> str:
    """64 hex digits: 16 of the structure (names and shapes), 48 of a sample of the values.

    At most 64 evenly spaced entries of every parameter are read, rounded to bfloat16: the same
    weights in float32 and bfloat16 agree. float16 (which loses small values) and quantised
    weights have fingerprints of their own.

    Raises:
        SteeringError: The weights are not in memory.
    """
    root = unwrap(model)
    structure, values = hashlib.sha256(), hashlib.sha256()
    structure.update(str(getattr(getattr(root, "config", None), "model_type", "")).encode())
    samples: list[Tensor] = []
    for name, parameter in root.named_parameters():
        weights = _offloaded(root, name) if parameter.is_meta else parameter
        if weights is None:
            raise SteeringError(
                f"{name} is on the meta device, so its weights cannot be compared to "
                "those the steering was made for; allow the mismatch (--allow-mismatch) to go on "
                "without"
            )
        structure.update(f"{name}{tuple(parameter.shape)}".encode())
        samples.append(_sample(weights))
    for sample in _to_cpu(samples):
        values.update(sample.view(torch.int16).numpy().tobytes())
    return structure.hexdigest()[:_STRUCTURE] + values.hexdigest()[: 64 - _STRUCTURE]


def explain(expected: str, found: str, name: str) -> str:
    """One line on how two fingerprints differ."""
    made_for = f"this steering was made for {name or 'another model'}"
    if expected[:_STRUCTURE] != found[:_STRUCTURE]:
        return (
            f"{made_for}; this model's parameters have other names or shapes, also where nothing "
            "is steered (folded, with an adapter, with another vocabulary?): load the model it was "
            "made for, or allow the mismatch (--allow-mismatch)"
        )
    return (
        f"{made_for}; this model has its shapes but other weights (folded, trained further, or "
        "float16 or quantised): load the model it was made for, or allow the mismatch "
        "(--allow-mismatch) if it is a fine-tune of it"
    )


def _offloaded(root: nn.Module, name: str) -> Tensor | None:
    """Weights that accelerate keeps on disk or in memory for a parameter on the meta device."""
    path, _, leaf = name.rpartition(".")
    hook: Any = getattr(root.get_submodule(path), "_hf_hook", None)
    maps = (getattr(one, "weights_map", None) for one in getattr(hook, "hooks", [hook]))
    weights: Tensor | None = next((kept[leaf] for kept in maps if kept is not None), None)
    return weights


def _sample(weights: Tensor) -> Tensor:
    weights = weights.detach()
    try:
        flat = weights.reshape(-1)
    except NotImplementedError:  # quantised, as a tensor of its own kind (torchao)
        flat = weights.dequantize().reshape(-1)
    step = max(flat.numel() // _SAMPLE, 1)
    return flat[::step][:_SAMPLE].to(torch.bfloat16)


def _to_cpu(samples: list[Tensor]) -> list[Tensor]:
    """The samples in their order, by one transfer per device rather than one per parameter."""
    moved: list[Tensor] = list(samples)
    for device in {sample.device for sample in samples}:
        here = [i for i, sample in enumerate(samples) if sample.device == device]
        joined = torch.cat([samples[i] for i in here]).cpu()
        sizes = [samples[i].numel() for i in here]
        for i, sample in zip(here, joined.split(sizes), strict=True):
            moved[i] = sample
    return moved
