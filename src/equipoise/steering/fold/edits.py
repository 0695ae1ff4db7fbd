"""What folding does to a module of the checkpoint, in its weight and bias."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from equipoise.errors import SteeringError
from equipoise.steering.transforms import check_finite


@dataclass(frozen=True)
class Edit:
    """A map x ↦ ``gain ⊙ x + shift`` on one end of a module.

    Attributes:
        path: Module path: a norm, or a linear.
        end: ``returns``: on what it returns (of a linear: the shift alone); ``reads``: on what a
            linear reads.
        gain: float64 [d] on CPU.
        shift: float64 [d] on CPU.
        offset: A norm scales by ``offset + weight``: 0, or 1 for Gemma's way of storing it.
    """

    path: str
    end: Literal["returns", "reads"]
    gain: Tensor
    shift: Tensor
    offset: float = 0.0

    def then(self, later: Edit) -> Edit:
        """This edit followed by one of the same end of the same module."""
        shift = later.gain * self.shift + later.shift
        offset = max(self.offset, later.offset)
        return Edit(self.path, self.end, later.gain * self.gain, shift, offset)

    def bake(self, model: nn.Module) -> None:
        """Make it so: the module's parameters are replaced, the old ones left as they are.

        Raises:
            SteeringError: The module has no plain weight, or no bias for a shift.
        """
        module = model.get_submodule(self.path)
        if self.end == "reads":
            _read(module, self)
        elif bool((self.gain != 1).any()):
            scale_norm(module, self.gain, self.shift, self.offset)
        else:
            _add_to_bias(module, self.shift, self.path)
        for name, parameter in module.named_parameters(recurse=False):
            check_finite(parameter, f"{self.path}.{name}, folded in {parameter.dtype},")


def merged(edits: Iterable[Edit]) -> list[Edit]:
    """One edit per end of a module, so that each weight is rounded once.

    Args:
        edits: Those of the same end of the same module in the order in which they act.
    """
    by_place: dict[tuple[str, str], Edit] = {}
    for edit in edits:
        place = edit.path, edit.end
        by_place[place] = by_place[place].then(edit) if place in by_place else edit
    return list(by_place.values())


def scale_norm(norm: nn.Module, gain: Tensor, shift: Tensor, offset: float) -> None:
    """Make a norm return ``gain ⊙ h + shift`` where it returned h; its parameters are replaced.

    A shift that is not zero needs a norm with a bias.
    """
    weight = cast(Tensor, norm.weight)
    norm.weight = _rounded((offset + _exact(weight)) * gain - offset, weight)
    bias = getattr(norm, "bias", None)
    if isinstance(bias, nn.Parameter):
        norm.bias = _rounded(_exact(bias) * gain + shift, bias)


def _read(linear: nn.Module, edit: Edit) -> None:
    weight = cast(Tensor, linear.weight)
    if not isinstance(weight, nn.Parameter) or not weight.is_floating_point():
        raise SteeringError(
            f"cannot fold into {edit.path}: a {type(linear).__name__} without a plain weight"
        )
    # Conv1D of GPT-2 keeps its weight as [in, out].
    columns = type(linear).__name__ != "Conv1D"
    exact = weight.detach().double()
    if bool(edit.shift.any()):
        shift = edit.shift.to(exact.device)
        _add_to_bias(linear, (exact if columns else exact.T) @ shift, edit.path)
    if bool((edit.gain != 1).any()):
        gain = edit.gain.to(exact.device)
        linear.weight = _rounded(exact * (gain if columns else gain[:, None]), weight)


def _add_to_bias(module: nn.Module, shift: Tensor, path: str) -> None:
    if not bool(shift.any()):
        return
    bias = getattr(module, "bias", None)
    if not isinstance(bias, nn.Parameter):
        raise SteeringError(
            f"cannot fold a bias into {path}: a {type(module).__name__} without a plain bias"
        )
    module.bias = _rounded(bias.detach().double() + shift.to(bias.device), bias)


def _rounded(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(like), requires_grad=like.requires_grad)


def _exact(parameter: Tensor) -> Tensor:
    return parameter.detach().to("cpu", torch.float64)
