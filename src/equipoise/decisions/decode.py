"""Fair decoding: seeded-hash answers for users who decode deterministically.

After steering, answer *probabilities* are balanced, but a deterministic argmax of balanced
probabilities may still follow the stereotype. Seeded-hash decoding draws the answer from the
probabilities with a random number that is a hash of the prompt with its attribute words masked:
the same prompt always gives the same answer, twins share the draw, and the shares follow the
probabilities (ours; spec/findings.md, "Objective and greedy decoding").
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from equipoise.decisions.decision import Decisions
from equipoise.tasks.attribute import whole_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GENDERED_WORDS: tuple[str, ...] = (
    *("he", "she", "him", "her", "his", "hers", "himself", "herself", "mr", "mrs", "ms"),
    *("man", "woman", "men", "women", "male", "female", "boy", "girl", "boys", "girls"),
    *("father", "mother", "son", "daughter", "brother", "sister", "husband", "wife"),
    *("gentleman", "lady", "king", "queen", "sir", "madam"),
)
"""Words masked unless an item names its own (English, gender)."""


def uniform_hash(text: str, *, attribute: Iterable[str] = GENDERED_WORDS, seed: int = 0) -> float:
    """A number in [0, 1) that depends on the text less its attribute words, and on the seed."""
    masked = whole_words(attribute).sub("\0", text)
    digest = hashlib.sha256(f"{seed}\n{masked}".encode()).digest()
    return int.from_bytes(digest[:7]) / 2**56


def seeded_hash(decisions: Decisions, *, seed: int = 0, temperature: float = 1.0) -> Decisions:
    """The decisions under seeded-hash decoding: one certain answer per item.

    The answer is the inverse of the cumulative option probabilities at the hash of the item's
    prompt, its ``attribute`` words (or the gendered words) masked.

    Returns:
        Decisions whose scores are 0 for the answer and ``-inf`` elsewhere.
    """
    cumulative = decisions.probabilities(temperature).cumsum(axis=1)
    draws = np.array(
        [
            uniform_hash(item.prompt, attribute=item.attribute or GENDERED_WORDS, seed=seed)
            for item in decisions.items
        ]
    )
    last = np.array([len(item.options) - 1 for item in decisions.items], dtype=int)
    chosen = np.minimum((cumulative <= draws[:, None]).sum(axis=1), last)
    scores = np.full_like(decisions.scores, -np.inf)
    scores[np.arange(len(chosen)), chosen] = 0.0
    return replace(decisions, scores=scores)


class SeededHashLogitsProcessor(LogitsProcessor):
    """Deterministic draws for ``generate``: pass it in ``logits_processor`` with greedy decoding.

    Each next token is the inverse cumulative probability at a hash of everything read and written
    so far, attribute words masked, padding and special tokens left out. Leaves one finite logit
    per row.

    Args:
        tokenizer: To read the tokens back as text.
        attribute: Words masked in the hash.
        seed: Another seed, another (equally reproducible) draw.
        temperature: Of the distribution drawn from.
        top_p: Draw only from the most likely tokens that hold this much probability.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        attribute: Sequence[str] = GENDERED_WORDS,
        seed: int = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> None:
        if temperature <= 0 or not 0 < top_p <= 1:
            raise ValueError("temperature must be > 0 and top_p in (0, 1]")
        self.tokenizer = tokenizer
        self.attribute = tuple(attribute)
        self.seed = seed
        self.temperature = temperature
        self.top_p = top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Keep one token per row. ``input_ids`` int64 [B, T], ``scores`` [B, V]."""
        texts = self.tokenizer.batch_decode(input_ids, skip_special_tokens=True)
        draws = [uniform_hash(t, attribute=self.attribute, seed=self.seed) for t in texts]
        probabilities = (scores.double() / self.temperature).softmax(-1)
        if self.top_p < 1:
            ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
            outside = ordered.cumsum(-1) - ordered >= self.top_p
            probabilities = probabilities.masked_fill(outside.scatter(-1, tokens, outside), 0.0)
        # In the order of the vocabulary: by likelihood, twins with 51 : 49 and 49 : 51 would have
        # opposite answers at the same draw.
        cumulative = probabilities.cumsum(-1)
        target = torch.tensor(draws, dtype=torch.float64)[:, None].to(scores.device)
        chosen = (cumulative <= target * cumulative[:, -1:]).sum(-1, keepdim=True)
        return torch.full_like(scores, float("-inf")).scatter(-1, chosen, 0.0)
