"""What must hold before a steering is attached (law 1: never silently unsteered)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import nn

from equipoise.errors import SteeringError
from equipoise.models.backbone import language_backbone
from equipoise.models.fingerprint import explain, fingerprint
from equipoise.steering.address import Address
from equipoise.steering.attach.compiled import check_not_compiled
from equipoise.steering.attach.paged import check_no_manager
from equipoise.steering.attach.runtime import Runtime

if TYPE_CHECKING:
    from equipoise.steering.steering import Steering


def check_attachable(
    steering: Steering, root: nn.Module, *, allow_mismatch: bool
) -> dict[str, nn.Module]:
    """Find the modules of all sites, or refuse.

    Raises:
        SteeringError: A site or its shape is missing, a site's module has another place in the
            backbone, the weights are not there or not those it was made for, or the steering is
            attached already.
    """
    sites: dict[str, nn.Module] = {}
    names = _names_in_backbone(root)
    seen: dict[tuple[int, bool], list[tuple[str, Address]]] = {}
    for key, transform in steering.transforms.items():
        address = Address.parse(key)
        module = address.find(root)
        address.check_width(module, transform.width)
        for other, before in seen.setdefault((id(module), address.input), []):
            if _overlap(address.span, before.span):
                raise SteeringError(f"{other} and {key} overlap: it would be steered twice")
        if len(names.get(module, ())) > 1:
            here = " and ".join(names[module][:2])
            raise SteeringError(f"{here} are one shared module: {key} would be steered at each")
        seen[id(module), address.input].append((key, address))
        sites[key] = module
    if any(p.is_meta and not _offloaded(m) for m in sites.values() for p in m.parameters()):
        raise SteeringError("the model is on the meta device: load its weights first")
    check_no_manager(root)
    check_not_compiled(root, {Address.parse(key).path: site for key, site in sites.items()})
    runtime = Runtime.of(root)
    if runtime and any(a.steering.uid == steering.uid for a in runtime.attachments):
        raise SteeringError("this steering is attached to this model already")
    expected = steering.info.fingerprint
    if expected and not allow_mismatch:
        found = fingerprint(root)
        if found != expected:
            raise SteeringError(explain(expected, found, steering.info.base_model_name_or_path))
    return sites


def _names_in_backbone(root: nn.Module) -> dict[nn.Module, list[str]]:
    """All paths of each module of the language backbone; blocks that share one run it twice."""
    prefix, backbone = language_backbone(root)
    names: dict[nn.Module, list[str]] = {}
    for name, module in backbone.named_modules(prefix=prefix, remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return names


def _offloaded(module: nn.Module) -> bool:
    """Whether accelerate brings the module's weights when it is called."""
    return getattr(getattr(module, "_hf_hook", None), "offload", False)


def precedes(steering: Steering, root: nn.Module) -> bool:
    """Whether the gate's site is read before anything on this model is steered.

    Gates that are attached already are asked again, now that there is one steering more.

    Raises:
        SteeringError: A token gate would read steered activations.
    """
    if steering.gate is not None:
        Address.parse(steering.gate.site).find(root)
    runtime = Runtime.of(root)
    others = list(runtime.attachments) if runtime else []
    order = [*(other.steering for other in others), steering]
    first = [_reads_unsteered(order, i) for i in range(len(order))]
    for other, unsteered in zip(others, first, strict=False):
        other.gate_first = unsteered
    return first[-1]


def _reads_unsteered(order: list[Steering], index: int) -> bool:
    gate = order[index].gate
    if gate is None:
        return True
    for i, steering in enumerate(order):
        # On a module, a gate's hook runs before those of its own and of later steerings.
        shared = i >= index
        if all(_before(gate.site, key, shared=shared) for key in steering.transforms):
            continue
        if gate.unit == "row":
            return False
        raise SteeringError(
            f"the token gate at {gate.site} would read steered activations: a gate that decides "
            "per token must come before every steered site"
        )
    return True


def _before(gate: str, site: str, *, shared: bool) -> bool:
    reads, steers = Address.parse(gate), Address.parse(site)
    if (reads.path, reads.input) == (steers.path, steers.input):
        return shared
    return _depth(gate, at_end=True) < _depth(site, at_end=False)


def _depth(key: str, *, at_end: bool) -> float:
    """A site's place in the order of computation: its block, +½ for the block's own output.

    What lies outside the blocks is taken for the end, unless it is the embedding.
    """
    address = Address.parse(key)
    match = re.search(r"\.(\d+)(\.|$)", f".{address.path}")
    if match is None:
        return -1.0 if re.search(r"emb|wte$", address.path) else float("inf")
    whole_block = not match[2] and not address.input
    return float(match[1]) + (0.5 if whole_block else 0.25 if at_end else 0.0)


def _overlap(one: tuple[int, int] | None, other: tuple[int, int] | None) -> bool:
    if one is None or other is None:
        return True
    return one[0] < other[1] and other[0] < one[1]
