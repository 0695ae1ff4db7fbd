"""A block that may be steered, and how good a choice it is."""

from __future__ import annotations

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
            found |= {
                "auroc": self.report.auroc,
                "balanced_accuracy": self.report.balanced_accuracy,
                "brier": self.report.brier,
                "calibration_error": self.report.calibration_error,
            }
        return found if self.score is None else found | {"score": self.score}


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
