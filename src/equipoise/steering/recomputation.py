"""Gradient checkpointing: a block runs twice, and must do the same both times."""

from __future__ import annotations

import torch

from equipoise.errors import SteeringError


class Recomputation:
    """Sees to it that gradient checkpointing recomputes what was computed.

    A checkpointed block runs again during the backward pass, with the strength that is set then.
    """

    def __init__(self) -> None:
        self._token: object | None = None
        self._mixed = self._done = False

    def forward(self, token: object) -> None:
        """A pass that may be recomputed runs at the strength known by ``token``."""
        if self._done:
            self._token, self._mixed, self._done = None, False, False
        self._mixed |= self._token is not None and self._token is not token
        self._token = token

    def check(self, token: object, *, static: bool) -> None:
        """Refuse a recomputation that would not be the computation.

        Raises:
            SteeringError: The strength changed since, or what is steered depends on the tokens.
        """
        if torch._C._current_graph_task_id() == -1:
            return  # not within a backward pass
        self._done = True
        if not static:
            raise SteeringError("gradient checkpointing with a token scope or a gate")
        if self._mixed or token is not self._token:
            raise SteeringError(
                "the strength changed between a forward pass and its backward pass, and gradient "
                "checkpointing recomputes it: set the strength after the backward pass"
            )
