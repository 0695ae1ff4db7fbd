"""How a steering names its sites: ``path``, ``path@input``, and a span, ``path[8:16]``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from equipoise.errors import SteeringError
from equipoise.models.backbone import in_features, norm_width
from equipoise.wording import did_you_mean

_KEY = re.compile(r"(?P<path>[^@\[\]]+)(?P<input>@input)?(\[(?P<start>\d+):(?P<stop>\d+)\])?")


@dataclass(frozen=True)
class Address:
    """A parsed site key.

    Attributes:
        path: Module path from the model's root.
        input: Whether the module's first input is meant rather than its output.
        span: The slice of the last dimension that is steered; None for all of it.
    """

    path: str
    input: bool = False
    span: tuple[int, int] | None = None

    @classmethod
    def parse(cls, key: str) -> Address:
        """Read a key.

        Raises:
            SteeringError: Not of the form ``path[@input][[start:stop]]``.
        """
        match = _KEY.fullmatch(key) if isinstance(key, str) else None
        span = None
        if match and match["start"]:
            span = int(match["start"]), int(match["stop"])
        if match is None or (span and span[0] >= span[1]):
            raise SteeringError(f"{key!r} is no site: write path, path@input, or path[start:stop]")
        return cls(match["path"], bool(match["input"]), span)

    def find(self, root: nn.Module) -> nn.Module:
        """The module meant, in a model.

        Raises:
            SteeringError: The model has no such module.
        """
        try:
            return root.get_submodule(self.path)
        except AttributeError:
            known = [name for name, _ in root.named_modules()]
            raise SteeringError(
                f"{type(root).__name__} has no module {self.path!r}{did_you_mean(self.path, known)}"
                "; this steering was made for another model"
            ) from None

    def check_width(self, module: nn.Module, width: int) -> None:
        """Refuse a transform that cannot fit the module.

        Modules that do not tell their width are left for the first call to check.

        Raises:
            SteeringError: The widths differ.
        """
        whole = in_features(module) if self.input else norm_width(module)
        have = self.span[1] - self.span[0] if self.span else whole
        if have is not None and have != width:
            raise SteeringError(
                f"{self.path}: the steering is {width} wide, the model {have}; "
                "this steering was made for another model"
            )
        if self.span and whole is not None and self.span[1] > whole:
            raise SteeringError(
                f"{self.path}: [{self.span[0]}:{self.span[1]}] ends beyond its {whole} channels; "
                "this steering was made for another model"
            )

    def register(self, module: nn.Module, hook: Callable[..., Any]) -> RemovableHandle:
        """Put a forward hook, or forward pre-hook, on the module meant."""
        if self.input:
            return module.register_forward_pre_hook(hook)
        return module.register_forward_hook(hook)

    def take(self, h: Tensor) -> Tensor:
        """The steered part of an activation (a view)."""
        return h if self.span is None else h[..., self.span[0] : self.span[1]]

    def put(self, h: Tensor, steered: Tensor) -> Tensor:
        """The activation with its part steered; ``h`` itself stays as it was."""
        if self.span is None:
            return steered
        start, stop = self.span
        return torch.cat([h[..., :start], steered, h[..., stop:]], dim=-1)


def activation(value: Any, module: nn.Module) -> Tensor:
    """The activation in a module's output or arguments: itself, or the first of a tuple.

    Raises:
        SteeringError: Neither a tensor nor a tuple that starts with one.
    """
    first = value[0] if isinstance(value, tuple) and value else value
    if not isinstance(first, Tensor):
        raise SteeringError(
            f"{type(module).__name__} passes a {type(first).__name__}, no tensor to steer"
        )
    return first
