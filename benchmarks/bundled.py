"""The main job on the bundled model, over seeds: every figure beside the one wanted.

    python benchmarks/bundled.py [number of seeds] [folder with coreference.jsonl and skills.jsonl]

Held-out items throughout: the ``test`` split, ``unseen`` occupations, and the skills' test part; of
another draw than the package's, if a folder has them (``scripts/bundled_model/tasks.py``).
Prints n, the machine, and for each figure the mean over seeds with its range.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from equipoise.cli.process import prepare

prepare()  # threads and memory as the command line has them; before torch is imported

import numpy as np
import torch

from equipoise.models import load
from equipoise.study import run
from equipoise.study.environment import environment
from equipoise.tasks import Capability, Task, load_capability, load_task, read_jsonl


def items_of(folder: Path | None) -> tuple[Task, Capability]:
    """The task and the skills, of the package or of a folder."""
    if folder is None:
        return load_task("coreference"), load_capability("builtin")
    skills = read_jsonl(folder / "skills.jsonl").items
    return read_jsonl(folder / "coreference.jsonl"), Capability(
        name="builtin", kind="accuracy", items=skills
    )


def figures(seed: int, task: Task, skills: Capability) -> tuple[dict[str, float], list[float]]:
    """All figures of one seed, and the bias over ω."""
    result, _ = run(load(), task, capability=[skills], seed=seed)
    base, full = result.row(0.0), result.row(1.0)

    def moved(row: dict, key: str) -> float:
        return row[key]["estimate"]

    held, name = "held_out", skills.name
    shares = full["shares"]
    return {
        "bias, base": moved(base, "per_occupation_bias"),
        "bias, ω = 1": moved(full, "per_occupation_bias"),
        "greedy bias, base": moved(base, "per_occupation_bias_greedy"),
        "greedy bias, ω = 1": moved(full, "per_occupation_bias_greedy"),
        "plug-in bias at parity, ω = 1": full["per_occupation_bias"]["parity"],
        "bias, ω = 1, lower limit": full["per_occupation_bias"]["low"],
        "bias, ω = 1, upper limit": full["per_occupation_bias"]["high"],
        "fairly decoded bias, base": moved(base["seeded_hash"], "per_occupation_bias"),
        "fairly decoded bias, ω = 1": moved(full["seeded_hash"], "per_occupation_bias"),
        "first-option share, greedy, ω = 1": shares["first_option_greedy"],
        "male-list share, greedy, ω = 1": shares["classes_greedy"]["male-list"],
        "unseen occupations, base": moved(base[held], "per_occupation_bias"),
        "unseen occupations, ω = 1": moved(full[held], "per_occupation_bias"),
        "unambiguous accuracy, base": moved(base, "unambiguous_accuracy"),
        "unambiguous drop, ω = 1": full["unambiguous_accuracy"]["drop"]["estimate"],
        "capability, base": base["capability"][name]["estimate"],
        "capability drop, ω = 1": full["capability"][name]["drop"]["estimate"],
        "abstention, base": moved(base, "abstention"),
        "abstention moves by": abs(moved(full, "abstention") - moved(base, "abstention")),
        "twin distance, ω = 1": full["twins"]["distance"],
        "KL ambiguous, ω = 1": full["kl"]["ambiguous"],
        "KL anchors, ω = 1": full["kl"]["anchor"],
        "fit, seconds": result.data["wall_seconds"]["fit"],
        "sweep, seconds": result.data["wall_seconds"]["sweep"],
        "memory, GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "chosen ω": result.data["chosen"]["strength"],
    }, [moved(row, "per_occupation_bias") for row in result.rows]


WANTED = {
    "bias, base": "≥ .30",
    "bias, ω = 1": "≤ .03",
    "greedy bias, ω = 1": "≤ .10, or fairly decoded",
    "fairly decoded bias, ω = 1": "≤ .10",
    "first-option share, greedy, ω = 1": ".35–.65",
    "male-list share, greedy, ω = 1": ".35–.65",
    "unseen occupations, base": "≥ .30",
    "unseen occupations, ω = 1": "≤ .06",
    "unambiguous accuracy, base": "≥ .97",
    "unambiguous drop, ω = 1": "≤ .005",
    "capability, base": ".80–.95",
    "capability drop, ω = 1": "≤ .01",
    "abstention moves by": "≤ .03",
    "fit, seconds": "≤ 20 on two cores",
}


def main() -> None:
    """Run the seeds and print the table."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    torch.set_num_threads(2)
    known = environment()
    task, skills = items_of(Path(sys.argv[2]) if len(sys.argv) > 2 else None)
    sizes = {name: len(task.split(name)) for name in ("train", "validation", "test", "unseen")}
    print(f"{known['processor']}, {torch.get_num_threads()} threads; items {sizes}; {seeds} seeds")
    found, curves = [], []
    for seed in range(seeds):
        row, curve = figures(seed, task, skills)
        found.append(row)
        curves.append(curve)
        print(
            f"seed {seed}: bias over ω " + " ".join(f"{value:.3f}" for value in curve), flush=True
        )
    print(f"\n| figure | mean [lowest, highest] of {seeds} | wanted |\n|---|---|---|")
    for name in found[0]:
        values = np.array([row[name] for row in found])
        span = f"{values.mean():.3f} [{values.min():.3f}, {values.max():.3f}]"
        print(f"| {name} | {span} | {WANTED.get(name, '')} |")
    monotone = sum(bool((np.diff(curve) <= 0).all()) for curve in curves)
    print(f"| bias falls monotonically in ω | {monotone} of {seeds} | 10 of 10 |")


if __name__ == "__main__":
    main()
