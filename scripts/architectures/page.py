"""The page made from a walk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_MAX = 110


def page(rows: Sequence[dict[str, Any]], version: str) -> str:
    """``docs/architectures.md``: counts, and a line per architecture."""

    def count(name: str) -> int:
        return sum(bool(row[name]) for row in rows)

    every = sum(1 for row in rows if row["slope"] and row["slopes"] == row["sites"])
    full = sum(1 for row in rows if row["both"] and row["biases"] == row["inner"])
    streams = sum(1 for row in rows if row["adds"] and row["added"] == row["blocks"])
    lines = [
        "# Architectures",
        "",
        "Made by `python scripts/walk_architectures.py`; do not edit. Every causal-LM and "
        f"image-text-to-text class that transformers {version} registers was built tiny from its "
        "configuration with random weights, and then:",
        "",
        "- **steers**: a random slope and bias at every default norm site; none of the sites is "
        "in a vision tower, projector or router, nor a q/k-norm, and a text reaches all of them; "
        "logits bit-identical to the base at strength 0 and after detaching, changed at 1, and a "
        "batch of three strengths equal to three single calls;",
        "- **slopes**: the norms whose slope a has a home in a checkpoint, folded at ω = 0.7, "
        "written, reloaded with plain transformers, logits compared with the steered model's;",
        "- **biases**: the norms (of all but the last one) whose bias b has a home, folded "
        "together with the slopes in the same way. The default, *foldable* profile leaves out "
        "what has none;",
        "- **blocks**: the decoder blocks to whose output a vector can be added in a checkpoint "
        "(control vectors, CAA), folded in the same way.",
        "",
        f"{len(rows)} architectures: {count('built')} built, {count('steers')} steered, "
        f"{count('slope')} fold slopes ({every} at every norm), {count('both')} also biases "
        f"({full} at every norm but the last), {count('adds')} vectors added to blocks ({streams} "
        "to every block).",
        "",
        "Where a forward pass needs more than a text, or building a package that is not a "
        "dependency, the last column says so.",
        "",
        "| architecture | model type | built | sites | steers | slopes | biases | blocks "
        "| why not |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda r: (r["kind"] == "image-text", r["model_type"])):
        cells = [
            row["architecture"],
            row["model_type"],
            _mark(row["built"]),
            "" if row["sites"] is None else str(row["sites"]),
            _mark(row["steers"]),
            _share(row["slopes"], row["sites"], row["slope"]),
            _share(row["biases"], row["inner"], row["both"]),
            _share(row["added"], row["blocks"], row["adds"]),
            _short(row["reason"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mark(value: bool) -> str:
    return "✓" if value else "✗"


def _share(homes: int | None, places: int | None, folds: bool) -> str:
    """How many places have a home; marked where folding into these homes failed."""
    if homes is None:
        return "–"
    return f"{homes} of {places}{'' if folds or not homes else ' ✗'}"


def _short(reason: str) -> str:
    reason = reason.replace("|", "\\|").replace("<", "&lt;")
    return reason if len(reason) <= _MAX else reason[: _MAX - 1].rstrip() + "…"
