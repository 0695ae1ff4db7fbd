"""FairSteer on real data: BBQ with the small real models, and the bundled task.

    python benchmarks/fairsteer.py [--subject tinystories|imdb-5m|bundled] [--limit 6000]
                                   [--rows unsteered,prompted,clean,...] [--out runs/fairsteer]

Prints, on the test split at ω = 1, for the unsteered model, the same with an instruction before
every prompt, and FairSteer's two presets (``clean-open``: the vector always on): accuracy or bias
and what it cost, each with n and a 95 % interval clustered by twin; and of every gate what it does
on test prompts, false firing on capability prompts included. ``as-released`` sees test items in its
fit, as the authors' code does. Every run is kept as a file of its own (see ``keeping.py``).

Needs ``EQUIPOISE_DATA``, the bundled task aside.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from keeping import kept

from equipoise.methods.fairsteer.data import Pool, read
from equipoise.methods.gating import Kinds
from equipoise.methods.gating.report import false_firing, opening_rate, quality
from equipoise.models import Model, load
from equipoise.models.fingerprint import fingerprint
from equipoise.steering import ProbeGate
from equipoise.study import audit, fit_outcome, sweep
from equipoise.study.anchors import anchors_of
from equipoise.study.environment import environment
from equipoise.tasks import Capability, Task, load_capability, load_task

ROOT = Path(os.environ.get("EQUIPOISE_DATA", "../shared/data"))
INSTRUCTION = (
    "Do not judge people by stereotypes. Where the text does not say who it was, answer that it "
    "is not known.\n"
)
FITS: dict[str, dict[str, Any]] = {
    "clean": {},
    "clean-soft": {"gate": "soft"},
    "clean-open": {"gate": "off"},
    "as-released": {"preset": "as-released"},
}
ROWS = ("unsteered", "prompted", *FITS)


@dataclass(frozen=True)
class Subject:
    """A model with a task and a capability; ``order`` as the task lays out its options."""

    name: str
    model: Model
    capability: tuple[Capability, ...]
    task: Callable[[str], Task]


def _on_bbq(name: str, folder: str, limit: int) -> Subject:
    return Subject(
        name,
        load(str(ROOT / folder)),
        (load_capability(f"mmlu:{ROOT}/mmlu", limit=1000, shots=0),),
        lambda row: load_task(
            "bbq",
            data=ROOT / "bbq",
            limit=limit,
            order="released" if row == "as-released" else "hashed",
        ),
    )


def _bundled(_: int) -> Subject:
    return Subject(
        "bundled",
        load("builtin:"),
        (load_capability("builtin"),),
        lambda row: load_task("coreference"),
    )


SUBJECTS: dict[str, Callable[[int], Subject]] = {
    "tinystories": lambda limit: _on_bbq("tinystories", "tinystories-656k", limit),
    "imdb-5m": lambda limit: _on_bbq("imdb-5m", "imdb-5m", limit),
    "bundled": _bundled,
}


def run(subject: Subject, row: str, task: Task) -> dict[str, Any]:
    """One row of the table."""
    started = time.perf_counter()
    model, capability = subject.model, subject.capability
    if row not in FITS:
        if row == "prompted":
            items = (replace(i, prompt=INSTRUCTION + i.prompt) for i in task.items)
            task = task.with_items(items)
        found = audit(model, task, capability=capability, split="test")
        extra: dict[str, Any] = {}
        at = 0.0
    else:
        outcome = fit_outcome(model, task, "fairsteer", capability=capability, **FITS[row])
        extra = {
            "notes": list(outcome.notes),
            "fit": outcome.steering.info.extra,
            "fit_seconds": time.perf_counter() - started,
            "gate": on_test(subject, task, outcome.steering.gate),
        }
        found = sweep(model, task, outcome.steering, [0.0, 1.0], capability=capability)
        at = 1.0
    return {
        "row": found.row(at),
        "seconds": time.perf_counter() - started,
        "environment": environment(),
        **extra,
    }


def on_test(subject: Subject, task: Task, gate: Any) -> dict[str, Any] | None:
    """What a gate does on the test split's prompts and on the capability's test questions."""
    if not isinstance(gate, ProbeGate):
        return None
    known = anchors_of(task, subject.capability, "train")
    asked = anchors_of(task, subject.capability, "test")
    sided = tuple(item for item in task.split("test") if item.sides)
    others = replace(asked, items=tuple(i for i in asked.items if i not in set(sided)))
    pool = Pool(sided, Kinds.of(task, known).sort(others))
    reading = read(subject.model, pool, [gate.site])
    examples = reading.examples.at(0)
    if not examples.two_sided:
        return None
    found = quality(gate, examples)
    return {
        "n": len(examples),
        "stereotyped": int(examples.opens.sum()),
        **found,
        "intervals": {name: asdict(rate) for name, rate in found["intervals"].items()},
        "opens": asdict(opening_rate(gate, examples)),
        "ambiguous": asdict(opening_rate(gate, reading.ambiguous.at(0))),
        "false_firing": {kind: asdict(r) for kind, r in false_firing(gate, examples).items()},
    }


def show(results: Mapping[str, dict[str, Any]]) -> None:
    """The tables: rows by metrics, then the gates."""
    for name, result in results.items():
        print(f"\n{name} ({result['seconds']:.0f} s)")
        for metric, value in metrics(result["row"]).items():
            print(f"  {metric:34s} {shown(value)}")
        for note in result.get("notes", ())[:1]:
            print(f"  {note}")
        gate = result.get("gate")
        if gate is None:
            continue
        print(f"  gate on test prompts (n={gate['n']}, stereotyped {gate['stereotyped']})")
        for name, rate in gate["intervals"].items():
            print(f"    {name.replace('_', ' '):33.33s} {shown(rate)}")
        print(f"    opens on stereotyped answers      {shown(gate['opens'])}")
        print(f"    opens on all ambiguous prompts    {shown(gate['ambiguous'])}")
        for kind, rate in gate["false_firing"].items():
            print(f"    fires on {kind:32.32s} {shown(rate)}")
        for kind, rate in result["fit"]["gate"]["left_out"].items():
            print(f"    left out of its training: {kind:32.32s} {shown(rate)}")


def metrics(row: dict[str, Any]) -> dict[str, dict[str, Any] | None]:
    """What is compared: BBQ's scores where there are any, else the task's bias."""
    if "benchmark" in row:
        found = dict(row["benchmark"]["pooled"])
    else:
        found = {
            "per-occupation bias": row["per_occupation_bias"],
            "greedy per-occupation bias": row["per_occupation_bias_greedy"],
            "abstention": row["abstention"],
            "unambiguous accuracy": row["unambiguous_accuracy"],
        }
    return found | {f"capability: {name}": value for name, value in row["capability"].items()}


def shown(value: dict[str, Any] | None) -> str:
    """An estimate with its interval and n."""
    if value is None or value["estimate"] is None:
        return "none"
    n = f" n={value['n']}" if value.get("n") else ""
    return f"{value['estimate']:+.3f} [{value['low']:+.3f}, {value['high']:+.3f}]{n}"


def main() -> None:
    """Run what is not there yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subject", choices=SUBJECTS, default="tinystories")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--limit", type=int, default=6000, help="items of BBQ, all splits")
    parser.add_argument("--out", type=Path, default=Path("runs/fairsteer"))
    given = parser.parse_args()
    rows = given.rows.split(",")
    if unknown := sorted(set(rows) - set(ROWS)):
        parser.error(f"unknown row {unknown[0]!r}; there are: {', '.join(ROWS)}")
    subject = SUBJECTS[given.subject](given.limit)
    results = {}
    for row in rows:
        task = subject.task(row)
        key = [fingerprint(subject.model), task.digest, row, FITS.get(row), INSTRUCTION]
        make = partial(run, subject, row, task)
        results[row] = kept(given.out, f"{subject.name}-{row}", key, make)
        print(f"{subject.name} {row}: {results[row]['seconds']:.0f} s", flush=True)
    show(results)


if __name__ == "__main__":
    main()
