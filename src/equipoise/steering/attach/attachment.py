"""A steering attached to a model: its strength, and the hooks that apply it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from equipoise.errors import SteeringError
from equipoise.steering.address import Address
from equipoise.steering.attach.cached import check_cache
from equipoise.steering.attach.forward import Forward, Generation, as_lengths
from equipoise.steering.attach.generation import Settings
from equipoise.steering.attach.guidance import is_guided
from equipoise.steering.attach.hooks import GateHook, InputHook, OutputHook
from equipoise.steering.attach.passes import LOCK
from equipoise.steering.attach.row_gate import RowGate
from equipoise.steering.attach.runtime import Runtime
from equipoise.steering.strength import Setting, Strength, as_strength, changes_of

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
        ran: Whether a pass with autograd has begun since it was attached.
        uid: Tells this steering, with its parameters as they now are, from any other.
        static: Whether every token of a row is steered alike, whatever the row holds.
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
        self._setting = Setting(as_strength(strength))
        self._mask: Tensor | None = None
        self._decision: Tensor | None = None
        self._places = _places(model, [Address.parse(key).path for key in sites])
        self.gate_first = gate_first
        self.uid = steering.uid
        gate = steering.gate
        self.static = steering.scope.everywhere and gate is None
        self.row_gate = RowGate(gate, self) if gate is not None and gate.unit == "row" else None
        self._handles: list[Any] = []
        self.ran = False
        with LOCK:  # a pass that begins meanwhile would miss a part of the hooks
            self.runtime = Runtime.of(model) or Runtime(backbone)
            self.runtime.join(self, model)
            self._register_hooks()

    def _register_hooks(self) -> None:
        gate = self.steering.gate
        if gate is not None:
            module = Address.parse(gate.site).find(self.model)
            gate_hook = GateHook(self, gate)
            self._handles.append(gate_hook.address.register(module, gate_hook))
        for key, module in self.sites.items():
            address = Address.parse(key)
            hook = (InputHook if address.input else OutputHook)(
                self, self.steering.transforms[key], address
            )
            self._handles.append(address.register(module, hook))

    # ---- what the user sets

    @property
    def strength(self) -> Tensor:
        """ω, float32: 0-d, or 1-D with one value per row of the batch (per prompt in generate)."""
        return self._setting.strength.float()

    @strength.setter
    def strength(self, value: Strength) -> None:
        strength = as_strength(value)
        with LOCK:
            self.runtime.passes.forget_broken()
            if not _equal(self._setting.strength, strength):
                self._setting = Setting(strength)

    @property
    def prompt_lengths(self) -> Tensor | None:
        """Real tokens of each row's prompt, int64 [rows]; None: told from the cache or generate.

        Set it where the prompt and its continuation go through the model in one pass, or where a
        beginning is cached before the rest of its prompt; it holds until it is set again, and
        ``generate`` refuses it if its prompts are of other lengths.
        """
        return self.runtime.prompt_lengths

    @prompt_lengths.setter
    def prompt_lengths(self, value: Tensor | Sequence[int] | None) -> None:
        self.runtime.prompt_lengths = None if value is None else as_lengths(value)

    @property
    def mask(self) -> Tensor | None:
        """For the token scope ``mask``: bool [rows, columns]; later columns are not steered."""
        return self._mask

    @mask.setter
    def mask(self, value: Tensor | None) -> None:
        fits = isinstance(value, Tensor) and value.ndim == 2 and value.dtype == torch.bool
        if value is not None and not fits:
            kind = getattr(value, "dtype", type(value).__name__)
            shape = tuple(getattr(value, "shape", ()))
            raise SteeringError(f"mask must be bool [rows, columns]; got {kind} {shape}")
        self._mask = value

    @property
    def decision(self) -> Tensor | None:
        """Row-gate decisions to use instead of asking the gate: float [rows], or None."""
        return self._decision

    @decision.setter
    def decision(self, value: Tensor | None) -> None:
        self._decision = None if value is None else as_strength(value).float().reshape(-1)

    @property
    def decisions(self) -> Tensor | None:
        """Row-gate decisions of the last forward pass in this thread, float32 [rows]."""
        forward = self.runtime.forward
        return forward.decisions.get(self.uid) if forward else None

    def detach(self) -> None:
        """Take the steering off; the model is bit-identical to what it was. Twice is fine.

        A pass that another thread is in keeps it to its end.
        """
        self.runtime.leave(self)

    # ---- what the hooks ask

    @property
    def setting(self) -> Setting:
        """Strength and parameters as they now are; a pass goes by what it took when it began."""
        with LOCK:
            uid, strength = self.steering.uid, self._setting.strength
            if uid != self.uid or self._setting.changes != changes_of(strength):
                self.uid, self._setting = uid, Setting(strength)
            return self._setting

    def touches(self, forward: Forward) -> bool:
        """Whether this pass may hold tokens that are steered."""
        if not self.steering.scope.spares_prompt:
            return True
        if forward.generation is not None:
            return forward.past + forward.tokens > forward.generation.mask.shape[1]
        return forward.past > 0 or forward.given_lengths is not None

    def batch(self, h: Tensor) -> Any:
        """What the shape of a per-row factor depends on, beside the strength."""
        forward = self.runtime.forward
        if forward is None:
            return h.shape
        flat = h.shape if h.ndim < 3 else h.shape[0]
        return flat, forward.rows, forward.generation is not None

    # ---- what the runtime tells

    def take(self) -> Setting:
        """A forward pass starts: see once, for all sites, what changed since the last.

        Returns:
            The strength of this pass.

        Raises:
            SteeringError: A site's module is no longer the model's.
        """
        for above, leaf, module in self._places:
            now = above._modules.get(leaf)
            if now is not module and getattr(now, "_orig_mod", None) is not module:
                raise SteeringError(
                    f"{type(above).__name__}.{leaf} was replaced since the steering was attached, "
                    "which would miss it: detach, change the model, then attach"
                )
        return self.setting

    def remove_hooks(self) -> None:
        """No pass goes by this steering any more."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def begin(self, setting: Setting, forward: Forward, given: dict[str, Any]) -> None:
        """The language backbone's part of a pass starts.

        Raises:
            SteeringError: Its cache was filled at another strength or decision, or by prompts
                that ended elsewhere; or it packs several sequences into a row.
        """
        if forward.past or forward.unmarked:
            check_cache(self, setting, forward)
        elif forward.tokens > 1 and not setting.off and self._reads_rows:
            forward.refuse_packed(given)
        if torch.is_grad_enabled():
            self.ran = True
        if self.row_gate is not None:
            self.row_gate.begin(forward, given)

    @property
    def _reads_rows(self) -> bool:
        """Whether it matters where a row's tokens stand in it."""
        scope = self.steering.scope
        asked = self.row_gate is not None and self.decision is None
        return asked or scope.told_by_prompt or scope.positions is not None

    def begin_generation(self, generation: Generation, settings: Settings) -> None:
        """``generate`` starts.

        Raises:
            SteeringError: The strengths, or the prompt lengths that were set, do not fit its
                prompts.
        """
        strength = self.setting.strength
        if self.prompt_lengths is not None and not self.static:
            self._check_lengths(self.prompt_lengths, generation)
        if "mask" in self.steering.scope.parts and is_guided(settings):
            # It is told by the columns of the prompt; the unconditional prompt has others.
            raise SteeringError("classifier-free guidance does not go with the token scope 'mask'")
        n, prompts = strength.numel(), generation.prompts
        if strength.ndim == 0 or n == prompts:
            return
        sequences, beams = settings.get("num_return_sequences", 1), settings.get("num_beams", 1)
        if n != prompts * sequences or beams > 1:
            raise SteeringError(
                f"{n} strengths for {prompts} prompts: give one per prompt"
                + ("" if beams > 1 else ", or one per returned sequence")
            )

    def _check_lengths(self, told: Tensor, generation: Generation) -> None:
        # Set for a pass and forgotten, most likely: generate tells its prompts by itself.
        if not generation.padding_known or told.tolist() != generation.lengths.tolist():
            raise SteeringError(
                f"prompt_lengths {told.tolist()} are not those of the prompts given to generate: "
                "set attachment.prompt_lengths = None"
            )

    @property
    def prompt_may_be_parted(self) -> bool:
        """Whether a prompt's beginning may be cached before the rest of it is known.

        Not where its tokens are steered, or not, by what is told of the whole prompt only.
        """
        if "mask" in self.steering.scope.parts:
            return False
        return self.row_gate is None or self.row_gate.prompt_may_be_parted


def _places(root: nn.Module, paths: Sequence[str]) -> list[tuple[nn.Module, str, nn.Module]]:
    """Where the modules on the way to the sites hang: parent, name there, module."""
    ways = {
        ".".join(path.split(".")[:end]) for path in paths for end in range(1, path.count(".") + 2)
    }
    found = []
    for way in sorted(ways):
        above, _, leaf = way.rpartition(".")
        found.append((root.get_submodule(above), leaf, root.get_submodule(way)))
    return found


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.requires_grad or other.requires_grad or one.shape != other.shape:
        return False
    return bool((one == other.to(one.device)).all())
