"""The forward hooks of an attachment; objects, so that a steered model can be copied."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from equipoise.errors import SteeringError
from equipoise.steering.address import Address, activation
from equipoise.steering.attach.factor import factor
from equipoise.steering.attach.reading import decide_rows
from equipoise.steering.gates import Gate
from equipoise.steering.strength import Setting
from equipoise.steering.transforms import Coefficients, Transform

if TYPE_CHECKING:
    from equipoise.steering.attach.attachment import Attachment


class _Kept(NamedTuple):
    """What a site is steered by, and what it was prepared for."""

    setting: Setting
    dtype: torch.dtype
    device: torch.device
    batch: Any
    coefficients: Coefficients
    steer: Callable[[Tensor, Coefficients], Tensor]


class SiteHook:
    """Applies one transform at one site.

    The coefficients of the last call are kept: while strength, parameters and the activation's
    dtype and device stay the same, a call costs one pass over the activation.
    """

    def __init__(self, attachment: Attachment, transform: Transform, address: Address) -> None:
        self.attachment, self.transform, self.address = attachment, transform, address
        self._kept: _Kept | None = None
        self._whole = address.span is None

    def steered(self, value: Any, module: nn.Module) -> Any:
        """The module's output (or arguments) with the activation steered; None: as it was."""
        setting, fresh = None, True
        if not is_compiling():
            fresh = torch.is_grad_enabled()
            setting = self.attachment.runtime.passes.setting(self.attachment)
            # At strength 0 the base's own bits are the answer, unless a gradient is wanted.
            if setting is None or (setting.off and not fresh):
                return None
        h = activation(value, module)
        part = self.address.take(h)
        new = self.address.put(h, self._steered(part, setting, fresh))
        if not isinstance(value, tuple):
            return new
        whole = (new, *value[1:])
        return value._make(whole) if hasattr(value, "_make") else whole  # a named tuple stays one

    def _steered(self, h: Tensor, setting: Setting | None, fresh: bool) -> Tensor:
        if h.shape[-1] != self.transform.width:
            raise SteeringError(
                f"{self.address.path}: the steering is {self.transform.width} wide, "
                f"the activation {h.shape[-1]}"
            )
        if setting is None or fresh:
            return self.transform(h, factor(self.attachment, setting, h, self.address.path))
        if not self.attachment.static:
            strength = factor(self.attachment, setting, h, self.address.path)
            return self.transform.steer_tokens(h, strength.to(h))
        kept = self._prepared(h, setting)
        return kept.steer(h, kept.coefficients)

    def _prepared(self, h: Tensor, setting: Setting) -> _Kept:
        batch = self.attachment.batch(h) if setting.per_row else None
        state = (setting, h.dtype, h.device, batch)
        kept = self._kept  # another thread may put its own there
        if kept is None or kept[: len(state)] != state:
            strength = factor(self.attachment, setting, h, self.address.path)
            coefficients = self.transform.prepare(strength, h)
            kept = self._kept = _Kept(*state, coefficients, self.transform.steer)
        return kept

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": None}


class OutputHook(SiteHook):
    """Steers what a module returns."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """The steered output."""
        if not is_compiling() and self._kept is not None:
            # The short way, for most calls by far. The weights that went through the caches
            # since the last site left them cold, so every object that is looked at costs: the
            # transform is left alone.
            setting, dtype, device, batch, coefficients, steer = self._kept
            if (
                setting.thread == get_ident()
                and batch is None
                and not torch.is_grad_enabled()
                and type(output) is Tensor
                and output.dtype is dtype
                and output.device == device
                and self._whole
            ):
                return steer(output, coefficients)
        return self.steered(output, module)


class InputHook(SiteHook):
    """Steers a module's first input."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        """The arguments, the first of them steered."""
        return self.steered(args, module)


class GateHook:
    """Lets a gate read its site, where that comes before everything that is steered."""

    def __init__(self, attachment: Attachment, gate: Gate) -> None:
        self.attachment, self.gate = attachment, gate
        self.address = Address.parse(gate.site)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any = None) -> None:
        """Note the gate's decisions for this pass."""
        forward = self.attachment.runtime.forward
        if forward is None or self.attachment.runtime.passes.setting(self.attachment) is None:
            return
        uid, row_gate = self.attachment.uid, self.attachment.row_gate
        if row_gate is not None and (uid in forward.decisions or row_gate.waits(forward)):
            return
        h = self.address.take(activation(args if self.address.input else output, module))
        if row_gate is not None:
            forward.decisions[uid] = decide_rows(self.gate, h, forward)
        else:
            with torch.no_grad():
                forward.token_decisions[uid] = self.gate(h)
