"""Gradient checkpointing: a block runs twice, and must do the same both times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from equipoise.errors import SteeringError
from equipoise.steering.strength import Setting

if TYPE_CHECKING:
    from equipoise.steering.attach.attachment import Attachment
    from equipoise.steering.attach.runtime import Runtime

_CHANGED = (
    "the strength changed, or a steering came or went, between a forward pass and its backward "
    "pass, and gradient checkpointing recomputes it: call backward() first (before the end of "
    "`with steering.applied(...)`)"
)


class Watch:
    """Sees to it that the backward pass of a forward pass recomputes what was computed.

    A checkpointed block runs again during the backward pass, with what is attached then. If that
    has changed, steered modules that run again raise. Without checkpointing nothing runs again,
    and the backward pass may come at any time.

    Args:
        runtime: Of the steered model.
        taken: What steered the pass, at which strengths.
        output: What the language backbone returned, with autograd.
    """

    def __init__(self, runtime: Runtime, taken: Mapping[Attachment, Setting], output: Any) -> None:
        self._runtime, self._taken = runtime, taken
        self._state = _state(taken.values())
        self._handles: list[RemovableHandle] = []
        for tensor in _tensors(output):
            if tensor.grad_fn is not None:
                # Not a hook of the tensor, which would be seen when that is saved.
                tensor.grad_fn.register_prehook(self._backward_starts)

    def _backward_starts(self, gradients: Any) -> None:
        now = [attachment.setting for attachment in self._runtime.attachments]
        if _state(now) == self._state or self._handles:
            return
        self._task = torch._C._current_graph_task_id()
        modules = {m for attachment in self._taken for m in attachment.sites.values()}
        self._handles = [m.register_forward_pre_hook(self._refuse) for m in modules]
        engine: Any = torch.autograd.Variable._execution_engine
        engine.queue_callback(self._backward_ends)

    def _refuse(self, module: nn.Module, args: Any) -> None:
        self._backward_ends()
        # A backward pass that failed otherwise did not tell its end.
        if torch._C._current_graph_task_id() == self._task:
            raise SteeringError(_CHANGED)

    def _backward_ends(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def check_recomputation(*, static: bool, ran: bool) -> None:
    """Refuse to steer a recomputation that cannot be the computation.

    Args:
        static: Whether every token of a row is steered alike.
        ran: Whether any pass with autograd has begun under this attachment.

    Raises:
        SteeringError: What is steered depends on the tokens, or was not steered before.
    """
    if torch._C._current_graph_task_id() == -1:
        return  # not within a backward pass
    if not static:
        raise SteeringError(
            "gradient checkpointing recomputes a block without what a token scope or a gate knew "
            "of the pass: turn it off, or steer all tokens, ungated"
        )
    if not ran:
        raise SteeringError(_CHANGED)


def _state(settings: Iterable[Setting]) -> list[object]:
    return [(id(setting.strength), setting.changes) for setting in settings]


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors in a model's output."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | tuple | list):
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(part)
