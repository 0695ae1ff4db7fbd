"""What a forward pass is about: its rows, its tokens, and where they stand in their prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from equipoise.errors import SteeringError
from equipoise.steering.attach.cache import Stamp

_UNTOLD = (
    "padding, or a cached beginning, cannot be told from the prompt: pass attention_mask to "
    "generate, over all its tokens, so that the token scope or the gate can"
)
_UNCOUNTED = (
    "how many tokens are cached cannot be told of this model: a token scope or a gate needs "
    "use_cache=False here"
)


def as_lengths(value: Tensor | Sequence[int]) -> Tensor:
    """Numbers of tokens, one per row, as int64 [rows].

    Raises:
        SteeringError: Not integers of at least 1.
    """
    try:
        lengths = torch.as_tensor(value)
    except (TypeError, ValueError):
        lengths = torch.empty(0)
    whole = not (lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool)
    if lengths.ndim != 1 or not len(lengths) or not whole or bool((lengths < 1).any()):
        got = lengths.tolist() if lengths.numel() else value
        raise SteeringError(f"prompt_lengths must be an integer of 1 or more per row; got {got}")
    return lengths.long()


@dataclass
class Generation:
    """A running ``generate`` call.

    Attributes:
        mask: bool [prompts, columns]; real tokens of the prompts, before any expansion to beams.
        padding_known: Whether the caller told which tokens are padding.
        parted: Whether the model is given the prompts in parts.
        decisions: Per steering with a row gate, where it was read ahead: float32 [prompts].
    """

    mask: Tensor
    padding_known: bool = True
    parted: bool = False
    decisions: dict[str, Tensor] = field(default_factory=dict)

    @property
    def prompts(self) -> int:
        """Number of prompts."""
        return self.mask.shape[0]

    @property
    def lengths(self) -> Tensor:
        """Real tokens of each prompt, int64 [prompts]; only where the padding is known."""
        return self.mask.sum(1)


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
        uncounted: Whether the cache holds tokens that ``past`` does not count.
        unmarked: Whether it is one that no steered model filled.
        stamp: Of the cache at the start of the pass.
        generation: The ``generate`` call it belongs to.
        given_lengths: Prompt lengths the caller set; not within ``generate``, which tells them.
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
    uncounted: bool = False
    unmarked: bool = False
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
        index, real = self._columns()
        return index[:, self.past :], real[:, self.past :]

    def cached_layout(self) -> tuple[Tensor, Tensor]:
        """The same of the columns in the cache: int64 and bool, [rows, past]."""
        index, real = self._columns()
        return index[:, : self.past], real[:, : self.past]

    def _columns(self) -> tuple[Tensor, Tensor]:
        if self._layout is None:
            real = self._real()
            if real is None:
                columns = torch.arange(self.past + self.tokens, device=self.device)
                index = columns.expand(self.rows, -1)
                self._layout = index, torch.ones_like(index, dtype=torch.bool)
            else:
                self._layout = real.long().cumsum(1) - 1, real
        return self._layout

    def _real(self) -> Tensor | None:
        if self.uncounted:
            raise SteeringError(_UNCOUNTED)
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
            if self.generation is not None:
                lengths = self._generation_lengths(self.generation)
            elif self.given_lengths is not None:
                lengths = self.expand(self.given_lengths, "prompt_lengths")
            elif self.past == 0:
                lengths = self.layout()[1].sum(1)
            elif self.tokens == 1 and self._holds_prompts():
                lengths = cast("Tensor", self.cached_lengths())
            else:
                raise SteeringError(
                    "cannot tell where the prompt ends after what is cached: set "
                    "attachment.prompt_lengths to the number of prompt tokens per row"
                )
            self._lengths = lengths.to(self.device)
        return self._lengths

    def _holds_prompts(self) -> bool:
        """Whether the prompts that the cache was filled under are still in it."""
        before = self.cached_lengths()
        if self.stamp is None or before is None:
            return False
        cropped = self.past < self.stamp.tokens
        return not cropped or bool((self.cached_layout()[1].sum(1) >= before).all())

    def cached_lengths(self) -> Tensor | None:
        """Prompt lengths that the cached tokens were steered by, int64 [rows]; None: unknown."""
        if self.stamp is None or self.stamp.prompt is None:
            return None
        return self.expand(self.stamp.prompt, "cached prompts").to(self.device)

    def same_prompts(self) -> bool:
        """Whether prompts end where they did when the cache was filled.

        Raises:
            SteeringError: It cannot be told where they end now.
        """
        if self.stamp is None or self.stamp.prompt is None:
            return False
        # In a loop these are the same objects: nothing is compared, and no device waited for.
        if self.generation is not None and self.generation is self.stamp.generation:
            return True
        now, before = self.prompt_lengths(), self.cached_lengths()
        return before is not None and (now is before or torch.equal(now, before))

    def refuse_packed(self, given: Mapping[str, Any]) -> None:
        """See to it that a row is one sequence.

        Args:
            given: The backbone's arguments. Of ``position_ids``, [rows or 1, tokens] or of a form
                that transformers does not pack by, and ``cu_seq_lens_q``, [sequences + 1], each
                may tell.

        Raises:
            SteeringError: Positions start anew within a row, or there are more sequences.
        """
        ends, positions = given.get("cu_seq_lens_q"), given.get("position_ids")
        packed = isinstance(ends, Tensor) and len(ends) > self.rows + 1
        if not packed and isinstance(positions, Tensor) and positions.ndim == 2:
            _, real = self.layout()
            if positions.shape[1] == real.shape[1]:
                both = real[:, 1:] & real[:, :-1]  # padding may have any position
                packed = bool((both & (positions.diff(dim=1) < 1)).any())
        if packed:
            raise SteeringError(
                "a row holds several sequences (position_ids start anew, or cu_seq_lens_q says so),"
                " which a token scope or a gate takes for one: give each a row"
            )

    def lengths_to_keep(self) -> Tensor | None:
        """Prompt lengths for the cache; what cannot be told now is not needed now."""
        try:
            return self.prompt_lengths()
        except SteeringError:
            return self.stamp.prompt if self.stamp else None

    def _generation_lengths(self, generation: Generation) -> Tensor:
        columns = generation.mask.shape[1]
        if not (self.past or self.uncounted or generation.parted) and self.tokens < columns:
            raise SteeringError(
                f"generate was given {columns} prompt tokens and runs the model on the first "
                f"{self.tokens}: where the prompt ends cannot be told, so steer all tokens, ungated"
            )
        if generation.padding_known:
            return self.expand(generation.lengths, "prompts")
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
