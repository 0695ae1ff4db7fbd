"""What is known of a gate: how well it tells, and how often it fires where it should not."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from equipoise.fairness.interval import Interval, mean_interval, proportion_interval
from equipoise.methods.gating.examples import Examples
from equipoise.methods.gating.judged import JudgedOn
from equipoise.methods.gating.probe import logits_of
from equipoise.methods.gating.quality import figures, ranks_by_chance
from equipoise.steering import Gate

_CHANCE = 0.05


@dataclass(frozen=True)
class Rate:
    """A figure of n prompts with its 95 % interval, such as the share that a gate opens on."""

    estimate: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, gate: Gate, logits: np.ndarray, clusters: np.ndarray) -> Rate:
        """Mean decision of a gate (hard: share it opens on), from logits [n], n ≥ 1."""
        decisions = gate.decide(torch.from_numpy(logits)).numpy()
        if gate.soft:
            return cls.within(mean_interval(decisions.astype(np.float64), clusters), len(logits))
        return cls.within(proportion_interval(decisions > 0, clusters), len(logits))

    @classmethod
    def within(cls, interval: Interval, n: int) -> Rate:
        """From an interval within [0, 1]."""
        low, high = interval.low or 0.0, 1.0 if interval.high is None else interval.high
        return cls(interval.estimate, low, high, n)

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.n})"


@dataclass(frozen=True)
class GateReport:
    """A gate and how it was found to work.

    Attributes:
        site: What it reads.
        soft: Whether it opens by degrees.
        threshold: Of a hard gate, on p.
        wanted_false_firing: What the threshold was set by; None: it was given.
        judged_on: What the threshold and the figures are of: ``held-out`` prompts; those trained
            on, ``cross-validated``; or these as they are (``training``), which tells nothing.
        crossed: Kinds that the held-out prompts lack: of these, the trained ones, cross-validated.
        small: Kinds of too few twins to be held to the wanted rate, each by itself.
        small_bind: Whether these are held to it together; else not at all.
        tried: Sites among which this one was chosen.
        train: Prompts trained on, by kind.
        auroc: Area under the ROC curve, all kinds of negatives together.
        p_value: One-sided Mann-Whitney test over twins that the probe ranks no better than chance.
        balanced_accuracy: Of the probe at p = 1/2.
        brier: Mean squared error of p, either side weighed alike; 1/4 for a coin.
        calibration_error: Expected calibration error of p in ten equal bins, sides weighed alike.
        intervals: Of these four (all but ``p_value``), clustered by twin.
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
    judged_on: JudgedOn
    crossed: tuple[str, ...]
    small: tuple[str, ...]
    small_bind: bool
    tried: int
    train: dict[str, int]
    auroc: float
    p_value: float
    balanced_accuracy: float
    brier: float
    calibration_error: float
    intervals: dict[str, Rate]
    opens: Rate
    false_firing: dict[str, Rate]
    left_out: dict[str, Rate]

    @property
    def held_out(self) -> bool:
        """Whether the figures are of held-out prompts."""
        return self.judged_on == "held-out"

    @property
    def beats_chance(self) -> bool:
        """Whether the probe ranks better than chance: at the 5 % level over all sites tried.

        What a probe says of the prompts it was fitted on is no evidence.
        """
        return self.judged_on != "training" and self.p_value * self.tried < _CHANCE

    @property
    def worst(self) -> float:
        """The highest false-firing rate of a kind; of small ones the mean, if they bind."""
        firing = self.false_firing
        rates = [firing[kind].estimate for kind in firing if kind not in self.small]
        if self.small_bind:
            small = [firing[kind] for kind in self.small]
            rates.append(sum(r.estimate * r.n for r in small) / sum(r.n for r in small))
        return max(rates)

    @property
    def useless(self) -> bool:
        """Whether it opens no more on what it should open on than on a kind it should not."""
        return self.opens.estimate <= self.worst

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"held_out": self.held_out, "beats_chance": self.beats_chance}

    def notes(self) -> tuple[str, ...]:
        """Lines for the report of a fit."""
        kind = "soft" if self.soft else f"hard, threshold {self.threshold:.4g}"
        on = {
            "held-out": "held-out",
            "cross-validated": "cross-validated TRAINING (none held out)",
            "training": "TRAINING (none held out, too few twins to cross-validate)",
        }[self.judged_on]
        if self.crossed:
            on += f" ({', '.join(self.crossed)}: cross-validated training)"
        told = self.intervals
        lines = [
            f"gate at {self.site} ({kind}); on {on} prompts: AUROC {told['auroc']}, balanced "
            f"accuracy at p = 1/2 {told['balanced_accuracy']}, Brier {told['brier']}, calibration "
            f"error {told['calibration_error']}; opens on {self.opens} of what it should",
            "false firing: " + "; ".join(f"{k} {rate}" for k, rate in self.false_firing.items()),
        ]
        if self.small and self.wanted_false_firing:
            least = math.ceil(1 / self.wanted_false_firing - 1e-9)
            held = "are held to it together" if self.small_bind else "do not bind the threshold"
            names = ", ".join(f"{kind!r} (n={self.false_firing[kind].n})" for kind in self.small)
            lines.append(
                f"kinds of fewer than {least} twins, by which no rate of "
                f"{self.wanted_false_firing:g} can be told, {held}: {names}"
            )
        if self.left_out:
            rates = "; ".join(f"{kind} {rate}" for kind, rate in self.left_out.items())
            lines.append(f"false firing on a kind left out of the gate's training: {rates}")
        else:
            lines.append("one kind of negatives only: nothing is known of others")
        if not self.beats_chance:
            lines.append(
                "WARNING: the probe does not beat chance "
                f"(p = {self.p_value:.2g}, {self.tried} site(s) tried); the gate was forced"
            )
        if self.useless:
            lines.append(
                f"WARNING: the gate opens on {self.opens.estimate:.3f} of what it should open on, "
                "no more than it fires on a kind it should stay shut on"
            )
        return tuple(lines)


def quality(gate: Gate, examples: Examples, logits: np.ndarray | None = None) -> dict[str, Any]:
    """Ranking and calibration of a probe on examples of both sides (fields of the report).

    Args:
        gate: The gate.
        examples: n prompts.
        logits: float32 [n], if not what the gate itself says of them (here and below).
    """
    logits = logits_of(gate, examples) if logits is None else logits
    opens, clusters = examples.opens, examples.clusters
    found = figures(logits, opens, clusters)
    return {
        **{name: interval.estimate for name, interval in found.items()},
        "p_value": ranks_by_chance(logits, opens, clusters),
        "intervals": {name: Rate.within(one, len(examples)) for name, one in found.items()},
    }


def false_firing(
    gate: Gate, examples: Examples, logits: np.ndarray | None = None
) -> dict[str, Rate]:
    """The gate's rate on each kind of prompts it should stay shut on."""
    logits = logits_of(gate, examples) if logits is None else logits
    return {
        kind: _rate(gate, examples, logits, examples.kinds == kind)
        for kind in examples.negative_kinds
    }


def opening_rate(gate: Gate, examples: Examples, logits: np.ndarray | None = None) -> Rate:
    """The gate's rate on the prompts it should open on (at least one)."""
    logits = logits_of(gate, examples) if logits is None else logits
    return _rate(gate, examples, logits, examples.opens)


def _rate(gate: Gate, examples: Examples, logits: np.ndarray, rows: np.ndarray) -> Rate:
    clusters = np.unique(examples.clusters[rows], return_inverse=True)[1].reshape(-1)
    return Rate.of(gate, logits[rows], clusters)
