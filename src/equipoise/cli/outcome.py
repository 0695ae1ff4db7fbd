"""What ``run``, ``audit`` and ``sweep`` leave behind, and say at the end."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipoise.cli import config_file
from equipoise.cli.folder import OutputFolder
from equipoise.cli.terminal import Terminal
from equipoise.files import write_atomically

if TYPE_CHECKING:
    from equipoise.steering import Steering
    from equipoise.study import Result

RESULTS, REPORT, STEERING = "results.json", "report.html", "steering"


def leave(
    folder: OutputFolder,
    command: str,
    config: dict[str, Any],
    result: Result,
    steering: Steering | None = None,
) -> None:
    """Write results, report, config, and the steering if there is one with its model card."""
    from equipoise.report import model_card, write_report

    result.data |= {"config": config, "command": config_file.repeat(command, folder.path)}

    def write(stage: Path) -> None:
        results = result.to_dict()
        if steering is not None:
            card = model_card(results, asdict(steering.info))
            steering.save_pretrained(stage / STEERING, card=card)
        write_report(results, stage / REPORT)
        write_atomically(stage / config_file.NAME, config_file.to_yaml(command, config))
        result.save(stage / RESULTS)

    folder.fill(write)


def show(
    terminal: Terminal, folder: OutputFolder, result: Result, next_words: Sequence[str]
) -> None:
    """Print the results, where they are, and the words of the command to type next."""
    from equipoise.report import results_table

    results = result.to_dict()
    terminal.show(results, results_table(results))
    chosen = results["chosen"]
    if chosen is not None:
        terminal.tell("chosen", f"ω = {chosen['strength']:g}: {chosen['rule']}")
    written = sorted(f"{p.name}/" if p.is_dir() else p.name for p in folder.path.iterdir())
    terminal.tell("wrote", f"{folder.path}/: {', '.join(written)}")
    terminal.tell("look", str(folder.path / REPORT))
    if next_words:
        terminal.tell("next", shlex.join(["equipoise", *next_words]))


def following(result: Result, steering: Steering, words: Sequence[str]) -> list[str]:
    """The command for the chosen strength: bake it in, or check it where that cannot be.

    Args:
        result: With its choice.
        steering: What was swept.
        words: That name the model and the artifact.

    Returns:
        Words after ``equipoise``; none if the strength is 0.
    """
    strength = result.data["chosen"]["strength"]
    if strength == 0:
        return []
    told = [*words, "--strength", f"{strength:g}"]
    if steering.gate is not None or not steering.scope.everywhere:
        return ["verify", *told]
    return ["fold", *told, "--out", "folded"]
