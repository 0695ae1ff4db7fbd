"""How a row gate reads the prompt: during the pass itself, or in an unsteered pass before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from equipoise.errors import SteeringError
from equipoise.steering.address import Address, activation
from equipoise.steering.attach.forward import Forward, Generation
from equipoise.steering.gates import Gate

if TYPE_CHECKING:
    from equipoise.steering.attach.runtime import Runtime

_PARTED = "a row gate needs the whole prompt in one pass (set attachment.decision to go on)"


def read_rows(
    gate: Gate,
    root: nn.Module,
    runtime: Runtime,
    call: Callable[[], Any],
    forward: Callable[[int], Forward],
) -> Tensor:
    """A row gate's decisions from an unsteered pass, which ends where the gate has read.

    Args:
        gate: The gate.
        root: The model its site is in.
        runtime: Of that model.
        call: Runs the model.
        forward: Tells of the pass, given its number of rows.

    Returns:
        float32 [rows].

    Raises:
        SteeringError: The pass did not come by the gate's site.
    """
    address = Address.parse(gate.site)
    probe = _Probe(gate, address, forward)
    handle = address.register(address.find(root), probe)
    try:
        with runtime.mute(), torch.no_grad():
            call()
    except _Read:
        pass
    finally:
        handle.remove()
    if probe.decision is None:
        raise SteeringError(f"the gate's site {gate.site} was not reached by the prompt")
    return probe.decision


def prompt_pass(rows: int, generation: Generation) -> Forward:
    """The pass that puts all prompts through the model at once."""
    return Forward(
        rows=rows,
        tokens=generation.mask.shape[1],
        device=generation.mask.device,
        generation=generation,
    )


class _Read(Exception):
    """The gate has seen what it needs; the rest of the pass is not needed."""


class _Probe:
    def __init__(self, gate: Gate, address: Address, forward: Callable[[int], Forward]) -> None:
        self.gate, self.address, self.forward = gate, address, forward
        self.decision: Tensor | None = None

    def __call__(self, module: nn.Module, args: Any, output: Any = None) -> None:
        h = self.address.take(activation(args if self.address.input else output, module))
        self.decision = decide_rows(self.gate, h, self.forward(h.shape[0]))
        raise _Read


def decide_rows(gate: Gate, h: Tensor, forward: Forward) -> Tensor:
    """A row gate's decisions from activations [rows, tokens, d], float32 [rows].

    Raises:
        SteeringError: Not all that it reads of the prompts is in this pass.
    """
    with torch.no_grad():
        if gate.reads != "last":
            return gate(gate.pool(h, _prompt_tokens(forward).to(h.device)))
        column, here = forward.last_prompt_token()
        if not bool(here.all()):
            raise SteeringError(_PARTED)
        rows = torch.arange(forward.rows, device=h.device)
        return gate(h[rows, column.to(h.device)])


def _prompt_tokens(forward: Forward) -> Tensor:
    """Which tokens are the prompts', all of them in this pass; bool [rows, tokens]."""
    index, real = forward.layout()
    lengths = forward.prompt_lengths()
    inside = real & (index < lengths[:, None])
    if bool((inside.sum(1) != lengths).any()):
        raise SteeringError(_PARTED)
    return inside
