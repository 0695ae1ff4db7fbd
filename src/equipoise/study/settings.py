"""How decisions are measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

from equipoise.decisions.decide import BATCH_TOKENS
from equipoise.decisions.score import Normalise
from equipoise.errors import EquipoiseError
from equipoise.fairness.benchmarks import scorer_source
from equipoise.study.arguments import a_normalisation


@dataclass(frozen=True)
class Settings:
    """How decisions are measured.

    Attributes:
        temperature: Of the decision's softmax, where not greedy; and of free text.
        normalise: Sum or mean of an option's token log-probabilities.
        fair_decoding: Also measure seeded-hash answers.
        hash_seed: Their seed, and that of free text.
        batch_tokens: Tokens per forward pass.
        scorer: Name of what judges free text.
        max_new_tokens: Longest answer in free text.

    Raises:
        EquipoiseError: A value that is none of these.
    """

    temperature: float = 1.0
    normalise: Normalise = "sum"
    fair_decoding: bool = True
    hash_seed: int = 0
    batch_tokens: int = BATCH_TOKENS
    scorer: str = "lexicon"
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        warm = self.temperature
        if not _is(Real, warm) or not 0 <= warm < math.inf:
            raise EquipoiseError(f"temperature must be a number from 0 on; got {warm!r}")
        a_normalisation(self.normalise)
        if not isinstance(self.fair_decoding, bool):
            raise EquipoiseError(f"fair_decoding must be True or False; got {self.fair_decoding!r}")
        if not _is(Integral, self.hash_seed):
            raise EquipoiseError(f"hash_seed must be a whole number; got {self.hash_seed!r}")
        for name in ("batch_tokens", "max_new_tokens"):
            value = getattr(self, name)
            if not _is(Integral, value) or value < 1:
                raise EquipoiseError(f"{name} must be a whole number from 1 on; got {value!r}")
        scorer_source(self.scorer)


def _is(kind: type, value: object) -> bool:
    """Whether a value is a number of some kind; yes and no are none."""
    return isinstance(value, kind) and not isinstance(value, bool)
