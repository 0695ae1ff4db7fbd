"""Hold the KL budgets: shrink the fitted map to the largest strength that keeps them.

One fit with a weak fixed penalty serves every budget: the largest ω such that both pools' KL,
measured on held-out prompts, stays within budget at ω and at every smaller strength checked
(spec/findings.md, "KL control"). The map is then rescaled so that ω = 1 is that strength.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from equipoise.methods.dso.sparsity import parts
from equipoise.steering import Steering

_GRID = (0.5, 0.75, 1.0)
_BISECTIONS, _MOST = 5, 10
_PRECISION = 0.05  # of the strength found: of a map that overshot 50 times, 1/64 would be too much
SMALLEST = _GRID[0] / 2**_MOST
"""The least share of a map that is looked at."""


@dataclass(frozen=True)
class Budget:
    """KL allowed on each pool, in nats per decision."""

    ambiguous: float
    anchor: float

    def holds(self, kl: tuple[float, float]) -> bool:
        """Whether (ambiguous, anchor) KL is within budget."""
        return kl[0] <= self.ambiguous and kl[1] <= self.anchor


Measure = Callable[[list[float]], list[tuple[float, float]]]
"""Strengths -> mean KL (ambiguous, anchor) at each, on held-out prompts."""


def largest_within(budget: Budget, measure: Measure) -> tuple[float, tuple[float, float]]:
    """The largest strength within budget, with the KL measured there.

    Checks a grid; where a budget breaks between two of its points, bisects between them, until it
    is known to a twentieth of itself. At strength 0 the steered model is the base, whose KL to
    itself is 0.
    """
    found = [(0.0, 0.0), *measure(list(_GRID))]
    broken = next((i for i, kl in enumerate(found) if not budget.holds(kl)), None)
    if broken is None:
        return 1.0, found[-1]
    low, high, at_low = (0.0, *_GRID)[broken - 1], _GRID[broken - 1], found[broken - 1]
    for done in range(_MOST):
        if done >= _BISECTIONS and high - low <= _PRECISION * low:
            break
        middle = (low + high) / 2
        (kl,) = measure([middle])
        if budget.holds(kl):
            low, at_low = middle, kl
        else:
            high = middle
    return low, at_low


@torch.no_grad()
def rescale(steering: Steering, strength: float) -> None:
    """Make ω = 1 mean what ``strength`` meant: the map is linear in ω, so scale a and b."""
    for _, _, value in parts(steering):
        value.mul_(strength)
