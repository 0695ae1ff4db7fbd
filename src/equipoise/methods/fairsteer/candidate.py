"""A block that may be steered, and how good a choice it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from equipoise.decisions import Decisions
from equipoise.fairness import per_occupation_bias
from equipoise.methods.fairsteer.labels import share_right
from equipoise.methods.gating.report import GateReport
from equipoise.steering import Additive, Gate


@dataclass
class Candidate:
    """One decoder block.

    Attributes:
        layer: Its number, from 0.
        site: Key of the residual stream after it.
        v: float32 [d]; the raw contrast vector there.
        gate: Its probe, if there is to be a gate.
        report: Of that probe.
        score: What the layer is chosen by; None where there was no choice.
    """

    layer: int
    site: str
    v: Tensor
    gate: Gate | None = None
    report: GateReport | None = None
    score: float | None = None

    @property
    def norm(self) -> float:
        """Length of the vector."""
        return float(self.v.norm())

    def transform(self, alpha: float) -> Additive:
        """α folded into the vector, so that ω = 1 is α."""
        return Additive(alpha * self.v)

    def figures(self) -> dict[str, float]:
        """A row of the fit's history."""
        found = {"layer": float(self.layer), "vector_norm": self.norm}
        if self.report is not None:
            for name, rate in self.report.intervals.items():
                found |= {name: rate.estimate, f"{name}_low": rate.low, f"{name}_high": rate.high}
        return found if self.score is None else found | {"score": self.score}


def best_blocks(candidates: Sequence[Candidate], n: int, gates: Sequence[int]) -> list[Candidate]:
    """The n blocks of the highest scores together; of equals those whose probes tell better.

    Args:
        candidates: Blocks in the order of the model.
        n: How many.
        gates: Numbers of those that may be the first, with n − 1 blocks behind each at least.

    Returns:
        They, in the order of the model.
    """

    def rank(one: Candidate) -> tuple[float, float, int]:
        auroc = one.report.auroc if one.report is not None else 0.0
        return one.score or 0.0, auroc, -one.layer

    choices = [
        [candidates[k], *sorted(candidates[k + 1 :], key=rank, reverse=True)[: n - 1]]
        for k in gates
    ]
    best = max(choices, key=lambda c: (sum(one.score or 0.0 for one in c), rank(c[0])))
    return sorted(best, key=lambda one: one.layer)


def steered_score(decisions: Decisions) -> float:
    """Mean over kinds of items, so that no kind is bought with another.

    The kinds, where there are any: ambiguous items that offer an abstention (share that abstains),
    ambiguous ones that do not (1 − per-occupation bias), the task's unambiguous items and
    questions of other origin (share right).
    """
    parts = {
        "open": decisions.subset(lambda i: i.ambiguous and any(i.abstains)),
        "forced": decisions.subset(lambda i: i.ambiguous and not any(i.abstains)),
        "unambiguous": decisions.subset(lambda i: not i.ambiguous and i.sides is not None),
        "questions": decisions.subset(lambda i: not i.ambiguous and i.sides is None),
    }
    scores = [share_right(part) for name, part in parts.items() if name != "forced" and len(part)]
    bias = per_occupation_bias(parts["forced"]) if len(parts["forced"]) else None
    if bias is not None:
        scores.append(1 - bias.plug_in)
    return float(np.mean(scores))
