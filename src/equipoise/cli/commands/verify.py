"""``equipoise verify``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from equipoise.cli import inputs
from equipoise.cli.exits import NotOk
from equipoise.cli.options import (
    CommonOptions,
    ModelOptions,
    SteeringOptions,
    StrengthOptions,
    VerifyOptions,
)
from equipoise.cli.terminal import Terminal

if TYPE_CHECKING:
    from equipoise.steering.check import Check


def verify(
    terminal: Terminal,
    model: ModelOptions,
    steering: SteeringOptions,
    strength: StrengthOptions,
    compared: VerifyOptions,
    common: CommonOptions,
) -> None:
    """Is a steering applied, and everywhere the same? Exit code 1 if not."""
    from equipoise.steering.verify import verify as check

    artifact = inputs.load_steering(steering)
    loaded = inputs.load_model(model, terminal)
    found = check(loaded, artifact, strength=strength.strength, vllm=compared.vllm)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("check", "", "measured", "tolerance", "note"):
        table.add_column(column, justify="right" if column in ("measured", "tolerance") else "left")
    for entry in found.checks:
        numbers = (_number(entry.measured), _number(entry.tolerance))
        table.add_row(entry.name, _mark(entry), *numbers, entry.note)
    open_ones = [entry for entry in found.checks if entry.ok is None and entry.name != "vllm"]
    verdict = "applied, and the same everywhere" if found.ok else "NOT the same everywhere"
    if found.ok and open_ones:
        verdict += " it could be checked"
    terminal.show(found.to_dict(), table, f"{verdict} (ω = {found.strength:g}, {found.dtype})")
    if not found.ok:
        raise NotOk


def _mark(check: Check) -> str:
    return {True: "ok", False: "FAILED", None: "not checked"}[check.ok]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"
