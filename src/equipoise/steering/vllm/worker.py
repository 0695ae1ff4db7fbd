"""The part of a steered engine that runs where vLLM keeps the model.

vLLM mixes :class:`SteeringWorker` into its own worker class (``worker_extension_cls``) and calls
its methods by name, so no code travels between processes and nothing is pickled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from equipoise.errors import SteeringError
from equipoise.models.backbone import norm_width
from equipoise.steering.address import Address, activation
from equipoise.steering.steering import Steering
from equipoise.steering.transforms import Coefficients, Transform


class SteeringWorker:
    """Methods added to vLLM's worker; each returns what went wrong, or an empty string."""

    model_runner: Any
    _equipoise_sites: dict[str, _Site]

    def equipoise_attach(self, folder: str, strength: float) -> str:
        """Put a steering on the model.

        Args:
            folder: The artifact.
            strength: ω, one number.
        """
        self.equipoise_detach()
        model = self.model_runner.get_model()
        try:
            steering = Steering.from_pretrained(folder)
            self._equipoise_sites = {
                key: _Site(model, key, transform, strength)
                for key, transform in steering.transforms.items()
            }
        except SteeringError as error:
            return str(error)
        for site in self._equipoise_sites.values():
            site.attach()
        return ""

    def equipoise_strength(self, strength: float) -> str:
        """Change ω."""
        for site in self._equipoise_sites.values():
            site.set_strength(strength)
        return ""

    def equipoise_missed(self) -> str:
        """Which sites no forward pass has gone through since they were attached."""
        missed = [key for key, site in self._equipoise_sites.items() if not site.passes]
        return f"vLLM does not call {', '.join(missed)}" if missed else ""

    def equipoise_detach(self) -> str:
        """Take the steering off; twice is fine."""
        for site in getattr(self, "_equipoise_sites", {}).values():
            site.handle.remove()
        self._equipoise_sites = {}
        return ""


class _Site:
    """One norm of vLLM's model, and what is done to its output."""

    def __init__(self, model: nn.Module, key: str, transform: Transform, strength: float) -> None:
        address = Address.parse(key)
        self.address, self.transform = address, transform
        self.module = Address(_name_in_vllm(model, address.path)).find(model)
        if address.input or norm_width(self.module) is None:
            raise SteeringError(
                f"{key}: in vLLM only what a norm returns can be steered, not a "
                f"{type(self.module).__name__}; serve it attached to transformers"
            )
        address.check_width(self.module, transform.width)
        self.passes = 0
        self.set_strength(strength)

    def set_strength(self, strength: float) -> None:
        self.strength = torch.tensor(strength, dtype=torch.float32)
        self._kept: tuple[Any, Coefficients] | None = None

    def attach(self) -> None:
        self.handle = self.module.register_forward_hook(self)

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Steer a norm's output; beside it, vLLM's norms may return the sum they normalised."""
        self.passes += 1
        if self.strength == 0:
            return output
        h = activation(output, module)
        part = self.address.take(h)
        new = self.address.put(h, self.transform.steer(part, self._coefficients(part)))
        return (new, *output[1:]) if isinstance(output, tuple) else new

    def _coefficients(self, h: torch.Tensor) -> Coefficients:
        state = h.dtype, h.device
        if self._kept is None or self._kept[0] != state:
            with torch.no_grad():
                self._kept = state, self.transform.prepare(self.strength.to(h.device), h)
        return self._kept[1]


def _name_in_vllm(model: nn.Module, path: str) -> str:
    """A module's path in vLLM's model: its loader knows how transformers' names translate."""
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    modules = dict(model.named_modules())
    if path in modules or mapper is None:
        return path
    names = mapper.apply_list([f"{path}.weight"])
    return names[0].removesuffix(".weight") if names else path
