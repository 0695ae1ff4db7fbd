"""Bake a steering at one strength into ordinary weights.

The output h of a norm becomes (1 + ωa) ⊙ h + ωb. The slope goes into the norm's own scale; the
shift into its bias, or, where it has none, into the biases of the linears that read it:
W(h + ωb) = Wh + ωWb. Where neither exists, folding is refused: a stock class would drop the bias
when the checkpoint is loaded.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from equipoise.errors import SteeringError
from equipoise.models.backbone import text_config
from equipoise.models.model import Model, unwrap
from equipoise.steering.fold_llama import as_llama_model, fits_llama
from equipoise.steering.fold_plan import Edit, plan, scale_norm
from equipoise.steering.preflight import check_attachable
from equipoise.steering.runtime import Runtime

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
        steering: Transforms at norm outputs, for all tokens, without a gate.
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
    if not math.isfinite(strength):
        raise SteeringError(f"strength must be a finite number; got {strength}")
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
    edits = plan(folded, steering, strength, _ways_out(root, as_llama))
    _grow_biases(folded, edits)
    for edit in edits:
        _bake(folded, edit)
    return folded


def _ways_out(root: nn.Module, as_llama: bool) -> str:
    ways = ["fit slopes only (parameters='slope')", "fit the foldable profile"]
    if not as_llama and fits_llama(root):
        ways.append("export as a Llama checkpoint (--as-llama; not for the last norm)")
    return f"{', '.join(ways)}, or serve the steering attached"


def _copy(root: nn.Module) -> PreTrainedModel:
    """A copy with parameters of its own over the same storage: a 70 B model fits only once."""
    memo: dict[int, object] = {
        id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad)
        for p in root.parameters()
        if type(p) is nn.Parameter
    }
    return cast("PreTrainedModel", copy.deepcopy(root, memo))


def _grow_biases(model: PreTrainedModel, edits: list[Edit]) -> None:
    """Switch on the configuration flags the homes need, and make every bias these bring, zero."""
    flags: Mapping[str, bool] = {k: v for e in edits if e.shifts for k, v in e.home.flags.items()}
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


def _bake(model: PreTrainedModel, edit: Edit) -> None:
    norm = model.get_submodule(edit.path)
    scale_norm(norm, edit.gain, edit.shift, edit.offset)
    if not edit.shifts:
        return
    for path in edit.home.linears:
        linear = model.get_submodule(path)
        bias, weight = getattr(linear, "bias", None), cast("torch.Tensor", linear.weight)
        if not isinstance(bias, nn.Parameter) or not weight.is_floating_point():
            raise SteeringError(
                f"cannot fold the bias of {edit.path} into {path}: a "
                f"{type(linear).__name__} without a plain weight and bias"
            )
        exact = weight.detach().double()
        # Conv1D of GPT-2 keeps its weight as [in, out].
        exact = exact.T if type(linear).__name__ == "Conv1D" else exact
        more = exact @ edit.shift.to(exact.device)
        linear.bias = nn.Parameter(
            (bias.detach().double() + more).to(bias), requires_grad=bias.requires_grad
        )
