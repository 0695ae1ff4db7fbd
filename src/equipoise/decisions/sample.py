"""Free-text answers: sample them, parse them, and score the sampled tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from equipoise.decisions.forward import forward, told
from equipoise.decisions.write import Written, write
from equipoise.models import Model
from equipoise.tasks.item import Item

if TYPE_CHECKING:
    from equipoise.steering.attach.attachment import Attachment

_REFUSAL = re.compile(
    r"\b(?:unknown|cannot|can['’]t|can not|could not|not (?:clear|specified|enough|possible)|"
    r"unclear|ambiguous|undetermined|don['’]t know|do not know|unable|either)\b",
    re.I,
)


@dataclass(frozen=True)
class Samples(Written):
    """R sampled answers to each of n items; their tokens and texts as in :class:`Written`.

    Attributes:
        answers: int64 [n, R]; the option named, −1 for none (refused or not parsed).
        decisions: float32 [n]; what a row gate says of the prompts, where it was told.
    """

    answers: Tensor
    decisions: Tensor | None = None


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
    attachment: Attachment | None = None,
    decisions: Tensor | None = None,
) -> Samples:
    """Let the model (with whatever is attached) answer in its own words.

    Temperature 0 decodes greedily. The sampling is seeded and leaves the global generator as it
    was. With ``attachment`` and ``decisions``, float32 [n], its row gate is not asked again.
    """
    with told(attachment, None, decisions):
        written = write(
            model,
            [item.prompt for item in items],
            rollouts=rollouts,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            seed=seed,
        )
    named = [parse_answer(text, items[i // rollouts]) for i, text in enumerate(written.texts)]
    return Samples(
        tokens=written.tokens,
        mask=written.mask,
        scored=written.scored,
        texts=written.texts,
        answers=torch.tensor(named, device=model.device).reshape(len(items), rollouts),
        decisions=decisions,
    )


def sample_log_probs(
    model: Model, samples: Samples, attachment: Attachment | None = None
) -> Tensor:
    """Log π of every sampled answer under the model as it is now, float32 [n, R], with gradient.

    An ``attachment`` is told where each prompt ends: prompt and answer go through in one pass.
    """
    answer_length = int(samples.scored.any(0).sum())
    positions = (samples.mask.cumsum(1) - 1).clamp(min=0)
    width = samples.tokens.shape[1]
    keep = torch.arange(width - answer_length - 1, width - 1, device=positions.device)
    lengths = (samples.mask.bool() & ~samples.scored).sum(1)
    opens = samples.decisions
    if opens is not None:
        opens = opens.repeat_interleave(samples.answers.shape[1])
    with told(attachment, lengths, opens):
        output = forward(model.hf, samples.tokens, samples.mask, positions, keep, use_cache=False)
    log_probs = output.logits.float().log_softmax(-1)
    token = log_probs.gather(-1, samples.tokens[:, -answer_length:, None]).squeeze(-1)
    live = samples.scored[:, -answer_length:]
    return torch.where(live, token, 0.0).sum(1).reshape(samples.answers.shape)
