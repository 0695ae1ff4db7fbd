"""Task files: one item a line (contract ``equipoise/task/1``; see docs/task-files.md)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from equipoise.errors import EquipoiseError
from equipoise.files import write_atomically
from equipoise.tasks.files import read_lines
from equipoise.tasks.item import Item, Task
from equipoise.tasks.row import item_of, parse, row_of
from equipoise.tasks.splits import assign_splits


def read_jsonl(
    path: str | Path, *, name: str | None = None, target: Mapping[str, float] | None = None
) -> Task:
    """Read a task file.

    Rows without a split get one by a hash of their twin (see ``splits``), if no row has one.

    Args:
        path: The file; image paths in it are relative to its folder.
        name: Name of the task; the file's name without its ending unless told.
        target: With ``groups``, the wanted share of each group; equal shares unless told.

    Raises:
        EquipoiseError: One line with file and line number that says what is wrong.
    """
    path = Path(path)
    items, split = _read(path)
    if not split:
        items = assign_splits(items)
    return Task(name=name or path.stem, items=items, target=_checked_target(path, items, target))


def read_anchors(path: str | Path) -> tuple[Item, ...]:
    """Items of a task file for a fit to hold as they are.

    All of them, or those of its ``train`` split where the file gives splits.

    Raises:
        EquipoiseError: As of :func:`read_jsonl`, or the file gives splits and none is ``train``.
    """
    path = Path(path)
    items, split = _read(path)
    if not split:
        return tuple(replace(item, split="train") for item in items)
    kept = tuple(item for item in items if item.split == "train")
    if not kept:
        raise EquipoiseError(
            f"{path}: no row has the split 'train', and a fit sees no other; "
            "leave all splits out to have every row as an anchor"
        )
    return kept


def _read(path: Path) -> tuple[tuple[Item, ...], bool]:
    """The items of a task file, and whether it gives their splits."""
    items: list[Item] = []
    lines: dict[str, int] = {}
    without_split: list[int] = []
    kinds: dict[str, int] = {}
    for line, text in read_lines(path):
        try:
            row = parse(text)
            item = item_of(row, line, path.parent)
            if item.id in lines:
                raise ValueError(f"id {item.id!r} was given on line {lines[item.id]} already")
            _check_kind(item, line, kinds)
        except ValueError as error:
            raise EquipoiseError(f"{path}:{line}: {error}") from None
        lines[item.id] = line
        items.append(item)
        if row.split is None:
            without_split.append(line)
    if not items:
        raise EquipoiseError(f"{path}: the file is empty; expected one JSON object a line")
    if len(without_split) == len(items):
        return tuple(items), False
    if without_split:
        raise EquipoiseError(
            f"{path}:{without_split[0]}: no split here, but other rows have one; "
            "give every row a split, or none"
        )
    _check_splits(path, items, lines)
    return tuple(items), True


def write_jsonl(task: Task, path: str | Path) -> None:
    """Write a task's items, splits included, so that ``read_jsonl`` gives the same items.

    The file appears whole or not at all. Images are written relative to its folder; the target,
    texts and notes of a task have no place in a task file.

    Raises:
        EquipoiseError: The file cannot be written.
    """
    path = Path(path)
    lines = (json.dumps(row_of(item, path.parent), ensure_ascii=False) for item in task.items)
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def _check_kind(item: Item, line: int, kinds: dict[str, int]) -> None:
    """Ambiguous items of one kind only: there is one bias, between sides or between groups."""
    if not item.ambiguous:
        return
    kind, other = ("sides", "groups") if item.sides is not None else ("groups", "sides")
    kinds.setdefault(kind, line)
    if other in kinds:
        raise ValueError(
            f"{kind} here, but {other} on line {kinds[other]}; "
            "give every ambiguous item sides, or every one groups"
        )


def _check_splits(path: Path, items: Sequence[Item], lines: Mapping[str, int]) -> None:
    """Splits a user gave: twins together, and every unseen item about an unseen context."""
    first: dict[str, Item] = {}
    for item in items:
        other = first.setdefault(item.twin, item)
        if other.split != item.split:
            raise EquipoiseError(
                f"{path}:{lines[item.id]}: twin {item.twin!r} is in split {item.split!r} here "
                f"and in {other.split!r} on line {lines[other.id]}; twins stay on one side"
            )
    held_out = Task(name="", items=tuple(items)).held_out_contexts
    for item in items:
        if item.split == "unseen" and item.ambiguous and held_out.isdisjoint(item.contexts):
            raise EquipoiseError(
                f"{path}:{lines[item.id]}: split 'unseen', but other splits speak about "
                f"{', '.join(map(repr, item.contexts))} too; hold the context out of them"
            )


def _checked_target(
    path: Path, items: Sequence[Item], target: Mapping[str, float] | None
) -> dict[str, float] | None:
    if target is None:
        return None
    groups = {group for item in items for group in item.groups or () if group is not None}
    if set(target) != groups:
        raise EquipoiseError(
            f"{path}: target names {sorted(target)}, but the groups are {sorted(groups)}"
        )
    if min(target.values()) < 0 or not math.isclose(sum(target.values()), 1, abs_tol=1e-6):
        raise EquipoiseError(f"{path}: target shares must be 0 or more and sum to 1")
    return dict(target)
