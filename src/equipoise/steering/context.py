"""What a forward pass is about: its rows, its tokens, and where they stand in their prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from equipoise.errors import SteeringError

_STAMP = "_equipoise_stamp"
_CACHES = ("past_key_values", "cache_params")
_UNTOLD = (
    "the prompts hold padding tokens: pass attention_mask to generate, so that the token scope "
    "or the gate can tell them from the prompt"
)


@dataclass
class Stamp:
    """What a cache was filled under; travels with the cache object, copies included.

    Attributes:
        tokens: Columns held (prompt and generated, padding included).
        prompt: int64 [rows]; real tokens of each row's prompt.
        strengths: Per steering, by :attr:`Steering.uid`: the strengths its tokens were run at.
        decisions: Per steering with a row gate: float32 [rows].
    """

    tokens: int
    prompt: Tensor | None = None
    strengths: dict[str, tuple[float, ...]] = field(default_factory=dict)
    decisions: dict[str, Tensor] = field(default_factory=dict)


def stamp_of(cache: Any) -> Stamp | None:
    """The stamp of a cache, if a steered model filled it."""
    return getattr(cache, _STAMP, None)


def put_stamp(cache: Any, stamp: Stamp) -> None:
    """Mark a cache; legacy caches (tuples) cannot be marked and are left alone."""
    if hasattr(cache, "__dict__"):
        setattr(cache, _STAMP, stamp)


def cache_of(values: Any) -> Any:
    """The cache among a forward pass's arguments, or in its output; None if there is none."""
    if isinstance(values, tuple):
        return next((v for v in values if hasattr(v, "get_seq_length")), None)
    for name in _CACHES:
        cache = values.get(name) if isinstance(values, Mapping) else getattr(values, name, None)
        if cache is not None:
            return cache
    return None


def tokens_in(cache: Any) -> int:
    """Columns a cache holds."""
    if cache is None:
        return 0
    try:
        return int(cache.get_seq_length())
    except (AttributeError, ValueError):
        # State-space caches do not count their tokens.
        stamp = stamp_of(cache)
        return stamp.tokens if stamp else 0


@dataclass
class Generation:
    """A running ``generate`` call.

    Attributes:
        mask: bool [prompts, columns]; real tokens of the prompts, before any expansion to beams.
        padding_known: Whether the caller told which tokens are padding.
        decisions: Per steering with a row gate, where it was read ahead: float32 [prompts].
    """

    mask: Tensor
    padding_known: bool = True
    decisions: dict[str, Tensor] = field(default_factory=dict)

    @property
    def prompts(self) -> int:
        """Number of prompts."""
        return self.mask.shape[0]


