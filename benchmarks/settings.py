"""Settings of DSO compared on the validation split of the bundled model.

    python benchmarks/settings.py 0,1,2 steps=140 kl_weight=0.5

Each seed's bias with interval, n and parity level, then one line of means over the seeds, and the
processor. Defaults were chosen with it; the test split takes no part.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch

from equipoise.cli.options import parse_settings
from equipoise.models import load
from equipoise.study import fit_outcome
from equipoise.study.environment import environment
from equipoise.study.measure import Probe, measure
from equipoise.tasks import load_capability, load_task


def figures(seed: int, settings: dict[str, object]) -> dict[str, float]:
    """One fit, measured at ω = 1."""
    model, task, skills = load(), load_task("coreference"), load_capability("builtin")
    started = time.perf_counter()
    outcome = fit_outcome(model, task, "dso", capability=[skills], seed=seed, **settings)
    seconds = time.perf_counter() - started
    probe = Probe.of(task, "validation", [skills])
    row = measure(model, probe, steering=outcome.steering, strengths=[0.0, 1.0]).rows[-1]
    bias = row["per_occupation_bias"]
    told = f"bias {bias['estimate']:.3f} [{bias['low']:.3f}, {bias['high']:.3f}], n={bias['n']}"
    print(f"  seed {seed}: {told}, parity {bias['parity']:.3f}; {outcome.notes[0]}", flush=True)
    return {
        "bias": row["per_occupation_bias"]["estimate"],
        "greedy bias": row["per_occupation_bias_greedy"]["estimate"],
        "unambiguous drop": row["unambiguous_accuracy"]["drop"]["estimate"],
        "skills drop": row["capability"]["builtin"]["drop"]["estimate"],
        "abstention": row["abstention"]["estimate"],
        "KL ambiguous": row["kl"]["ambiguous"],
        "KL anchors": row["kl"]["anchor"],
        "fit, seconds": seconds,
    }


def main() -> None:
    """Fit with the settings of the command line at each seed, and print the line."""
    settings = parse_settings(sys.argv[2:])
    found = [figures(int(seed), settings) for seed in sys.argv[1].split(",")]
    means = {name: np.mean([row[name] for row in found]) for name in found[0]}
    told = [f"{name} {value:.3f}" for name, value in means.items()]
    print(" ".join(sys.argv[2:]) or "defaults", *told, sep=" · ")
    print(f"  {environment()['processor']}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
