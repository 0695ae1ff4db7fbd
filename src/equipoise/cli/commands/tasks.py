"""``equipoise tasks``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from equipoise.cli.options import CommonOptions, TaskNameOptions
from equipoise.cli.terminal import Terminal

if TYPE_CHECKING:
    from equipoise.tasks import TaskSummary


def tasks(terminal: Terminal, task: TaskNameOptions, common: CommonOptions) -> None:
    """What tasks and capabilities there are, or what one task holds."""
    from equipoise.tasks import (
        describe,
        list_capabilities,
        list_tasks,
        load_task,
        task_options,
    )
    from equipoise.tasks.hub import MissingDataError

    if task.name is not None:
        options = task_options(task.name) | task.task_options
        shown = _options(options)
        try:
            loaded = load_task(
                task.name, data=task.data, seed=common.seed, limit=task.limit, **task.task_options
            )
        except MissingDataError as error:
            (known,) = (entry for entry in _listed(list_tasks()) if entry["name"] == task.name)
            said = (f"{known['name']} · {known['description']}", f"data: {known['origin']}")
            terminal.show(known | {"options": options, "missing": str(error)}, *said, *shown)
            terminal.note(str(error))
            return
        found = describe(loaded)
        terminal.show(
            asdict(found) | {"options": options}, *_described(found), *shown, *found.notes
        )
        return
    tasks, capabilities = list_tasks(), list_capabilities()
    terminal.show(
        {"tasks": _listed(tasks), "capabilities": _listed(capabilities)},
        _table("task", tasks),
        _table("capability", capabilities),
        "A task of your own: --task FILE.jsonl (see docs/task-files.md).",
    )


def _listed(entries: Sequence[tuple[str, str, str]]) -> list[dict[str, str]]:
    return [dict(zip(("name", "description", "origin"), e, strict=True)) for e in entries]


def _table(kind: str, entries: Sequence[tuple[str, str, str]]) -> Table:
    table = Table(kind, "measures", "data", box=box.SIMPLE_HEAD, pad_edge=False)
    for entry in entries:
        table.add_row(*entry)
    return table


def _described(found: TaskSummary) -> list[Table | str]:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("split")
    for name in ("ambiguous", "unambiguous", "twins", "contexts"):
        table.add_column(name, justify="right")
    for split, counts in found.splits.items():
        sizes = (counts.ambiguous, counts.unambiguous, counts.twins, len(counts.contexts))
        table.add_row(split, *(f"{size:,}" for size in sizes))
    total = (found.ambiguous, found.unambiguous, found.twins, len(found.contexts))
    table.add_row("all", *(f"{size:,}" for size in total), style="bold")
    said: list[Table | str] = [f"{found.name} · {found.digest[:12]}", table]
    said.append(f"contexts: {', '.join(found.contexts) or 'none'}")
    if found.held_out_contexts:
        said.append(f"held out of every fit: {', '.join(found.held_out_contexts)}")
    for split, counts in found.splits.items():
        if counts.single_twin:
            said.append(
                f"{split}: a single twin, so left out of the estimate of bias: "
                f"{', '.join(counts.single_twin)}"
            )
    return said


def _options(options: dict[str, Any]) -> list[str]:
    """The line of a task's options, if it has any."""
    told = " ".join(f"{key}={_yaml(value)}" for key, value in options.items())
    return [f"options (--task-option KEY=VALUE): {told}"] if options else []


def _yaml(value: Any) -> str:
    """A value as one writes it on the command line."""
    if value in (None, (), []):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
