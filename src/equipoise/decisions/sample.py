"""Free-text answers: sample them, parse them, and score the sampled tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from equipoise.decisions.encode import prompt_text
from equipoise.decisions.score import forward, left_pad
from equipoise.models import Model
from equipoise.tasks.item import Item

_REFUSAL = re.compile(
    r"\b(?:unknown|cannot|can['’]t|can not|could not|not (?:clear|specified|enough|possible)|"
    r"unclear|ambiguous|undetermined|don['’]t know|do not know|unable|either)\b",
    re.I,
)

# A checkpoint's own generation settings (Qwen's, say) would draw from another distribution than
# the one whose log-probabilities train a policy.
_WHOLE_DISTRIBUTION = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}


@dataclass(frozen=True)
class Samples:
    """R sampled answers to each of n items.

    Attributes:
        answers: int64 [n, R]; the option named, −1 for none (refused or not parsed).
        tokens: int64 [n·R, T]; prompt (left-padded) and answer.
        mask: int64 [n·R, T]; 1 on tokens that are read.
        scored: bool [n·R, T]; True on the answer's tokens, its end-of-text included.
        texts: The answers as text, n·R of them.
    """

    answers: Tensor
    tokens: Tensor
    mask: Tensor
    scored: Tensor
    texts: tuple[str, ...]


def parse_answer(text: str, item: Item) -> int:
    """Index of the option an answer names; −1 if it names none, or more than one.

    An option counts as named when its words stand in the text as whole words, in any case. Of two
    options of which one contains the other, the longer wins. A text that names no option but
    refuses is the abstaining option, where the item has one.
    """
    named: list[int] = []
    left = text
    by_length = sorted(range(len(item.options)), key=lambda k: -len(item.options[k]))
    for k in by_length:
        pattern = rf"(?<!\w){re.escape(item.options[k].strip())}(?!\w)"
        left, found = re.subn(pattern, "\0", left, flags=re.I)
        if found:
            named.append(k)
    if len(named) == 1:
        return named[0]
    abstaining = [k for k, abstains in enumerate(item.abstains) if abstains]
    if not named and abstaining and _REFUSAL.search(text):
        return abstaining[0]
    return -1


def sample_answers(
    model: Model,
    items: Sequence[Item],
    *,
    rollouts: int = 1,
    temperature: float = 1.0,
    max_new_tokens: int = 16,
    seed: int = 0,
) -> Samples:
    """Let the model (with whatever is attached) answer in its own words.

    Temperature 0 decodes greedily. The sampling is seeded and leaves the global generator as it
    was.
    """
    tokenizer, device = model.tokenizer, model.device
    encoded = [
        tokenizer.encode(prompt_text(model, item.prompt), add_special_tokens=not model.chat)
        for item in items
    ]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    prompt, mask = left_pad(encoded, pad, device)
    how = {"do_sample": True, "temperature": temperature, **_WHOLE_DISTRIBUTION}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        tokens = model.hf.generate(
            input_ids=prompt,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            num_return_sequences=rollouts,
            pad_token_id=pad,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
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
    named = [parse_answer(text, items[i // rollouts]) for i, text in enumerate(texts)]
    return Samples(
        answers=torch.tensor(named, device=device).reshape(len(items), rollouts),
        tokens=tokens,
        mask=torch.cat([mask, live.long()], 1),
        scored=torch.cat([torch.zeros_like(mask, dtype=torch.bool), live], 1),
        texts=texts,
    )


def sample_log_probs(model: Model, samples: Samples) -> Tensor:
    """Log π of every sampled answer under the model as it is now, float32 [n, R], with gradient."""
    answer_length = int(samples.scored.any(0).sum())
    positions = (samples.mask.cumsum(1) - 1).clamp(min=0)
    width = samples.tokens.shape[1]
    keep = torch.arange(width - answer_length - 1, width - 1, device=positions.device)
    output = forward(model.hf, samples.tokens, samples.mask, positions, keep, use_cache=False)
    log_probs = output.logits.float().log_softmax(-1)
    token = log_probs.gather(-1, samples.tokens[:, -answer_length:, None]).squeeze(-1)
    live = samples.scored[:, -answer_length:]
    return torch.where(live, token, 0.0).sum(1).reshape(samples.answers.shape)


def _stop_tokens(model: Model) -> list[int]:
    stop = model.hf.generation_config.eos_token_id
    if stop is None:
        return []
    return list(stop) if isinstance(stop, list) else [stop]
