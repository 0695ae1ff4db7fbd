"""A steering attached to a model: its strength, and the hooks that apply it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from equipoise.errors import SteeringError
from equipoise.steering.address import Address
from equipoise.steering.context import Forward, Generation
from equipoise.steering.generation import Settings
from equipoise.steering.guidance import is_guided
from equipoise.steering.hooks import GateHook, InputHook, OutputHook
from equipoise.steering.recomputation import Recomputation
from equipoise.steering.row_gate import RowGate
from equipoise.steering.runtime import Runtime
from equipoise.steering.strength import Strength, as_strength

if TYPE_CHECKING:
    from equipoise.steering.steering import Steering


class Attachment:
    """What :meth:`Steering.attach` returns: set ``strength`` between calls, ``detach`` at the end.

    Attributes:
        steering: What is attached.
        model: The module it is attached to.
        sites: Modules steered, by site key.
        gate_first: Whether the gate's site comes before everything that is steered.
        row_gate: The gate, if it decides per row.
        recomputation: Watches gradient checkpointing.
        uid: Tells this steering, with its parameters as they now are, from any other.
        static: Whether every token of a row is steered alike, whatever the row holds.
        epoch: Another object after every change of the strength, or of the parameters (as seen
            when a pass starts).
        current: The epoch, while a pass is under way in which all tokens share one strength.
    """

    def __init__(
        self,
        steering: Steering,
        model: nn.Module,
        backbone: nn.Module,
        sites: dict[str, nn.Module],
        strength: Strength,
        gate_first: bool,
    ) -> None:
        self.steering, self.model, self.sites = steering, model, sites
        self.strength = strength
        self._mask: Tensor | None = None
        self._decision: Tensor | None = None
        self.gate_first = gate_first
        self.uid = steering.uid
        gate = steering.gate
        self.static = steering.scope.everywhere and gate is None
        self.row_gate = RowGate(gate, self) if gate is not None and gate.unit == "row" else None
        self._handles: list[Any] = []
        self.recomputation = Recomputation()
        self.runtime = Runtime.of(model) or Runtime(backbone)
        self.runtime.join(self, model)
        if gate is not None:
            module = Address.parse(gate.site).find(model)
            gate_hook = GateHook(self, gate)
            self._handles.append(gate_hook.address.register(module, gate_hook))
        for key, module in sites.items():
            address = Address.parse(key)
            hook = (InputHook if address.input else OutputHook)(
                self, steering.transforms[key], address
            )
            self._handles.append(address.register(module, hook))

    # ---- what the user sets

    @property
    def strength(self) -> Tensor:
        """ω, float32: 0-d, or 1-D with one value per row of the batch (per prompt in generate)."""
        return self._strength

    @strength.setter
    def strength(self, value: Strength) -> None:
        before: Tensor | None = getattr(self, "_strength", None)
        self._strength = as_strength(value)
        self._devices: dict[torch.device, Tensor] = {}
        if before is not None and _equal(before, self._strength):
            return
        self._values: tuple[float, ...] | None = None
        # What is kept for a strength is known by the identity of this object.
        self.token = object()
        self.epoch: object = object()
        self.current: object | None = None
        self.per_row = self._strength.ndim > 0
        self.off = bool((self._strength.detach() == 0).all()) and not self._strength.requires_grad

    @property
    def prompt_lengths(self) -> Tensor | None:
        """Real tokens of each row's prompt, int64 [rows]; None: told from the cache or generate.

        Set it where the prompt and its continuation go through the model in one pass.
        """
        return self.runtime.prompt_lengths

    @prompt_lengths.setter
    def prompt_lengths(self, value: Tensor | Sequence[int] | None) -> None:
        self.runtime.prompt_lengths = None if value is None else torch.as_tensor(value)

    @property
    def mask(self) -> Tensor | None:
        """For the token scope ``mask``: bool [rows, columns]; later columns are not steered."""
        return self._mask

    @mask.setter
    def mask(self, value: Tensor | None) -> None:
        if value is not None and (value.ndim != 2 or value.dtype != torch.bool):
            raise SteeringError(f"mask must be bool [rows, columns]; got {tuple(value.shape)}")
        self._mask = value

    @property
    def decision(self) -> Tensor | None:
        """Row-gate decisions to use instead of asking the gate: float [rows], or None."""
        return self._decision

    @decision.setter
    def decision(self, value: Tensor | None) -> None:
        self._decision = None if value is None else as_strength(value).reshape(-1)

    @property
    def decisions(self) -> Tensor | None:
        """Row-gate decisions of the last forward pass in this thread, float32 [rows]."""
        forward = self.runtime.forward
        return forward.decisions.get(self.uid) if forward else None

    def detach(self) -> None:
        """Take the steering off; the model is bit-identical to what it was. Twice is fine."""
        if not self._handles:
            return
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.runtime.leave(self)

    # ---- what the hooks ask

    @property
    def values(self) -> tuple[float, ...]:
        """The strength as numbers: one, or one per row."""
        if self._values is None:
            self._values = tuple(self._strength.detach().reshape(-1).tolist())
        return self._values

    def touches(self, forward: Forward) -> bool:
        """Whether this pass may hold tokens that are steered."""
        if not self.steering.scope.spares_prompt:
            return True
        if forward.generation is not None:
            return forward.past + forward.tokens > forward.generation.mask.shape[1]
        return forward.past > 0 or forward.given_lengths is not None

    def strength_on(self, device: torch.device) -> Tensor:
        """The strength on a device."""
        if device not in self._devices:
            self._devices[device] = self._strength.to(device)
        return self._devices[device]

    def batch(self, h: Tensor) -> Any:
        """What the shape of a per-row factor depends on, beside the strength."""
        forward = self.runtime.forward
        if forward is None:
            return h.shape
        flat = h.shape if h.ndim < 3 else h.shape[0]
        return flat, forward.rows, forward.generation is not None

    # ---- what the runtime tells

    def open_pass(self) -> None:
        """A forward pass starts: see once, for all sites, whether the parameters changed."""
        uid = self.steering.uid
        if uid != self.uid:
            self.uid, self.epoch = uid, object()
        self.current = self.epoch if self.static and not self.per_row else None

    def close_pass(self) -> None:
        """A forward pass is over."""
        self.current = None

    def begin(self, forward: Forward, given: dict[str, Any]) -> None:
        """A forward pass starts.

        Raises:
            SteeringError: Its cache was filled at another strength or decision.
        """
        if forward.past and self.touches(forward):
            self._check_cache(forward)
        if torch.is_grad_enabled():
            self.recomputation.forward(self.token)
        if self.row_gate is not None:
            self.row_gate.begin(forward, given)

    def _check_cache(self, forward: Forward) -> None:
        filled = forward.stamp.strengths.get(self.uid) if forward.stamp else None
        if filled is None:
            if self.off or self.steering.scope.spares_prompt:
                return
            filled = (0.0,)
        if _same(filled, self.values):
            return
        raise SteeringError(
            f"the cache was filled at strength {_shown(filled)}, this call runs at "
            f"{_shown(self.values)}: start from an empty cache"
        )

    def begin_generation(self, generation: Generation, settings: Settings) -> None:
        """``generate`` starts.

        Raises:
            SteeringError: The strengths do not fit its prompts.
        """
        self.uid = self.steering.uid
        if not self.static and is_guided(settings):
            self._check_guided()
        n, prompts = self._strength.numel(), generation.prompts
        if self._strength.ndim == 0 or n == prompts:
            return
        sequences, beams = settings.get("num_return_sequences", 1), settings.get("num_beams", 1)
        if n != prompts * sequences or beams > 1:
            raise SteeringError(
                f"{n} strengths for {prompts} prompts: give one per prompt"
                + ("" if beams > 1 else ", or one per returned sequence")
            )

    def _check_guided(self) -> None:
        # Both are told by the columns of the prompt; the unconditional prompt has others.
        told = "prompt_lengths" if self.prompt_lengths is not None else ""
        told = "the token scope 'mask'" if "mask" in self.steering.scope.parts else told
        if told:
            raise SteeringError(f"classifier-free guidance does not go with {told}")

    @property
    def prompt_may_be_parted(self) -> bool:
        """Whether a prompt's beginning may be cached before the rest of it is known.

        Not where its tokens are steered, or not, by what is told of the whole prompt only.
        """
        if "mask" in self.steering.scope.parts:
            return False
        return self.row_gate is None or self.row_gate.prompt_may_be_parted


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.requires_grad or other.requires_grad or one.shape != other.shape:
        return False
    return bool((one == other.to(one.device)).all())


def _same(filled: tuple[float, ...], now: tuple[float, ...]) -> bool:
    long, short = (filled, now) if len(filled) >= len(now) else (now, filled)
    if len(long) % len(short):
        return False
    repeat = len(long) // len(short)
    return long == tuple(value for value in short for _ in range(repeat))


def _shown(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else str([round(v, 4) for v in values])
