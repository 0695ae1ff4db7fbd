"""Which tokens are steered."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from equipoise.errors import SteeringError

_PARTS = ("all", "prompt", "last_prompt", "generated", "mask")
_SPAN = re.compile(r"positions:(?P<start>\d+):(?P<stop>\d*)")


@dataclass(frozen=True)
class Scope:
    """A set of tokens, told by where they stand among the *real* tokens of their row.

    Padding is never counted, so left- and right-padded batches mean the same tokens. Prompt
    tokens are those given to ``generate``; outside ``generate``, those of the first forward pass
    into an empty cache, unless ``Attachment.prompt_lengths`` says otherwise.

    Attributes:
        parts: Any of ``prompt``, ``last_prompt`` (its last token), ``generated``; or ``all``
            alone; or ``mask`` alone (the tokens of ``Attachment.mask``).
        positions: Also the tokens at positions ``start <= i < stop`` (stop None: no end).
    """

    parts: frozenset[str] = frozenset({"all"})
    positions: tuple[int, int | None] | None = None

    def __post_init__(self) -> None:
        start, stop = self.positions or (0, None)
        if stop is not None and stop <= start:
            raise SteeringError(f"token scope positions:{start}:{stop} holds no position")

    @classmethod
    def parse(cls, text: str | Scope) -> Scope:
        """Read ``"all"``, ``"last_prompt+generated"``, ``"positions:0:8"``, ``"mask"``, ...

        Raises:
            SteeringError: Not a scope.
        """
        if isinstance(text, Scope):
            return text
        if not isinstance(text, str):
            raise SteeringError(f"a token scope is a word such as 'all'; got {text!r}")
        parts, positions = set(), None
        for word in text.split("+"):
            span = _SPAN.fullmatch(word)
            if span:
                if positions is not None:
                    raise SteeringError(f"token scope {text!r}: one span of positions, not several")
                positions = int(span["start"]), int(span["stop"]) if span["stop"] else None
            elif word in _PARTS:
                parts.add(word)
            else:
                raise SteeringError(
                    f"unknown token scope {word!r}; there is {', '.join(_PARTS)} and "
                    "positions:START:STOP, joined by +"
                )
        if parts & {"all", "mask"} and (len(parts) > 1 or positions):
            raise SteeringError(f"token scope {text!r}: all and mask stand alone")
        return cls(frozenset(parts), positions)

    def __str__(self) -> str:
        words = sorted(self.parts, key=_PARTS.index)
        if self.positions:
            start, stop = self.positions
            words.append(f"positions:{start}:{'' if stop is None else stop}")
        return "+".join(words)

    @property
    def everywhere(self) -> bool:
        """Whether every token is meant, whatever the batch looks like."""
        return "all" in self.parts

    @property
    def told_by_prompt(self) -> bool:
        """Whether it depends on where the prompt ends."""
        return not self.parts.isdisjoint({"prompt", "last_prompt", "generated"})

    @property
    def spares_beginning(self) -> bool:
        """Whether no prompt token before the last is ever meant."""
        return self.parts <= {"last_prompt", "generated"} and self.positions is None

    @property
    def spares_prompt(self) -> bool:
        """Whether no prompt token is ever meant."""
        return self.parts == {"generated"} and self.positions is None

    def covers(self, index: Tensor, real: Tensor, prompt: Tensor) -> Tensor:
        """Which of a batch's tokens are meant.

        Args:
            index: int64 [rows, tokens]; position of each token among its row's real tokens.
            real: bool [rows, tokens]; False for padding.
            prompt: int64 [rows]; number of real tokens of each row's prompt.

        Returns:
            bool [rows, tokens].
        """
        prompt = prompt[:, None]
        chosen = torch.full_like(real, self.everywhere)
        if "prompt" in self.parts:
            chosen = chosen | (index < prompt)
        if "last_prompt" in self.parts:
            chosen = chosen | (index == prompt - 1)
        if "generated" in self.parts:
            chosen = chosen | (index >= prompt)
        if self.positions:
            start, stop = self.positions
            inside = index >= start
            chosen = chosen | (inside if stop is None else inside & (index < stop))
        return chosen & real
