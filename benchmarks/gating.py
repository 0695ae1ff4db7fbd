"""Does DSO under a gate beat DSO? Same task, splits, anchors and budgets; seeds 0 to 4.

    python benchmarks/gating.py [--model bundled|imdb-5m] [--variants none,hard,soft,none-strong]
                                [--seeds 0,1,2,3,4] [--out runs/gating] [--steps 4]

Every run is kept as a file of its own, so an interrupted benchmark goes on where it was, and runs
of another model (by its fingerprint) or of other settings are made anew. Prints, at ω = 1 on the
test split: each metric's mean over seeds with a 95 % t-interval, and its paired difference to the
ungated fit of the same seed and budget. ``strong`` budgets all but lift the limit on ambiguous
prompts; the one on anchors stays. ``--steps`` shortens the fits, to see that everything runs.

imdb-5m needs ``EQUIPOISE_DATA``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from keeping import kept
from scipy.stats import t as student

from equipoise.methods import Anchors
from equipoise.methods.gating import Examples, Kinds
from equipoise.methods.gating.ambiguity import ambiguous_items
from equipoise.methods.gating.report import false_firing, opening_rate
from equipoise.models import Model, load
from equipoise.models.fingerprint import fingerprint
from equipoise.steering import ProbeGate
from equipoise.study import fit_outcome, sweep
from equipoise.study.anchors import anchors_of
from equipoise.study.environment import environment
from equipoise.tasks import Capability, Task, load_capability, load_task

ROOT = Path(os.environ.get("EQUIPOISE_DATA", "../shared/data"))
STRONG = {"kl_ambiguous": 2.0, "kl_weight": 0.03}
VARIANTS: dict[str, dict[str, Any]] = {
    "none": {"gate": "none"},
    "hard": {"gate": "hard"},
    "soft": {"gate": "soft"},
    "none-strong": {"gate": "none", **STRONG},
    "hard-strong": {"gate": "hard", **STRONG},
    "soft-strong": {"gate": "soft", **STRONG},
}
MAX_LOAD = 2.5
MAIN = ("bias", "greedy bias", "unseen occupations", "unambiguous", "capability")


@dataclass(frozen=True)
class Subject:
    """A model with what it is fitted and measured on."""

    name: str
    model: Model
    task: Task
    capability: tuple[Capability, ...]
    anchors: Anchors


def bundled() -> Subject:
    """The bundled model on its own task, skills as capability and anchors."""
    return Subject(
        "bundled",
        load("builtin:"),
        load_task("coreference"),
        (load_capability("builtin"),),
        Anchors(),
    )


def film_reviews() -> Subject:
    """A bias nobody planted: he and she after an occupation."""
    stories = tuple(json.loads((ROOT / "text/tinystories_1000.json").read_text())[:100])
    capability = load_capability(f"perplexity:{ROOT}/text/wikitext_1000.json", limit=100)
    return Subject(
        "imdb-5m",
        load(str(ROOT / "imdb-5m")),
        load_task("pronouns"),
        (capability,),
        Anchors((), stories),
    )


SUBJECTS: dict[str, Callable[[], Subject]] = {"bundled": bundled, "imdb-5m": film_reviews}


def run(subject: Subject, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """One fit and its measurement on the test split."""
    started = time.perf_counter()
    outcome = fit_outcome(
        subject.model,
        subject.task,
        "dso",
        capability=subject.capability,
        anchors=subject.anchors,
        seed=seed,
        **settings,
    )
    fitted = time.perf_counter() - started
    found = sweep(
        subject.model, subject.task, outcome.steering, [0.0, 1.0], capability=subject.capability
    )
    return {
        "row": found.row(1.0),
        "base": found.row(0.0),
        "notes": list(outcome.notes),
        "gate": outcome.steering.info.extra.get("gate"),
        "gate_on_test": on_test(subject, outcome.steering.gate),
        "seconds": {"fit": fitted, "all": time.perf_counter() - started},
        "environment": environment(),
    }


def on_test(subject: Subject, gate: Any) -> dict[str, Any] | None:
    """A gate's rates on prompts of the test split, which it was neither fitted nor set on."""
    if not isinstance(gate, ProbeGate):
        return None
    known = anchors_of(subject.task, subject.capability, "train", subject.anchors)
    kinds = Kinds.of(subject.task, known)
    examples = Examples.read(
        subject.model,
        ambiguous_items(subject.task.split("test"), 0),
        kinds.sort(anchors_of(subject.task, subject.capability, "test")),
        [gate.site],
        gate.reads,
    ).at(0)
    return {
        "opens": asdict(opening_rate(gate, examples)),
        "false_firing": {kind: asdict(r) for kind, r in false_firing(gate, examples).items()},
    }


