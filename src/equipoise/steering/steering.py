"""The steering: what is done where, when, and how strongly."""

from __future__ import annotations

import copy
import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from equipoise.errors import SteeringError
from equipoise.models.backbone import language_backbone, norm_sites
from equipoise.models.model import Model, unwrap
from equipoise.steering.address import Address
from equipoise.steering.attach.attachment import Attachment
from equipoise.steering.attach.preflight import check_attachable, precedes
from equipoise.steering.fold.homes import Homes
from equipoise.steering.gates import Gate
from equipoise.steering.info import Parameters, SteeringInfo
from equipoise.steering.scope import Scope
from equipoise.steering.strength import Strength
from equipoise.steering.transforms import Affine, Transform
from equipoise.wording import counted

if TYPE_CHECKING:
    from os import PathLike

    from transformers import PreTrainedModel


class Steering:
    """Transforms at sites, for the tokens of a scope, where a gate (if any) says so.

    Args:
        transforms: By site key: a module path, ``path@input`` for its first input, and
            ``path[start:stop]`` for a slice (an attention head, say).
        scope: The tokens that are steered, e.g. ``"all"`` or ``"last_prompt+generated"``.
        gate: Decides per row or token; None: always.
        info: Where it comes from.

    Raises:
        SteeringError: No transform, or a key or scope that cannot be read.
    """

    def __init__(
        self,
        transforms: Mapping[str, Transform],
        scope: Scope | str = "all",
        gate: Gate | None = None,
        info: SteeringInfo | None = None,
    ) -> None:
        if not transforms:
            raise SteeringError("a steering needs at least one transform")
        for key, transform in transforms.items():
            Address.parse(key)
            if not isinstance(transform, Transform):
                kind = type(transform).__name__
                raise SteeringError(f"{key}: a {kind} is no transform; write Additive(v), say")
        self._transforms = dict(transforms)
        self._scope, self._gate = Scope.parse(scope), gate
        self.info = info or SteeringInfo()
        self._watch_parameters()

    @classmethod
    def identity(
        cls,
        model: Model | nn.Module,
        parameters: Parameters = "both",
        *,
        foldable: bool = True,
        final_norm: bool = True,
    ) -> Steering:
        """The steering that changes nothing, at every norm of the language backbone.

        Args:
            model: A model, not on the meta device.
            parameters: Slopes, biases, or both.
            foldable: Leave out what an ordinary checkpoint of this architecture has no place for,
                and the bias of the final norm.
            final_norm: Include the norm after the last block.

        Returns:
            Affine transforms, float32 and zero, on the device of their module.

        Raises:
            SteeringError: Nothing is left to steer.
        """
        root, homes = unwrap(model), Homes(model)
        transforms: dict[str, Transform] = {}
        for site in norm_sites(model, final=final_norm):
            weight = next(root.get_submodule(site.path).parameters(), None)
            device = None if weight is None or weight.is_meta else weight.device
            biased = not foldable or (site.role != "final_norm" and homes.bias(site) is not None)
            sloped = not foldable or homes.slope(site) is not None
            slope = parameters != "bias" and sloped
            bias = parameters != "slope" and biased
            if slope or bias:
                a = torch.zeros(site.width, device=device) if slope else None
                b = torch.zeros(site.width, device=device) if bias else None
                transforms[site.key] = Affine(a, b)
        if not transforms:
            raise SteeringError(
                f"no norm of {type(root).__name__} can take a bias in a checkpoint; "
                "fit slopes, or give up folding (foldable=False)"
            )
        return cls(transforms, info=SteeringInfo(parameters=parameters))

    def __repr__(self) -> str:
        kinds = Counter(transform.kind for transform in self.transforms.values())
        parts = [", ".join(f"{kind} at {counted(n, 'site')}" for kind, n in kinds.items())]
        parts.append(f"scope {self.scope}")
        if self.gate is not None:
            parts.append(f"{self.gate.unit} gate at {self.gate.site}")
        return f"Steering({'; '.join(parts)})"

    # ---- what it is made of: fixed, for an attachment would not see another

    @property
    def transforms(self) -> Mapping[str, Transform]:
        """Transforms by site key; their parameters may change, they themselves are fixed."""
        return MappingProxyType(self._transforms)

    @property
    def scope(self) -> Scope:
        """The tokens that are steered."""
        return self._scope

    @property
    def gate(self) -> Gate | None:
        """Decides per row or token; None: always."""
        return self._gate

    # ---- parameters

    def parameters(self) -> Iterator[nn.Parameter]:
        """All trainable parameters (a gate's probe is not one)."""
        for transform in self.transforms.values():
            yield from transform.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """``(site key:name, parameter)``."""
        for key, transform in self.transforms.items():
            for name, parameter in transform.named_parameters():
                yield f"{key}:{name}", parameter

    def tensors(self) -> dict[str, Tensor]:
        """Everything with a value, as detached float32 CPU tensors; the gate's as ``gate:name``."""
        named: list[tuple[str, Tensor]] = list(self.named_parameters())
        if self.gate is not None:
            named += [(f"gate:{name}", buffer) for name, buffer in self.gate.named_buffers()]
        return {name: value.detach().float().cpu().contiguous() for name, value in named}

    @property
    def n_parameters(self) -> int:
        """Number of trainable entries."""
        return sum(p.numel() for p in self.parameters())

    @property
    def n_nonzero(self) -> int:
        """Number of trainable entries that are not zero."""
        return sum(int(p.count_nonzero()) for p in self.parameters())

    @property
    def digest(self) -> str:
        """SHA-256 of what is done where: sites, transforms, tensors, scope and gate."""
        sha = hashlib.sha256()
        sha.update(json.dumps(self.structure(), sort_keys=True).encode())
        for name, value in sorted(self.tensors().items()):
            sha.update(f"{name}{tuple(value.shape)}".encode())
            sha.update(value.numpy().tobytes())
        return sha.hexdigest()

    @property
    def uid(self) -> str:
        """Names this steering and the state of its parameters, within this process.

        Changed in place, or replaced by others, they make another state. A change through ``.data``
        goes unseen, as it does by autograd: make it under ``torch.no_grad()``.
        """
        if any(holder[name] is not parameter for holder, name, parameter in self._held):
            self._watch_parameters()
        return f"{self._name}.{sum(p._version for p in self._counted)}"

    def _watch_parameters(self) -> None:
        # Kept, for it is asked at every pass.
        self._name = uuid.uuid4().hex
        self._held = [
            (module._parameters, name, parameter)
            for transform in self.transforms.values()
            for module in transform.modules()
            for name, parameter in module._parameters.items()
        ]
        # Inference tensors do not count their changes.
        self._counted = [p for p in self.parameters() if not p.is_inference()]

    def structure(self) -> dict[str, Any]:
        """All but the tensors, as JSON: transforms by site, scope, gate."""
        gate = None
        if self.gate is not None:
            gate = {"kind": self.gate.kind, **self.gate.settings()}
        return {
            "sites": {key: transform.kind for key, transform in self.transforms.items()},
            "token_scope": str(self.scope),
            "gate": gate,
        }

    # ---- applying

    def attach(
        self,
        model: Model | nn.Module,
        strength: Strength = 1.0,
        *,
        allow_mismatch: bool = False,
    ) -> Attachment:
        """Steer a model from now on.

        Args:
            model: A :class:`Model`, or any transformers causal LM or VLM, also compiled or wrapped
                in DistributedDataParallel.
            strength: ω: a number, or one per row of the batch.
            allow_mismatch: Take a model of other weights than the steering was made for.

        Raises:
            SteeringError: It would not take effect here, fully, as made.
        """
        root = unwrap(model)
        found = check_attachable(self, root, allow_mismatch=allow_mismatch)
        return Attachment(
            self, root, language_backbone(root)[1], found, strength, precedes(self, root)
        )

    @contextmanager
    def applied(
        self,
        model: Model | nn.Module,
        strength: Strength = 1.0,
        *,
        allow_mismatch: bool = False,
    ) -> Iterator[Attachment]:
        """``attach`` for the duration of a ``with`` block."""
        attachment = self.attach(model, strength, allow_mismatch=allow_mismatch)
        try:
            yield attachment
        finally:
            attachment.detach()

    def fold(
        self,
        model: Model | nn.Module,
        strength: float,
        *,
        allow_mismatch: bool = False,
        as_llama: bool = False,
    ) -> PreTrainedModel:
        """The model steered at one strength, as ordinary weights; see :mod:`.fold`."""
        from equipoise.steering.fold.model import fold

        return fold(model, self, strength, allow_mismatch=allow_mismatch, as_llama=as_llama)

    # ---- keeping

    def __deepcopy__(self, memo: dict[int, Any]) -> Steering:
        other = object.__new__(type(self))
        memo[id(self)] = other
        vars(other).update(copy.deepcopy(vars(self), memo))
        other._name = uuid.uuid4().hex  # it may change without this one
        return other

    def save_pretrained(self, folder: str | PathLike[str], *, card: str | None = None) -> Path:
        """Write the artifact; see :func:`equipoise.steering.artifact.save`."""
        from equipoise.steering.artifact import save

        return save(self, folder, card=card)

    @classmethod
    def from_pretrained(
        cls, source: str | PathLike[str], *, revision: str | None = None
    ) -> Steering:
        """Read an artifact; see :func:`equipoise.steering.artifact.load`."""
        from equipoise.steering.artifact import load

        return load(source, revision=revision)

    def push_to_hub(self, repo_id: str, *, private: bool = False, card: str | None = None) -> str:
        """Upload the artifact; see :func:`equipoise.steering.artifact.push`."""
        from equipoise.steering.artifact import push

        return push(self, repo_id, private=private, card=card)
