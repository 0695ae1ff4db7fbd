"""Free text: what a model writes to prompts, at one strength or at several."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from equipoise.decisions.batch import counts_padding
from equipoise.decisions.encode import prompt_text
from equipoise.decisions.forward import left_pad
from equipoise.decisions.ladder import BATCH_TOKENS, attached
from equipoise.decisions.tokens import token_ids
from equipoise.errors import EquipoiseError
from equipoise.models import Model
from equipoise.models.positions import longest_input, too_long

if TYPE_CHECKING:
    from equipoise.steering import Steering

_KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "cache_implementation")
"""What of a checkpoint's generation settings does not say how a token is chosen."""

_SETTINGS = threading.Lock()
"""Held while a model's generation settings are set aside."""


@dataclass(frozen=True)
class Written:
    """R texts to each of n prompts, as tokens.

    Attributes:
        tokens: int64 [n·R, T]; prompt (left-padded) and answer.
        mask: int64 [n·R, T]; 1 on tokens that are read.
        scored: bool [n·R, T]; True on the answer's tokens, its end-of-text included.
        texts: The answers as text, n·R of them.
    """

    tokens: Tensor
    mask: Tensor
    scored: Tensor
    texts: tuple[str, ...]


def write(
    model: Model,
    prompts: Sequence[str],
    *,
    rollouts: int = 1,
    temperature: float = 1.0,
    max_new_tokens: int = 16,
    seed: int = 0,
) -> Written:
    """Let the model (with whatever is attached) go on from each prompt, in one batch.

    Temperature 0 decodes greedily. The sampling is seeded and leaves the global generator as it
    was.

    Raises:
        EquipoiseError: A prompt and its answer have more tokens than the model has positions for (a
            warning where those are rotary); prompts of several lengths for a model that counts
            padding.
    """
    tokenizer, device = model.tokenizer, model.device
    encoded = [_encode(model, prompt, max_new_tokens) for prompt in prompts]
    if len(set(map(len, encoded))) > 1 and counts_padding(model.hf):
        raise EquipoiseError(
            f"{model.name}: what this architecture writes changes with padding, so that prompts of "
            "different lengths cannot share a batch; a fit can choose among the options instead "
            "(answers: options)"
        )
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    prompt, mask = left_pad(encoded, pad, device)
    how = {"do_sample": True, "temperature": temperature, "top_k": 0}
    with _settings_aside(model), torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        tokens = model.hf.generate(
            input_ids=prompt,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            num_return_sequences=rollouts,
            pad_token_id=pad,
            **(how if temperature > 0 else {"do_sample": False}),
        )
    mask = mask.repeat_interleave(rollouts, 0)
    answer = tokens[:, prompt.shape[1] :]
    ended = torch.zeros_like(answer, dtype=torch.bool)
    for stop in _stop_tokens(model):
        ended |= answer == stop
    live = ended.cumsum(1) - ended.long() == 0  # up to and with the first end-of-text
    texts = tuple(
        tokenizer.decode(row[keep], skip_special_tokens=True)
        for row, keep in zip(answer, live, strict=True)
    )
    return Written(
        tokens=tokens,
        mask=torch.cat([mask, live.long()], 1),
        scored=torch.cat([torch.zeros_like(mask, dtype=torch.bool), live], 1),
        texts=texts,
    )


def write_at(
    model: Model,
    prompts: Sequence[str],
    *,
    steering: Steering | None = None,
    strengths: Sequence[float] = (0.0,),
    temperature: float = 1.0,
    max_new_tokens: int = 64,
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    progress: Callable[[int], None] | None = None,
) -> list[tuple[str, ...]]:
    """What the model writes to each prompt at every strength, by the same random draws.

    Args:
        model: The model.
        prompts: What it is to go on from.
        steering: What is applied; None for the base model.
        strengths: Strengths ω to write at.
        temperature: Of the sampling; 0 decodes greedily.
        max_new_tokens: Longest answer.
        seed: Of the sampling.
        batch_tokens: Tokens per batch, prompts and answers together.
        progress: Called with the number of prompts just done, all strengths counted as one.

    Returns:
        One tuple of answers per strength, in the order of the prompts.

    Raises:
        EquipoiseError: A prompt and its answer have more tokens than the model has positions for (a
            warning where those are rotary).
    """
    sizes = [len(_encode(model, prompt, max_new_tokens)) + max_new_tokens for prompt in prompts]
    order = sorted(range(len(prompts)), key=sizes.__getitem__)
    texts = [[""] * len(prompts) for _ in strengths]
    alike = counts_padding(model.hf)

    def fits(shortest: int, longest: int, count: int) -> bool:
        padded = sizes[longest] > sizes[shortest]
        return count * sizes[longest] <= batch_tokens and not (alike and padded)

    with attached(model, steering) as attachment:
        while order:
            count = min(max(1, batch_tokens // sizes[order[0]]), len(order))
            while count > 1 and not fits(order[0], order[count - 1], count):
                count -= 1
            batch, order = order[:count], order[count:]
            for k, strength in enumerate(strengths):
                if attachment is not None:
                    attachment.strength = torch.tensor(float(strength))
                written = write(
                    model,
                    [prompts[i] for i in batch],
                    temperature=temperature,
                    max_new_tokens=max_new_tokens,
                    seed=seed + batch[0],
                )
                for i, text in zip(batch, written.texts, strict=True):
                    texts[k][i] = text
            if progress is not None:
                progress(len(batch))
    return [tuple(row) for row in texts]


def _encode(model: Model, prompt: str, room: int) -> list[int]:
    """The prompt as token ids, after which so many more can be written."""
    text = prompt_text(model, prompt)
    (ids,) = token_ids(model.tokenizer, [text], special=not model.chat)
    limit = longest_input(model)
    if limit is not None and len(ids) + room - 1 > limit:  # the last token is not read
        too_long(
            model,
            f"the prompt {prompt[:40]!r} has {len(ids)} tokens and its answer may have {room}, the "
            f"model reads {limit}; shorten the prompt, or lower max_new_tokens",
        )
    return ids


@contextlib.contextmanager
def _settings_aside(model: Model) -> Iterator[None]:
    """Without the checkpoint's own generation settings (nucleus, penalties, beams, banned tokens).

    They would write from another distribution than the one whose log-probabilities are read; and
    not all of them can be overruled in a call.
    """
    from transformers import GenerationConfig

    with _SETTINGS:
        own = model.hf.generation_config
        kept = {name: getattr(own, name, None) for name in _KEPT}
        model.hf.generation_config = GenerationConfig(**kept)
        try:
            yield
        finally:
            model.hf.generation_config = own


def _stop_tokens(model: Model) -> list[int]:
    stop = model.hf.generation_config.eos_token_id
    if stop is None:
        return []
    return list(stop) if isinstance(stop, list) else [stop]