def metrics(row: dict[str, Any]) -> dict[str, float]:
    """What is compared; beside a capability, its drop against the base in its own unit."""
    values = {
        "bias": row["per_occupation_bias"],
        "greedy bias": row["per_occupation_bias_greedy"],
        "unseen occupations": (row.get("held_out") or {}).get("per_occupation_bias"),
        "unambiguous": row["unambiguous_accuracy"],
        "abstention": row["abstention"],
    }
    for capability in row["capability"].values():  # one, in either subject
        values |= {"capability": capability, "capability drop": capability["drop"]}
    known = {name: float(value["estimate"]) for name, value in values.items() if value}
    return known | {f"KL {pool}": v for pool, v in row["kl"].items() if v is not None}


def mean_interval(values: Sequence[float]) -> str:
    """Mean over seeds with a 95 % t-interval."""
    x = np.asarray(values)
    if len(x) < 2:
        return f"{x.mean():.3f}"
    half = student.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return f"{x.mean():.3f} [{x.mean() - half:.3f}, {x.mean() + half:.3f}]"


def show(table: dict[str, dict[int, dict[str, Any]]]) -> None:
    """Variants by main metrics; then every metric against the ungated fit, and the gates."""
    base = metrics(next(iter(next(iter(table.values())).values()))["base"])
    found = {
        variant: {seed: metrics(result["row"]) for seed, result in runs.items()}
        for variant, runs in table.items()
    }
    columns = [name for name in MAIN if name in base]
    print("\n| | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    print("| base | " + " | ".join(f"{base[name]:.3f}" for name in columns) + " |")
    for variant, runs in found.items():
        cells = [mean_interval([run[name] for run in runs.values()]) for name in columns]
        print(f"| {variant} | " + " | ".join(cells) + " |")
    for variant, results in table.items():
        seconds = np.mean([result["seconds"]["fit"] for result in results.values()])
        print(f"\n{variant} (seeds {', '.join(map(str, results))}; fit {seconds:.0f} s)")
        reference = found.get("none-strong" if variant.endswith("strong") else "none", {})
        show_against(found[variant], {} if variant.startswith("none") else reference)
        show_gates(results)


def show_against(found: dict[int, dict[str, float]], reference: dict[int, Any]) -> None:
    """Each metric over seeds, and its paired difference to the reference's same seeds."""
    shared = [seed for seed in found if seed in reference]
    for name in next(iter(found.values())):
        line = f"  {name:20s} {mean_interval([values[name] for values in found.values()])}"
        if shared:
            gaps = [found[seed][name] - reference[seed][name] for seed in shared]
            line += f"   against ungated {mean_interval(gaps)}"
        print(line)


def show_gates(results: dict[int, dict[str, Any]]) -> None:
    """What each seed's gate did on the test split, and on kinds of prompts left out."""
    for seed, result in results.items():
        if result["gate_on_test"] is None:
            continue
        rates = result["gate_on_test"]
        firing = {k: round(r["estimate"], 3) for k, r in rates["false_firing"].items()}
        left = {k: round(r["estimate"], 3) for k, r in result["gate"]["left_out"].items()}
        print(
            f"    seed {seed}, gate at {result['gate']['site']}: opens on "
            f"{rates['opens']['estimate']:.3f}; fires falsely on test {firing}; "
            f"on kinds left out {left}"
        )


def main() -> None:
    """Run what is not there yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=SUBJECTS, default="bundled")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--out", type=Path, default=Path("runs/gating"))
    parser.add_argument("--steps", type=int, help="of every fit, in place of the default")
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine too")
    given = parser.parse_args()
    if os.getloadavg()[0] > MAX_LOAD and not given.anyway:
        raise SystemExit(f"load {os.getloadavg()[0]:.1f} > {MAX_LOAD}: times would mean nothing")
    variants = given.variants.split(",")
    if unknown := sorted(set(variants) - set(VARIANTS)):
        parser.error(f"unknown variant {unknown[0]!r}; there are: {', '.join(VARIANTS)}")
    subject = SUBJECTS[given.model]()
    table: dict[str, dict[int, dict[str, Any]]] = {}
    for seed in map(int, given.seeds.split(",")):
        for variant in variants:
            settings = VARIANTS[variant] | ({"steps": given.steps} if given.steps else {})
            key = [fingerprint(subject.model), subject.task.digest, settings, seed]
            found = kept(
                given.out,
                f"{subject.name}-{variant}-{seed}",
                key,
                partial(run, subject, settings, seed),
            )
            table.setdefault(variant, {})[seed] = found
            print(f"{subject.name} {variant} {seed}: {found['seconds']['all']:.0f} s", flush=True)
    show(table)


if __name__ == "__main__":
    main()
