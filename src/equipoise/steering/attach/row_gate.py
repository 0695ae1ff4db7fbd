"""A row gate on its attachment: when it reads the prompt, and what it said."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from equipoise.errors import SteeringError
from equipoise.steering.attach.forward import Forward, Generation
from equipoise.steering.attach.generation import Settings
from equipoise.steering.attach.reading import prompt_pass, read_rows
from equipoise.steering.gates import Gate

if TYPE_CHECKING:
    from equipoise.steering.attach.attachment import Attachment


class RowGate:
    """Sees to it that each prompt is read once, unsteered, and that its decision stays.

    Args:
        gate: A gate that decides per row.
        attachment: Whose steering it gates.
    """

    def __init__(self, gate: Gate, attachment: Attachment) -> None:
        self.gate, self.attachment = gate, attachment

    @property
    def asks_first(self) -> bool:
        """Whether it reads prompts in an unsteered pass of its own."""
        return not self.attachment.gate_first

    @property
    def prompt_may_be_parted(self) -> bool:
        """Whether a prompt's beginning may be cached before the rest of it is known.

        Not where its tokens are steered, or not, by what the gate says of the whole prompt.
        """
        attachment = self.attachment
        spared = attachment.steering.scope.spares_beginning
        return attachment.gate_first and spared and attachment.decision is None

    def waits(self, forward: Forward) -> bool:
        """Whether it decides later: this pass holds beginnings of prompts, no more.

        Only where ``prompt_lengths`` were set and nothing of a beginning is steered.
        """
        if forward.given_lengths is None or not self.attachment.prompt_may_be_parted:
            return False
        index, _ = forward.layout()
        return bool((index[:, -1] < forward.prompt_lengths() - 1).all())

    def begin(self, forward: Forward, given: dict[str, Any]) -> None:
        """A forward pass starts: what is known already holds, else ask if the site comes too late.

        Raises:
            SteeringError: Its cache was filled under another decision, or under none.
        """
        attachment = self.attachment
        uid, runtime = attachment.uid, attachment.runtime
        ahead = forward.generation.decisions if forward.generation else {}
        decided = attachment.decision if attachment.decision is not None else ahead.get(uid)
        parted = attachment.prompt_may_be_parted and forward.given_lengths is not None
        if decided is not None:
            self._settle(forward, forward.expand(decided, "gate decisions"))
        elif uid in forward.decisions:
            if not forward.same_prompts():
                raise SteeringError(
                    "the gate decided on prompts of other lengths when the cache was filled: start "
                    "from an empty cache, or set attachment.decision"
                )
            forward.decisions[uid] = forward.expand(forward.decisions[uid], "cached gate decisions")
        elif forward.past and not parted:
            raise SteeringError("the gate's prompt was cached before the gate was attached")
        elif self.asks_first:
            alone = {**given, "use_cache": False, "past_key_values": None, "cache_params": None}
            alone = {name: value for name, value in alone.items() if name in given}
            forward.decisions[uid] = self.ask(lambda: runtime.backbone(**alone), forward)

    def _settle(self, forward: Forward, decided: Tensor) -> None:
        before = forward.decisions.get(self.attachment.uid)
        if before is None:
            forward.decisions[self.attachment.uid] = decided
        elif not torch.allclose(before, decided.to(before), atol=1e-4):
            raise SteeringError(
                "the cache was filled under other gate decisions than this prompt gets: clear it"
            )

    def ask(self, call: Callable[[], Any], forward: Forward) -> Tensor:
        """Decisions from an unsteered pass, which ends where the gate has read.

        Set them as :attr:`Attachment.decision` to steer the same prompts without asking again.

        Args:
            call: Runs the model on whole prompts.
            forward: Tells of that pass.

        Returns:
            float32 [rows].
        """
        return self._read(call, lambda _: forward)

    def reads_ahead(self, settings: Settings) -> bool:
        """Whether it must read the prompt before ``generate`` feeds it."""
        if self.attachment.decision is not None:
            return False
        # What is cached may be of another prompt, or of this one's beginning.
        return self.asks_first or settings.parted

    def read_ahead(self, call: Callable[[], Any], generation: Generation) -> Tensor:
        """Decisions from an unsteered pass over the prompts, float32 [prompts].

        Args:
            call: Runs the model on the prompts (each repeated once per beam or sample).
            generation: What is generated.
        """
        decisions = self._read(call, lambda rows: prompt_pass(rows, generation))
        return decisions[:: decisions.shape[0] // generation.prompts]

    def _read(self, call: Callable[[], Any], forward: Callable[[int], Forward]) -> Tensor:
        attachment = self.attachment
        return read_rows(self.gate, attachment.model, attachment.runtime, call, forward)
