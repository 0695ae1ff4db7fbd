"""Where a vector added to a module's output can live: in the bias of a module inside it.

A decoder block returns ``residual + scale * mlp(...)``: what is added to the bias of its last
linear arrives in the block's output, times the scale, unless a norm, a gate or a router stands
between. Which module that is, and the scale, are found by trying: class names do not tell.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from equipoise.models.backbone import text_config
from equipoise.steering.address import activation
from equipoise.steering.prompts import random_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOKENS = 8
_FLAG = re.compile(r"\w*bias")
# Of the vector tried: what rounding in float32 may take from it, or a scale be off from 1.
_CLOSE, _ONE = 1e-3, 1e-5


@dataclass(frozen=True)
class Writer:
    """The module whose bias takes what is added to a site.

    Attributes:
        path: Of that module, from the model's root.
        width: Of the site's output, and of the bias.
        scale: How far the site's output moves when the bias moves by 1.
        flags: Settings of the text configuration that must hold for the bias to exist.
    """

    path: str
    width: int
    scale: float = 1.0
    flags: Mapping[str, bool] = field(default_factory=dict)


def writers(model: PreTrainedModel, sites: Sequence[str]) -> dict[str, Writer]:
    """The writer of each site that has one, from one short pass and trials of the site's module.

    Args:
        model: A model with weights and without attached steerings.
        sites: Paths of modules to whose output a vector is added.
    """
    if not sites:
        return {}
    calls, flags = _calls(model, sites), bias_flags(model)
    found = {}
    for site in sites:
        with suppress(Exception):  # whatever a module raises when it is called out of its place
            trial = _Trial(model.get_submodule(site), *calls[site])
            for name, has_bias in trial.candidates():
                path = ".".join(filter(None, (site, name)))
                if not has_bias and path not in flags:
                    continue
                scale = trial.scale(name)
                if scale is not None:
                    found[site] = Writer(path, trial.width, scale, {} if has_bias else flags[path])
                    break
    return found


class _Trial:
    """A copy of a module in float32, called as the model called it.

    Args:
        module: The module.
        args: Positional arguments of the model's call.
        kwargs: Named ones.
    """

    @torch.no_grad()
    def __init__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._module = copy.deepcopy(module).to(torch.float32).eval()
        self._args, self._kwargs = tree_map(_widened, (args, kwargs))
        self._base = self._run()
        vector = torch.randn(self._base.shape[-1], generator=torch.Generator().manual_seed(0))
        self._vector = self._base.std() * vector.to(self._base.device)

    @property
    def width(self) -> int:
        """Of the module's output."""
        return len(self._vector)

    def candidates(self) -> Iterator[tuple[str, bool]]:
        """Modules that could have a bias of the output's width, last first; whether they have."""
        for name, module in reversed(list(self._module.named_modules())):
            if "bias" in module._parameters:
                bias = module._parameters["bias"]
                if bias is None or bias.shape == self._vector.shape:
                    yield name, bias is not None

    @torch.no_grad()
    def scale(self, name: str) -> float | None:
        """How far the output moves with a module's bias; None: not evenly, or not at all."""
        module: Any = self._module.get_submodule(name)
        before = module.bias
        module.bias = nn.Parameter(self._vector if before is None else before + self._vector)
        try:
            moved = self._run() - self._base
        except RuntimeError:  # a bias of another width
            return None
        finally:
            module.bias = before
        scale = float((moved @ self._vector).mean() / self._vector.square().sum())
        limit = _CLOSE * float(self._vector.abs().max())
        if abs(scale) < _CLOSE or (moved - scale * self._vector).abs().max() > abs(scale) * limit:
            return None
        return 1.0 if abs(scale - 1) < _ONE else scale

    def _run(self) -> Tensor:
        # Its forward alone: hooks are not a part of what is saved.
        return activation(self._module.forward(*self._args, **self._kwargs), self._module)


def _widened(value: Any) -> Any:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.float() if floating else value


@torch.no_grad()
def _calls(model: PreTrainedModel, sites: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """Arguments of each site's first call in a short pass."""
    calls: dict[str, tuple[Any, Any]] = {}

    def listen(site: str) -> Any:
        def note(module: nn.Module, args: Any, kwargs: Any) -> None:
            calls.setdefault(site, (args, kwargs))

        return model.get_submodule(site).register_forward_pre_hook(note, with_kwargs=True)

    handles = [listen(site) for site in sites]
    try:
        model(random_prompts(model, 1, _TOKENS), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def bias_flags(model: PreTrainedModel) -> dict[str, dict[str, bool]]:
    """The settings that give a module the bias it lacks, by module path.

    Only settings of the text configuration that are off, and that bring biases and nothing else:
    each alone, or all together where a class takes them only so.
    """
    have = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    settings = vars(text_config(model)).items()
    off = [name for name, value in settings if value is False and _FLAG.fullmatch(name)]
    found: dict[str, dict[str, bool]] = {}
    for flags in [*([name] for name in off), off]:
        names = _parameters(model, flags)
        if have <= names and all(name.endswith(".bias") for name in names - have):
            for name in names - have:
                found.setdefault(name.removesuffix(".bias"), dict.fromkeys(flags, True))
    return found


def _parameters(model: PreTrainedModel, flags: Sequence[str]) -> set[str]:
    """Names of the parameters the class has with settings switched on; none if it refuses them."""
    config = copy.deepcopy(model.config)
    for flag in flags:
        setattr(config.get_text_config(decoder=True), flag, True)
    try:
        getattr(config, "validate", bool)()
        with torch.device("meta"):
            stock = type(model)(config)
    except Exception:  # each class refuses in its own way
        return set()
    return {name for name, _ in stock.named_parameters(remove_duplicate=False)}
