"""A steering attached to a model: its strength, and the hooks that apply it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from equipoise.errors import SteeringError
from equipoise.steering.address import Address
from equipoise.steering.context import Forward, Generation
from equipoise.steering.generation import Settings
from equipoise.steering.hooks import GateHook, InputHook, OutputHook
from equipoise.steering.reading import prompt_pass, read_rows
from equipoise.steering.recomputation import Recomputation
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
        self.static = steering.scope.everywhere and steering.gate is None
        self._handles: list[Any] = []
        self._recompute = Recomputation()
        self.runtime = Runtime.of(model) or Runtime(backbone)
        self.runtime.join(self, model)
        if steering.gate is not None:
            module = Address.parse(steering.gate.site).find(model)
            gate_hook = GateHook(self, steering.gate)
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

    def factor(self, h: Tensor, key: str) -> Tensor:
        """Strength times token scope times gate, in a shape that broadcasts against ``h``.

        Raises:
            SteeringError: The activation does not have the rows and tokens it should have.
        """
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._recompute.check(self.token, static=self.static)
        # Compiled code must not read what changes between calls, or it would be compiled again.
        compiling = torch.compiler.is_compiling()
        strength = self._strength.to(h.device) if compiling else self.strength_on(h.device)
        forward = None if compiling else self.runtime.forward
        if self.static and strength.ndim == 0:
            return strength
        if forward is None:
            if self.static and strength.shape[0] == h.shape[0] and h.ndim > 2:
                return strength.reshape(-1, *[1] * (h.ndim - 1))
            raise SteeringError(
                f"{key}: {strength.numel()} strengths and an activation of shape "
                f"{tuple(h.shape)}; compiled models and modules outside the language backbone "
                "take one strength, or one per row, and no token scope or gate"
            )
        if strength.ndim:
            strength = forward.expand(strength, "strength")
        factor = strength.reshape(-1, 1, 1)
        if not self.static:
            factor = factor * self._chosen(forward).to(h.device)
        return _shaped(factor, h, forward, key)

    def _chosen(self, forward: Forward) -> Tensor:
        """Token scope times gate, float32 [rows or 1, tokens or 1, 1]; once per pass."""
        if self.uid in forward.chosen:
            return forward.chosen[self.uid]
        scope, gate = self.steering.scope, self.steering.gate
        chosen = torch.ones(1, 1, 1, device=forward.device)
        if "mask" in scope.parts:
            chosen = self._masked(forward)
        elif not scope.everywhere:
            index, real = forward.layout()
            chosen = scope.covers(index, real, forward.prompt_lengths()).float()[..., None]
        if gate is not None:
            decision = forward.decisions.get(self.uid)
            if gate.unit == "token":
                decision = forward.token_decisions.get(self.uid)
            if decision is None and self.waits(forward):
                decision = torch.zeros(forward.rows)  # of nothing: no token here is meant
            if decision is None:
                raise SteeringError(
                    f"the gate at {gate.site} was not reached before a steered site"
                )
            if gate.unit == "row":
                decision = decision[:, None]
            chosen = chosen * decision[..., None].to(forward.device)
        forward.chosen[self.uid] = chosen
        return chosen

    def _masked(self, forward: Forward) -> Tensor:
        if self._mask is None:
            raise SteeringError("the token scope is 'mask': set attachment.mask first")
        mask = forward.expand(self._mask.to(forward.device), "mask")
        more = forward.past + forward.tokens - mask.shape[1]
        mask = nn.functional.pad(mask, (0, max(more, 0)))
        return mask[:, forward.past : forward.past + forward.tokens].float()[..., None]

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
            self._recompute.forward(self.token)
        gate = self.steering.gate
        if gate is None or gate.unit == "token":
            return
        ahead = forward.generation.decisions if forward.generation else {}
        decided = self._decision if self._decision is not None else ahead.get(self.uid)
        if decided is not None:
            self._settle(forward, forward.expand(decided, "gate decisions"))
        elif self.uid in forward.decisions:
            forward.decisions[self.uid] = forward.expand(
                forward.decisions[self.uid], "cached gate decisions"
            )
        elif forward.past and not (self.prompt_may_be_parted and forward.given_lengths is not None):
            raise SteeringError("the gate's prompt was cached before the gate was attached")
        elif not self.gate_first:
            alone = {**given, "use_cache": False, "past_key_values": None, "cache_params": None}
            alone = {name: value for name, value in alone.items() if name in given}
            forward.decisions[self.uid] = self.ask(lambda: self.runtime.backbone(**alone), forward)

    def _settle(self, forward: Forward, decided: Tensor) -> None:
        before = forward.decisions.get(self.uid)
        if before is None:
            forward.decisions[self.uid] = decided
        elif not torch.allclose(before, decided.to(before), atol=1e-4):
            raise SteeringError(
                "the cache was filled under other gate decisions than this prompt gets: clear it"
            )

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
        if not self.static and settings.get("guidance_scale", 1) != 1:
            raise SteeringError("classifier-free guidance with a token scope or a gate")
        n, prompts = self._strength.numel(), generation.prompts
        if self._strength.ndim == 0 or n == prompts:
            return
        sequences, beams = settings.get("num_return_sequences", 1), settings.get("num_beams", 1)
        if n != prompts * sequences or beams > 1:
            raise SteeringError(
                f"{n} strengths for {prompts} prompts: give one per prompt"
                + ("" if beams > 1 else ", or one per returned sequence")
            )

    @property
    def asks_first(self) -> bool:
        """Whether a row gate reads prompts in an unsteered pass of its own."""
        gate = self.steering.gate
        return gate is not None and gate.unit == "row" and not self.gate_first

    def ask(self, call: Callable[[], Any], forward: Forward) -> Tensor:
        """Row-gate decisions from an unsteered pass, which ends where the gate has read.

        Set them as :attr:`decision` to steer the same prompts without asking again.

        Args:
            call: Runs the model on whole prompts.
            forward: Tells of that pass.

        Returns:
            float32 [rows].
        """
        gate = self.steering.gate
        assert gate is not None
        return read_rows(gate, self.model, self.runtime, call, lambda _: forward)

    @property
    def prompt_may_be_parted(self) -> bool:
        """Whether a prompt's beginning may be cached before the rest of it is known.

        Not where its tokens are steered, or not, by what a row gate says of the whole prompt.
        """
        scope, gate = self.steering.scope, self.steering.gate
        if "mask" in scope.parts:
            return False
        if gate is None or gate.unit == "token":
            return True
        return self.gate_first and scope.spares_beginning and self._decision is None

    def waits(self, forward: Forward) -> bool:
        """Whether a row gate decides later: this pass holds beginnings of prompts, no more.

        Only where ``prompt_lengths`` were set and nothing of a beginning is steered.
        """
        if forward.given_lengths is None or not self.prompt_may_be_parted:
            return False
        index, _ = forward.layout()
        return bool((index[:, -1] < forward.prompt_lengths() - 1).all())

    def reads_ahead(self, settings: Settings) -> bool:
        """Whether a row gate must read the prompt before ``generate`` feeds it."""
        gate = self.steering.gate
        if gate is None or gate.unit != "row" or self._decision is not None:
            return False
        return not self.gate_first or settings.get("prefill_chunk_size", None) is not None

    def read_ahead(self, call: Callable[[], Any], generation: Generation) -> Tensor:
        """Row-gate decisions from an unsteered pass over the prompts, float32 [prompts].

        Args:
            call: Runs the model on the prompts (each repeated once per beam or sample).
            generation: What is generated.
        """
        gate = self.steering.gate
        assert gate is not None
        decisions = read_rows(
            gate, self.model, self.runtime, call, lambda rows: prompt_pass(rows, generation)
        )
        return decisions[:: decisions.shape[0] // generation.prompts]


def _shaped(factor: Tensor, h: Tensor, forward: Forward, key: str) -> Tensor:
    if h.ndim == 3 and h.shape[0] == forward.rows and factor.shape[1] in (1, h.shape[1]):
        return factor
    if h.ndim == 2 and h.shape[0] == forward.rows * forward.tokens:
        return factor.expand(forward.rows, forward.tokens, 1).reshape(-1, 1)
    raise SteeringError(
        f"{key}: activation of shape {tuple(h.shape)} in a pass of {forward.rows} rows x "
        f"{forward.tokens} tokens; only one strength for all, without scope or gate, fits there"
    )


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
