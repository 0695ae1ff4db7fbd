"""Bake a steering at one strength into ordinary weights.

The output h of a norm becomes (1 + ωa) ⊙ h + ωb. The slope goes into the norm's own scale, the
shift into its bias; where it lacks them, into the weights and biases of the linears that read it. A
vector added to what another module returns goes into a bias in it. What has no such home is
refused: a stock class would drop a bias it does not know when the checkpoint is loaded.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from equipoise.errors import SteeringError
from equipoise.models.backbone import text_config
from equipoise.models.model import Model, unwrap
from equipoise.steering.attach.preflight import check_attachable
from equipoise.steering.attach.runtime import Runtime
from equipoise.steering.fold.llama import as_llama_model, fits_llama
from equipoise.steering.fold.plan import plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from equipoise.steering.steering import Steering


def fold(
    model: Model | nn.Module,
    steering: Steering,
    strength: float,
    *,
    allow_mismatch: bool = False,
    as_llama: bool = False,
) -> PreTrainedModel:
    """A copy of a model that is, without any hooks, what the steered model is at one strength.

    Args:
        model: The base model, with nothing attached. It is not changed.
        steering: Transforms of norms and of what linears read, vectors added to what other modules
            return; for all tokens, without a gate.
        strength: ω, one number.
        allow_mismatch: Take a model of other weights than the steering was made for.
        as_llama: Return a ``LlamaForCausalLM``, whose norms all but the last can take a bias;
            exact for models that are a Llama under another name.

    Returns:
        A model of the same class (or Llama's). Weights that folding does not touch are *shared*
        with the base model: change neither in place, or copy first.

    Raises:
        SteeringError: The steering does not belong to this model, or part of it has no place in
            an ordinary checkpoint of this architecture.
    """
    root = unwrap(model)
    if not (isinstance(strength, Real) and math.isfinite(strength)):
        raise SteeringError(f"a fold has one strength, a finite number; got {strength!r}")
    if Runtime.of(root) is not None:
        raise SteeringError("a steering is attached to the model: detach it before folding")
    check_attachable(steering, root, allow_mismatch=allow_mismatch)
    away = next((name for name, p in root.named_parameters() if p.is_meta), None)
    if away is not None:
        raise SteeringError(
            f"cannot fold a model whose weights are offloaded ({away}): load it whole, on the CPU "
            "if need be"
        )
    folded = as_llama_model(root) if as_llama else _copy(root)
    changes = plan(folded, steering, strength, _ways_out(root, as_llama))
    _grow_biases(folded, changes.flags)
    for edit in changes.edits:
        edit.bake(folded)
    return folded


def _ways_out(root: nn.Module, as_llama: bool) -> list[str]:
    ways = ["serve the steering attached"]
    if not as_llama and fits_llama(root):
        ways.insert(0, "export as a Llama checkpoint (--as-llama; not for the last norm)")
    return ways


def _copy(root: nn.Module) -> PreTrainedModel:
    """A copy with parameters of its own over the same storage: a 70 B model fits only once."""
    memo: dict[int, object] = {
        id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad)
        for p in root.parameters()
        if type(p) is nn.Parameter
    }
    return cast("PreTrainedModel", copy.deepcopy(root, memo))


def _grow_biases(model: PreTrainedModel, flags: Mapping[str, bool]) -> None:
    """Switch on the configuration flags the homes need, and make every bias these bring, zero."""
    if not flags:
        return
    for name, value in flags.items():
        setattr(text_config(model), name, value)
    with torch.device("meta"):
        stock = type(model)(copy.deepcopy(model.config))
    have = dict(model.named_parameters())
    for name, parameter in stock.named_parameters():
        if name in have:
            continue
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        if leaf != "bias":
            raise SteeringError(f"{', '.join(flags)} would add {name} to {type(model).__name__}")
        like = cast("torch.Tensor", module.weight)
        zeros = torch.zeros(parameter.shape, dtype=like.dtype, device=like.device)
        module.bias = nn.Parameter(zeros, requires_grad=like.requires_grad)
