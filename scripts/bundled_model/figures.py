"""The figures of a checkpoint on its task files, by the library's own measures.

    python scripts/bundled_model/figures.py FOLDER

writes ``figures.json`` and the model card anew for what ``train.py`` left in a folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from card import NAME, model_card

from equipoise.models import load
from equipoise.study.measure import Probe, measure
from equipoise.tasks import Capability, read_jsonl

SHOWN = (
    "per_occupation_bias",
    "per_occupation_bias_greedy",
    "stereotype_gap",
    "abstention",
    "unambiguous_accuracy",
    "by_occupation",
)


def figures_of(folder: Path) -> dict[str, Any]:
    """All figures by split; ``folder`` holds the checkpoint and the two task files."""
    model = load(str(folder / NAME))
    task = read_jsonl(folder / "coreference.jsonl")
    questions = read_jsonl(folder / "skills.jsonl").items
    skills = [
        Capability(
            name=name, kind="accuracy", items=tuple(q for q in questions if q.contexts == (name,))
        )
        for name in dict.fromkeys(q.contexts[0] for q in questions)
    ]
    found: dict[str, Any] = {"coreference": {}, "skills": {}}
    for split in ("validation", "test"):
        row = measure(model, Probe.of(task, split, skills)).rows[0]
        found["coreference"][split] = {key: row[key] for key in SHOWN}
        if "held_out" in row:
            found["coreference"]["unseen"] = row["held_out"]
        found["skills"][split] = row["capability"]
    return found


def write_figures(folder: Path, made: dict[str, Any]) -> None:
    """Measure, and write ``figures.json`` and the card; ``made``: how the model was made."""
    found = figures_of(folder) | {"model": made}
    (folder / "figures.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / NAME / "README.md").write_text(model_card(found))
    print(model_card(found))


if __name__ == "__main__":
    there = Path(sys.argv[1])
    write_figures(there, json.loads((there / "made.json").read_text()))
