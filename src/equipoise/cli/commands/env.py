"""``equipoise env``."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from equipoise.cli.options import CommonOptions
from equipoise.cli.terminal import Terminal


def env(terminal: Terminal, common: CommonOptions) -> None:
    """Versions, processor, accelerator, bundled models: what to add to a bug report."""
    from equipoise.models import builtin_models
    from equipoise.study.environment import environment

    found: dict[str, Any] = {**environment(), "builtin_models": builtin_models()}
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    for name, value in found.items():
        table.add_row(name.replace("_", " "), _text(value))
    terminal.show(found, table)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)
