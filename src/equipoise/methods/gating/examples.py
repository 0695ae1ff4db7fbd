"""What a gate learns from: activations, whether it should open, and what kind of prompt it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from equipoise.decisions.activations import Prompt, prompt_activations
from equipoise.errors import EquipoiseError
from equipoise.methods.gating.attended import attended_activations
from equipoise.models import Model
from equipoise.steering.gates import Reads
from equipoise.tasks.item import Item

POSITIVE = "positive"
"""The kind of the prompts a gate should open on."""


@dataclass(frozen=True)
class Examples:
    """Activations of n prompts at S sites.

    Attributes:
        h: float32 [n, S, d], or [n, S, 2d] as a query finds it.
        kinds: n names; ``POSITIVE`` where the gate should open, else the kind of prompt.
        clusters: int [n]; prompts of one cluster (twins) are not independent.
    """

    h: np.ndarray
    kinds: np.ndarray
    clusters: np.ndarray

    @classmethod
    def of(cls, h: np.ndarray, prompts: Sequence[Prompt], kinds: Sequence[str]) -> Examples:
        """Examples from activations already read."""
        names = [prompt.twin if isinstance(prompt, Item) else prompt for prompt in prompts]
        clusters = np.unique(np.array(names, dtype=object).astype(str), return_inverse=True)[1]
        return cls(np.asarray(h), np.array(kinds, dtype=object), clusters.reshape(-1))

    @classmethod
    def read(
        cls,
        model: Model,
        positive: Sequence[Prompt],
        negative: Mapping[str, Sequence[Prompt]],
        sites: Sequence[str],
        reads: Reads = "last",
        queries: Tensor | None = None,
    ) -> Examples:
        """Read each prompt as a gate does that reads it so; ``queries`` [S, d] if it attends.

        Raises:
            EquipoiseError: A kind of negatives that has the name of the positives.
        """
        if POSITIVE in negative:
            raise EquipoiseError(
                f"{POSITIVE!r} is what prompts are called that a gate should open on: give that "
                "kind of negatives another name"
            )
        prompts = [*positive, *(prompt for kind in negative.values() for prompt in kind)]
        kinds = [POSITIVE] * len(positive)
        kinds += [name for name, kind in negative.items() for _ in kind]
        if reads == "attended":
            assert queries is not None
            h = attended_activations(model, prompts, sites, queries)
        else:
            h = prompt_activations(model, prompts, sites, reads=reads)
        return cls.of(h.numpy(), prompts, kinds)

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def opens(self) -> np.ndarray:
        """Whether the gate should open, bool [n]."""
        return self.kinds == POSITIVE

    @property
    def negative_kinds(self) -> list[str]:
        """Names of the kinds of prompts the gate should stay shut on."""
        return sorted(set(self.kinds[~self.opens]))

    @property
    def two_sided(self) -> bool:
        """Whether there is a prompt of either side."""
        return bool(self.opens.any() and (~self.opens).any())

    def check_two_sided(self) -> None:
        """Raise unless there is a prompt of either side.

        Raises:
            EquipoiseError: A side is missing; says which.
        """
        if not self.two_sided:
            missing = "shut" if self.opens.any() else "open"
            raise EquipoiseError(f"a gate needs prompts of both sides: none it should {missing} on")

    def at(self, site: int) -> Examples:
        """One site's activations, ``h`` [n, d]."""
        return Examples(self.h[:, site], self.kinds, self.clusters)

    def only(self, keep: np.ndarray) -> Examples:
        """Some of them, by bool or index."""
        return Examples(self.h[keep], self.kinds[keep], self.clusters[keep])

    def __add__(self, other: Examples) -> Examples:
        """Both; clusters of the two are taken for different ones."""
        if not len(self) or not len(other):  # then it may not know the width
            return self if len(self) else other
        shifted = other.clusters + (self.clusters.max(initial=-1) + 1)
        return Examples(
            np.concatenate([self.h, other.h]),
            np.concatenate([self.kinds, other.kinds]),
            np.concatenate([self.clusters, shifted]),
        )
