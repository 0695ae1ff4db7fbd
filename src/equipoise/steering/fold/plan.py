"""What a fold changes: which modules get which slopes and shifts, or why it cannot be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from equipoise.errors import SteeringError
from equipoise.models.backbone import Site, in_features, norm_sites, norm_width
from equipoise.steering.address import Address
from equipoise.steering.fold.edits import Edit, merged
from equipoise.steering.fold.homes import Homes, scale_offset
from equipoise.steering.fold.writers import bias_flags, writers
from equipoise.steering.transforms import Transform
from equipoise.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from equipoise.steering.steering import Steering

_SHOWN = 4
# What may have no home in a checkpoint, and what to do about it.
_SLOPE, _BIAS, _OUTPUT = "the slope", "the bias", "what is added to the output"
_WAYS_OUT = {
    _SLOPE: "fit the foldable profile (it leaves them out)",
    _BIAS: "fit slopes only (parameters='slope') or the foldable profile",
    _OUTPUT: "steer norms instead",
}


@dataclass(frozen=True)
class Plan:
    """What folding does.

    Attributes:
        edits: One per end of a module.
        flags: Settings of the text configuration that bring the biases the edits need.
    """

    edits: list[Edit]
    flags: Mapping[str, bool]


@dataclass(frozen=True)
class _Change:
    """What a steering at one strength does at one site: x becomes ``gain ⊙ x + shift``."""

    key: str
    address: Address
    module: nn.Module
    gain: Tensor
    shift: Tensor

    @property
    def scales(self) -> bool:
        return bool((self.gain != 1).any())

    @property
    def shifts(self) -> bool:
        return bool(self.shift.any())

    def widened(self, width: int) -> tuple[Tensor, Tensor]:
        """Gain and shift at the full width of the site, float64 [width]."""
        if self.address.span is None:
            return self.gain, self.shift
        gain, shift = _neutral(width)
        part = slice(*self.address.span)
        gain[part], shift[part] = self.gain, self.shift
        return gain, shift


def plan(
    model: PreTrainedModel, steering: Steering, strength: float, ways_out: Sequence[str]
) -> Plan:
    """Work out the edits, or refuse.

    Args:
        model: The model whose checkpoint is wanted; it is not changed.
        steering: Transforms for all tokens, without a gate.
        strength: ω.
        ways_out: What to do about any part without a home, for the refusal.

    Raises:
        SteeringError: Part of the steering has no place in an ordinary checkpoint.
    """
    if steering.gate is not None:
        raise SteeringError(
            "cannot fold a gated steering: a checkpoint cannot decide per row; serve it attached"
        )
    if not steering.scope.everywhere:
        raise SteeringError(
            f"cannot fold the token scope '{steering.scope}': a checkpoint treats all tokens "
            "alike; serve it attached, or fit with the scope 'all'"
        )
    norms = {site.path: site for site in norm_sites(model)}
    draft = _Draft(model)
    read, written = [], []
    for key, transform in steering.transforms.items():
        change = _change(model, key, transform, strength)
        path = change.address.path
        if change.address.input:
            read.append(change)
        elif path in norms or norm_width(change.module) is not None:
            draft.norm(change, norms.get(path, Site(path, norm_width(change.module) or 0)))
        else:
            written.append(change)
    # Edits of one module are merged in the order of the computation: norms before their readers.
    for change in read:
        draft.reader(change)
    draft.outputs(written)
    if draft.homeless:
        lists = (f"{part} of {_enumerate(paths)}" for part, paths in draft.homeless.items())
        ways = [*(_WAYS_OUT[part] for part in draft.homeless), *ways_out]
        raise SteeringError(
            f"a checkpoint of {type(model).__name__} has no place for {' and '.join(lists)}: "
            f"{', '.join(ways[:-1])}, or {ways[-1]}"
        )
    return Plan(merged(draft.edits), draft.flags)


class _Draft:
    """Edits so far, the settings they need, and the sites whose part has no home, by part."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.homes = model, Homes(model)
        self.edits: list[Edit] = []
        self.flags: dict[str, bool] = {}
        self.homeless: dict[str, list[str]] = {}

    def norm(self, change: _Change, site: Site) -> None:
        """A change of what a norm returns."""
        if self.homes.shares(change.module):
            raise SteeringError(
                f"cannot fold the steering of {change.key}: its weight is shared with another "
                "module; serve it attached"
            )
        gain, shift = change.widened(site.width)
        one, zero = _neutral(len(gain))
        own_gain, own_shift = one, zero
        if change.scales:
            home = self.homes.slope(site)
            if home is None:
                self._homeless(_SLOPE, site.path)
            elif home.linears:
                self._read(home.linears, gain, zero)
            else:
                own_gain = gain
        if change.shifts:
            home = self.homes.bias(site)
            if home is None:
                self._homeless(_BIAS, site.path)
            elif home.linears:
                self._read(home.linears, one, shift)
                self.flags.update(home.flags)
            else:
                own_shift = shift
        if own_gain is not one or own_shift is not zero:
            offset = scale_offset(change.module) or 0.0
            self.edits.append(Edit(site.path, "returns", own_gain, own_shift, offset))

    def reader(self, change: _Change) -> None:
        """A change of what a linear reads."""
        width, path = in_features(change.module), change.address.path
        if width is None or self.homes.shares(change.module):
            raise SteeringError(
                f"cannot fold the steering of {change.key}: it is the input of a "
                f"{type(change.module).__name__}, not of a linear with a weight of its own; serve "
                "it attached"
            )
        if change.shifts and getattr(change.module, "bias", None) is None:
            flags = self._bias_flags.get(path)
            if flags is None:
                self._homeless(_BIAS, change.key)
                return
            self.flags.update(flags)
        self._read((path,), *change.widened(width))

    def outputs(self, changes: list[_Change]) -> None:
        """Changes of what other modules return: blocks, attention and feed-forward modules."""
        for change in changes:
            if change.scales:
                raise SteeringError(
                    f"cannot fold the steering of {change.key}: what a "
                    f"{type(change.module).__name__} returns can be added to, not scaled; serve it "
                    "attached"
                )
        changes = [change for change in changes if change.shifts]
        found = writers(self.model, [change.address.path for change in changes])
        for change in changes:
            writer = found.get(change.address.path)
            if writer is None or self.homes.shares(self.model.get_submodule(writer.path)):
                self._homeless(_OUTPUT, change.address.path)
                continue
            gain, shift = change.widened(writer.width)
            self.edits.append(Edit(writer.path, "returns", gain, shift / writer.scale))
            self.flags.update(writer.flags)

    @cached_property
    def _bias_flags(self) -> Mapping[str, Mapping[str, bool]]:
        return bias_flags(self.model)

    def _read(self, linears: Iterable[str], gain: Tensor, shift: Tensor) -> None:
        self.edits += [Edit(path, "reads", gain, shift) for path in linears]

    def _homeless(self, what: str, path: str) -> None:
        self.homeless.setdefault(what, []).append(path)


def _change(model: nn.Module, key: str, transform: Transform, strength: float) -> _Change:
    address = Address.parse(key)
    one, zero = _neutral(transform.width)
    slope, shift = (
        zero if vector is None else strength * vector.detach().to("cpu", torch.float64)
        for vector in transform.form()
    )
    return _Change(key, address, address.find(model), one + slope, shift)


def _neutral(width: int) -> tuple[Tensor, Tensor]:
    return torch.ones(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)


def _enumerate(paths: list[str]) -> str:
    shown = ", ".join(paths[:_SHOWN])
    more = len(paths) - _SHOWN
    return f"{counted(len(paths), 'site')} ({shown}{f' and {more} more' if more > 0 else ''})"
