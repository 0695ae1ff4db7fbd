"""Questions that all have a right answer, as tasks: MMLU, ARC, OpenBookQA.

Their test parts, as their published figures are of; no bias is measured on them, and nothing is
fitted to them. To hold them while a steering is fitted to another task, see ``capability``.
"""

from __future__ import annotations

from pathlib import Path

from equipoise.tasks.arc import load_arc
from equipoise.tasks.item import Item, Task
from equipoise.tasks.mmlu import load_mmlu
from equipoise.tasks.openbookqa import load_openbookqa


def mmlu(*, data: Path | None = None, shots: int = 5) -> Task:
    """MMLU with solved examples, as its published figures are; see :func:`load_mmlu`."""
    return _task("mmlu", load_mmlu(data, shots=shots))


def arc_easy(*, data: Path | None = None) -> Task:
    """The easy set of ARC; see :func:`load_arc`."""
    return _task("arc-easy", load_arc(data, "ARC-Easy"))


def arc_challenge(*, data: Path | None = None) -> Task:
    """The challenge set of ARC; see :func:`load_arc`."""
    return _task("arc-challenge", load_arc(data, "ARC-Challenge"))


def openbookqa(*, data: Path | None = None) -> Task:
    """OpenBookQA; see :func:`load_openbookqa`."""
    return _task("openbookqa", load_openbookqa(data))


def _task(name: str, items: tuple[Item, ...]) -> Task:
    test = tuple(item for item in items if item.split == "test")
    return Task(name, test, notes=(f"{name}: test part; every item has a right answer",))