@dataclass(eq=False)
class Forward:
    """One forward pass of the language backbone.

    Attributes:
        rows: Batch size.
        tokens: Columns given in this pass.
        device: Of the inputs.
        past: Columns already in the cache.
        attention: [rows, past + tokens] attention mask, or None where the model saw none.
        masked: Whether the model saw a mask of a form that does not tell the padding.
        stamp: Of the cache at the start of the pass.
        generation: The ``generate`` call it belongs to.
        given_lengths: Prompt lengths the caller set.
        decisions: Row-gate decisions known so far, by steering: float32 [rows].
        token_decisions: Token-gate decisions of this pass: float32 [rows, tokens].
        chosen: Token scope times gate of this pass: float32 [rows or 1, tokens or 1, 1].
        over: Whether the whole model is through with it.
    """

    rows: int
    tokens: int
    device: torch.device
    past: int = 0
    attention: Tensor | None = None
    masked: bool = False
    stamp: Stamp | None = None
    generation: Generation | None = None
    given_lengths: Tensor | None = None
    decisions: dict[str, Tensor] = field(default_factory=dict)
    token_decisions: dict[str, Tensor] = field(default_factory=dict)
    chosen: dict[str, Tensor] = field(default_factory=dict)
    over: bool = False
    _layout: tuple[Tensor, Tensor] | None = None
    _lengths: Tensor | None = None

    def expand(self, per_row: Tensor, what: str) -> Tensor:
        """[n, ...] values, one per prompt, as one per row of this pass.

        ``generate`` lays the beams (or returned sequences) of a prompt side by side.

        Raises:
            SteeringError: n is neither the batch size nor, within ``generate``, a divisor of it.
        """
        n = per_row.shape[0]
        if n == self.rows:
            return per_row
        if self.generation is not None and n == self.generation.prompts and self.rows % n == 0:
            return per_row.repeat_interleave(self.rows // n, dim=0)
        raise SteeringError(f"{what}: {n} values for a batch of {self.rows} rows")

    def layout(self) -> tuple[Tensor, Tensor]:
        """Position of each token among its row's real tokens, and which tokens are real.

        Returns:
            int64 [rows, tokens] and bool [rows, tokens].

        Raises:
            SteeringError: The padding cannot be told.
        """
        if self._layout is None:
            mask = self._real()
            if mask is None:
                columns = torch.arange(self.past, self.past + self.tokens, device=self.device)
                index = columns.expand(self.rows, -1)
                self._layout = index, torch.ones_like(index, dtype=torch.bool)
            else:
                index = mask.long().cumsum(1) - 1
                self._layout = index[:, self.past :], mask[:, self.past :]
        return self._layout

    def _real(self) -> Tensor | None:
        width = self.past + self.tokens
        generation = self.generation
        if self.attention is not None:
            if self.attention.shape[1] != width:
                raise SteeringError(
                    f"attention_mask has {self.attention.shape[1]} columns for {self.past} cached "
                    f"and {self.tokens} new tokens; a token scope or a gate needs all of them"
                )
            return self.attention.bool()
        if generation is not None:
            if not generation.padding_known:
                raise SteeringError(_UNTOLD)
            mask = self.expand(generation.mask.to(self.device), "prompts")[:, :width]
            return torch.nn.functional.pad(mask, (0, width - mask.shape[1]), value=True)
        if self.masked:
            raise SteeringError(
                "the attention mask does not tell the padding: a token scope or a gate needs a "
                "2-D attention_mask"
            )
        return None

    def prompt_lengths(self) -> Tensor:
        """Real tokens of each row's prompt, int64 [rows].

        Raises:
            SteeringError: It cannot be told where the prompt ends.
        """
        if self._lengths is None:
            if self.given_lengths is not None:
                lengths = self.expand(self.given_lengths, "prompt_lengths")
            elif self.generation is not None:
                lengths = self._generation_lengths(self.generation)
            elif self.past == 0:
                lengths = self.layout()[1].sum(1)
            elif self.stamp is not None and self.stamp.prompt is not None and self.tokens == 1:
                lengths = self.expand(self.stamp.prompt, "cached prompts")
            else:
                raise SteeringError(
                    "cannot tell where the prompt ends: several tokens after a cached prefix; "
                    "set attachment.prompt_lengths to the number of prompt tokens per row"
                )
            self._lengths = lengths.to(self.device)
        return self._lengths

    def lengths_to_keep(self) -> Tensor | None:
        """Prompt lengths for the cache; what cannot be told now is not needed now."""
        try:
            return self.prompt_lengths()
        except SteeringError:
            return self.stamp.prompt if self.stamp else None

    def _generation_lengths(self, generation: Generation) -> Tensor:
        if generation.padding_known:
            return self.expand(generation.mask.sum(1), "prompts")
        columns = generation.mask.shape[1]
        if self.attention is None or self.attention.shape[1] < columns:
            raise SteeringError(_UNTOLD)
        return self.attention[:, :columns].bool().sum(1)

    def last_prompt_token(self) -> tuple[Tensor, Tensor]:
        """Column of each row's last prompt token in this pass, and whether it is here.

        Returns:
            int64 [rows] (0 where it is not here) and bool [rows].
        """
        index, real = self.layout()
        hit = (index == self.prompt_lengths()[:, None] - 1) & real
        return hit.long().argmax(1), hit.any(1)
