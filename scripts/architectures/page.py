"""The page made from a walk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_MAX = 110


def page(rows: Sequence[dict[str, Any]], version: str) -> str:
    """``docs/architectures.md``: counts, and a line per architecture."""

    def count(name: str) -> int:
        return sum(bool(row[name]) for row in rows)

    full = sum(1 for row in rows if row["both"] and row["biases"] == row["inner"])
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
        "- **fold slope**: folded at ω = 0.7, written, reloaded with plain transformers, logits "
        "compared with the steered model's;",
        "- **biases**: the norms (of all but the last one) whose bias b has a home in a "
        "checkpoint, folded together with the slopes in the same way. The others are slope-only "
        "in the default, *foldable* profile.",
        "",
        f"{len(rows)} architectures: {count('built')} built, {count('steers')} steered, "
        f"{count('slope')} fold slopes, {count('both')} also fold biases ({full} at every norm "
        "but the last).",
        "",
        "Where a forward pass needs more than a text, or building a package that is not a "
        "dependency, the last column says so.",
        "",
        "| architecture | model type | built | sites | steers | fold slope | biases | why not |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda r: (r["kind"] == "image-text", r["model_type"])):
        homes = "–" if row["biases"] is None else f"{row['biases']} of {row['inner']}"
        cells = [
            row["architecture"],
            row["model_type"],
            _mark(row["built"]),
            "" if row["sites"] is None else str(row["sites"]),
            _mark(row["steers"]),
            _mark(row["slope"]),
            homes if row["both"] or not row["biases"] else f"{homes} ✗",
            _short(row["reason"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mark(value: bool) -> str:
    return "✓" if value else "✗"


def _short(reason: str) -> str:
    reason = reason.replace("|", "\\|").replace("<", "&lt;")
    return reason if len(reason) <= _MAX else reason[: _MAX - 1].rstrip() + "…"
