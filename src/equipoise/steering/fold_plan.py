"""What a fold changes: which norm gets which slope and shift, and where its shift goes."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from equipoise.errors import SteeringError
from equipoise.models.backbone import Site, norm_sites, norm_width
from equipoise.steering.address import Address
from equipoise.steering.affine_form import affine_form
from equipoise.steering.homes import Home, bias_home
from equipoise.steering.transforms import Transform

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from equipoise.steering.steering import Steering

_SHOWN = 4
_PROBE_ROWS = 8


@dataclass(frozen=True)
class Edit:
    """What folding does to one norm: its output h becomes ``gain ⊙ h + shift``.

    Attributes:
        path: Module path of the norm.
        gain: 1 + ωa, float64 [d] on CPU.
        shift: ωb, float64 [d] on CPU.
        offset: The norm scales by ``offset + weight``: 0, or 1 for Gemma's way of storing it.
        home: Where a shift that is not zero goes.
    """

    path: str
    gain: Tensor
    shift: Tensor
    offset: float
    home: Home = Home()  # noqa: RUF009 - a frozen dataclass

    @property
    def shifts(self) -> bool:
        """Whether there is a bias to bring home."""
        return bool(self.shift.any())


def plan(model: PreTrainedModel, steering: Steering, strength: float, ways_out: str) -> list[Edit]:
    """Work out the edits, or refuse.

    Args:
        model: The model whose checkpoint is wanted; it is not changed.
        steering: Transforms at norm outputs, for all tokens, without a gate.
        strength: ω.
        ways_out: What to do about a bias without a home, for the refusal.

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
    sites = {site.path: site for site in norm_sites(model)}
    owners = _owners(model)
    edits, homeless = [], []
    for key, transform in steering.transforms.items():
        address = Address.parse(key)
        module = address.find(model)
        if address.input or (norm_width(module) is None and address.path not in sites):
            raise SteeringError(
                f"cannot fold the steering of {key}: only what a norm returns can be folded (this "
                f"is {'the input of ' if address.input else ''}a {type(module).__name__}); serve "
                "it attached"
            )
        _check_unshared(key, module, owners)
        gain, shift = _affine(transform, strength)
        if address.span:
            gain, shift = _widen(gain, 1.0, address, module), _widen(shift, 0.0, address, module)
        site = sites.get(address.path, Site(address.path, len(gain)))
        home = bias_home(model, site)
        if home is None and bool(shift.any()):
            homeless.append(address.path)
        edits.append(Edit(address.path, gain, shift, _offset(key, module), home or Home()))
    if homeless:
        raise SteeringError(
            f"a {type(model).__name__} checkpoint has no place for the bias of "
            f"{_enumerate(homeless)}: {ways_out}"
        )
    return _merged(edits)


def _affine(transform: Transform, strength: float) -> tuple[Tensor, Tensor]:
    """Gain and shift, float64 [d], of a transform at a strength."""
    one = torch.ones(transform.width, dtype=torch.float64)
    zero = torch.zeros_like(one)

    def scaled(vector: Tensor | None) -> Tensor:
        return zero if vector is None else strength * vector.detach().to("cpu", torch.float64)

    slope, shift = affine_form(transform)
    return one + scaled(slope), scaled(shift)


def _check_unshared(key: str, module: nn.Module, owners: dict[int, set[int]]) -> None:
    for parameter in module.parameters(recurse=False):
        if owners[id(parameter)] != {id(module)}:
            raise SteeringError(
                f"cannot fold the steering of {key}: its weight is shared with another module"
            )


def _owners(model: nn.Module) -> dict[int, set[int]]:
    """Which modules hold a parameter, by identity."""
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(id(module))
    return owners


def _offset(key: str, norm: nn.Module) -> float:
    """How the norm stores its scale, found by trying: scale it and see what it returns.

    Class names do not tell: some architectures store γ, some γ − 1, some no γ at all.
    """
    weight = getattr(norm, "weight", None)
    if isinstance(weight, nn.Parameter):
        # A copy in float32 on the CPU, whatever the model's dtype and device.
        norm = copy.deepcopy(norm).to("cpu", torch.float32)
        generator = torch.Generator().manual_seed(0)
        width = weight.shape[-1]
        h = torch.randn(_PROBE_ROWS, width, generator=generator)
        gain = 1 + 0.5 * torch.rand(width, generator=generator)
        for offset in (0.0, 1.0):
            scaled = copy.deepcopy(norm)
            scale_norm(scaled, gain.double(), torch.zeros(width), offset)
            with torch.no_grad(), suppress(TypeError, ValueError, RuntimeError):
                # Suppressed: a norm that asks for more than an activation cannot be tried.
                if torch.allclose(scaled(h), gain * norm(h), rtol=1e-4, atol=1e-5):
                    return offset
    raise SteeringError(
        f"cannot fold the steering of {key}: {type(norm).__name__} has no weight that scales what "
        "it returns; serve it attached"
    )


def scale_norm(norm: nn.Module, gain: Tensor, shift: Tensor, offset: float) -> None:
    """Make a norm return ``gain ⊙ h + shift`` where it returned h; its parameters are replaced.

    A shift that is not zero needs a norm with a bias.
    """
    weight = cast(Tensor, norm.weight)
    new = (offset + _exact(weight)) * gain - offset
    norm.weight = nn.Parameter(new.to(weight), requires_grad=weight.requires_grad)
    bias = getattr(norm, "bias", None)
    if isinstance(bias, nn.Parameter):
        new = _exact(bias) * gain + shift
        norm.bias = nn.Parameter(new.to(bias), requires_grad=bias.requires_grad)


def _exact(parameter: Tensor) -> Tensor:
    return parameter.detach().to("cpu", torch.float64)


def _widen(part: Tensor, neutral: float, address: Address, norm: nn.Module) -> Tensor:
    """A slice's vector at the full width of its norm."""
    assert address.span is not None
    whole = torch.full((cast(int, norm_width(norm)),), neutral, dtype=torch.float64)
    whole[address.span[0] : address.span[1]] = part
    return whole


def _merged(edits: Iterable[Edit]) -> list[Edit]:
    """One edit per norm: slices of one norm do not overlap, so gains multiply and shifts add."""
    by_path: dict[str, Edit] = {}
    for edit in edits:
        before = by_path.get(edit.path)
        if before is not None:
            edit = Edit(
                edit.path,
                before.gain * edit.gain,
                before.shift + edit.shift,
                edit.offset,
                edit.home,
            )
        by_path[edit.path] = edit
    return list(by_path.values())


def _enumerate(paths: list[str]) -> str:
    shown = ", ".join(paths[:_SHOWN])
    more = len(paths) - _SHOWN
    return f"{len(paths)} norms ({shown}{f' and {more} more' if more > 0 else ''})"
