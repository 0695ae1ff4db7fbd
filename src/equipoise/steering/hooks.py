"""The forward hooks of an attachment; objects, so that a steered model can be copied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from equipoise.errors import SteeringError
from equipoise.steering.address import Address, activation
from equipoise.steering.gates import Gate
from equipoise.steering.reading import decide_rows
from equipoise.steering.transforms import Coefficients, Transform, version_of

if TYPE_CHECKING:
    from equipoise.steering.attachment import Attachment


class SiteHook:
    """Applies one transform at one site.

    The coefficients of the last call are kept: while strength, parameters and the activation's
    dtype and device stay the same, a call costs one pass over the activation.
    """

    def __init__(self, attachment: Attachment, transform: Transform, address: Address) -> None:
        self.attachment, self.transform, self.address = attachment, transform, address
        self._parameters = list(transform.parameters())
        self._kept: tuple[Any, Coefficients] | None = None

    def steered(self, value: Any, module: nn.Module) -> Any:
        """The module's output (or arguments) with the activation steered; None: as it was."""
        if not torch.compiler.is_compiling() and self._sleeps():
            return None
        h = activation(value, module)
        part = self.address.take(h)
        if part.shape[-1] != self.transform.width:
            raise SteeringError(
                f"{self.address.path}: the steering is {self.transform.width} wide, "
                f"the activation {part.shape[-1]}"
            )
        new = self.address.put(h, self.transform.steer(part, self._coefficients(part)))
        return (new, *value[1:]) if isinstance(value, tuple) else new

    def _sleeps(self) -> bool:
        attachment = self.attachment
        if attachment.runtime.muted:
            return True
        # At strength 0 the base's own bits are the answer, unless a gradient is wanted.
        return attachment.off and not torch.is_grad_enabled()

    def _coefficients(self, h: Tensor) -> Coefficients:
        attachment = self.attachment
        if torch.compiler.is_compiling() or not attachment.static or torch.is_grad_enabled():
            return self.transform.prepare(attachment.factor(h, self.address.path), h)
        rows = attachment.batch(h) if attachment.strength.ndim else None
        versions = [version_of(p) for p in self._parameters]
        state = (attachment.token, h.dtype, h.device, rows, versions)
        if self._kept is None or self._kept[0] != state:
            factor = attachment.factor(h, self.address.path)
            self._kept = (state, self.transform.prepare(factor, h))
        return self._kept[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": None}


class OutputHook(SiteHook):
    """Steers what a module returns."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """The steered output."""
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
        if forward is None or self.attachment.runtime.muted:
            return
        uid = self.attachment.uid
        if self.gate.unit == "row" and uid in forward.decisions:
            return
        h = self.address.take(activation(args if self.address.input else output, module))
        if self.gate.unit == "row":
            forward.decisions[uid] = decide_rows(self.gate, h, forward)
        else:
            with torch.no_grad():
                forward.token_decisions[uid] = self.gate(h)
