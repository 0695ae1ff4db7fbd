"""What is known of a gate: how well it tells, and how often it fires where it should not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from equipoise.fairness.interval import Interval, mean_interval, proportion_interval
from equipoise.methods.gating.examples import Examples
from equipoise.methods.gating.probe import openings
from equipoise.steering import Gate

_BINS = 10
_CHANCE = 0.05


@dataclass(frozen=True)
class Rate:
    """Mean decision of a gate over n prompts (hard: share it opens on), with a 95 % interval."""

    estimate: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, gate: Gate, p: np.ndarray, clusters: np.ndarray) -> Rate:
        """From the probe's p [n], n ≥ 1."""
        interval: Interval
        if gate.soft:
            interval = mean_interval(p.astype(np.float64), clusters)
        else:
            interval = proportion_interval(p >= np.float32(gate.threshold), clusters)
        low, high = interval.low or 0.0, 1.0 if interval.high is None else interval.high
        return cls(interval.estimate, low, high, len(p))

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.n})"


@dataclass(frozen=True)
class GateReport:
    """A gate and how it was found to work.

    Attributes:
        site: What it reads.
        soft: Whether it opens by degrees.
        threshold: Of a hard gate.
        wanted_false_firing: What the threshold was set by; None: it was given.
        held_out: Whether the figures are of held-out prompts, rather than of those trained on.
        train: Prompts trained on, by kind.
        auroc: Area under the ROC curve, all kinds of negatives together.
        p_value: One-sided Mann-Whitney test that the probe ranks no better than chance.
        balanced_accuracy: Of the probe at p = 1/2.
        brier: Mean squared error of p, either side weighed alike; 1/4 for a coin.
        calibration_error: Expected calibration error of p in ten equal bins, sides weighed alike.
        opens: How often it opens on what it should open on.
        false_firing: How often on each kind of prompts it should stay shut on, all of them known
            to it from training.
        left_out: The same for gates that were fitted in this way without the kind: what a gate
            does on a kind of prompt it has not seen.
    """

    site: str
    soft: bool
    threshold: float
    wanted_false_firing: float | None
    held_out: bool
    train: dict[str, int]
    auroc: float
    p_value: float
    balanced_accuracy: float
    brier: float
    calibration_error: float
    opens: Rate
    false_firing: dict[str, Rate]
    left_out: dict[str, Rate]

    @property
    def beats_chance(self) -> bool:
        """Whether the probe ranks better than chance, at the 5 % level."""
        return self.p_value < _CHANCE

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def notes(self) -> tuple[str, ...]:
        """Lines for the report of a fit."""
        kind = "soft" if self.soft else f"hard, threshold {self.threshold:.4g}"
        on = "held-out" if self.held_out else "TRAINING (none held out)"
        lines = [
            f"gate at {self.site} ({kind}); on {on} prompts: AUROC {self.auroc:.3f}, balanced "
            f"accuracy {self.balanced_accuracy:.3f}, Brier {self.brier:.3f}, calibration error "
            f"{self.calibration_error:.3f}; opens on {self.opens} of what it should",
            "false firing: " + "; ".join(f"{k} {rate}" for k, rate in self.false_firing.items()),
        ]
        if self.left_out:
            rates = "; ".join(f"{kind} {rate}" for kind, rate in self.left_out.items())
            lines.append(f"false firing on a kind left out of the gate's training: {rates}")
        else:
            lines.append("one kind of negatives only: nothing is known of others")
        return tuple(lines)


def quality(gate: Gate, examples: Examples) -> dict[str, float]:
    """Ranking and calibration of a probe on examples of both sides (fields of the report)."""
    from scipy.stats import mannwhitneyu

    p, opens = openings(gate, examples).astype(np.float64), examples.opens
    test = mannwhitneyu(p[opens], p[~opens], alternative="greater")
    weights = np.where(opens, 0.5 / opens.sum(), 0.5 / (~opens).sum())
    right = (p >= 0.5) == opens
    bins = np.minimum((p * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights=weights * (p - opens), minlength=_BINS)
    return {
        "auroc": float(test.statistic / (opens.sum() * (~opens).sum())),
        "p_value": float(test.pvalue) if np.ptp(p) > 0 else 1.0,
        "balanced_accuracy": float((weights * right).sum()),
        "brier": float((weights * (p - opens) ** 2).sum()),
        "calibration_error": float(np.abs(gaps).sum()),
    }


def false_firing(gate: Gate, examples: Examples) -> dict[str, Rate]:
    """The gate's rate on each kind of prompts it should stay shut on."""
    p = openings(gate, examples)
    rates = {}
    for kind in examples.negative_kinds:
        rows = examples.kinds == kind
        rates[kind] = Rate.of(gate, p[rows], _numbered(examples.clusters[rows]))
    return rates


def opening_rate(gate: Gate, examples: Examples) -> Rate:
    """The gate's rate on the prompts it should open on (at least one)."""
    rows = examples.opens
    return Rate.of(gate, openings(gate, examples)[rows], _numbered(examples.clusters[rows]))


def _numbered(clusters: np.ndarray) -> np.ndarray:
    """Clusters as 0 ... C − 1."""
    return np.unique(clusters, return_inverse=True)[1].reshape(-1)
