"""Tasks by name or file: what there is, and where its data come from."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from equipoise.catalogue import Catalogue, call_with_options, options_of
from equipoise.errors import EquipoiseError
from equipoise.tasks import (
    arc,
    bbq,
    ceb,
    coreference,
    crows_pairs,
    mmlu,
    openbookqa,
    pronouns,
    questions,
    synthbias,
    unqover,
    winobias,
)
from equipoise.tasks.bbq_rows import HUB_ID as BBQ_HUB_ID
from equipoise.tasks.capability import is_capability, list_capabilities
from equipoise.tasks.files import find_data
from equipoise.tasks.hub import MissingDataError
from equipoise.tasks.item import Task
from equipoise.tasks.jsonl import read_jsonl
from equipoise.tasks.subset import subset


@dataclass(frozen=True, kw_only=True)
class TaskSource:
    """A task that can be asked for by name.

    Attributes:
        name: The name.
        description: One line on what it measures.
        origin: One line on where its data come from.
        build: Called with the task's own options by keyword, and with ``data`` (a path, or None
            where there is none) if it takes data; returns the Task.
        takes_data: Whether it reads data from a path.
        needs_data: What to get and from where, for the message when there is no path; None where
            ``build`` does without, from the hub for instance.
        folder: Name of its folder in ``$EQUIPOISE_DATA``, where that is not its own.
    """

    name: str
    description: str
    origin: str
    build: Callable[..., Task]
    takes_data: bool = False
    needs_data: str | None = None
    folder: str | None = None


_TASKS = Catalogue(
    "equipoise.tasks",
    "task",
    TaskSource,
    [
        TaskSource(
            name="coreference",
            description="who does the pronoun refer to? occupation pairs, he/she twins",
            origin="in the package; our own sentences",
            build=coreference.build,
        ),
        TaskSource(
            name="pronouns",
            description='he or she after "The nurse said that"? a cloze for base models',
            origin="in the package; labour statistics decide pro and anti",
            build=pronouns.build,
        ),
        TaskSource(
            name="synthbias",
            description="SynthBias: 31,728 coreference sentences over 40 occupations",
            origin="data folder, or the authors' repository; CC BY-NC-ND 4.0, evaluation only",
            build=synthbias.build,
            takes_data=True,
        ),
        TaskSource(
            name="winobias",
            description="WinoBias: 3,168 resolvable coreference sentences, no ambiguous ones",
            origin=f"data folder, or the hub ({winobias.HUB_ID}); MIT",
            build=winobias.build,
            takes_data=True,
        ),
        TaskSource(
            name="bbq",
            description="BBQ: whom a question with too little context is answered with",
            origin=f"data folder, or the hub ({BBQ_HUB_ID}); CC BY 4.0",
            build=bbq.build,
            takes_data=True,
        ),
        TaskSource(
            name="unqover",
            description="UnQover: questions the text does not answer, subjects swapped, negated",
            origin="data folder (its word lists); Apache-2.0",
            build=unqover.build,
            takes_data=True,
            needs_data="the folder word_lists of github.com/allenai/unqover",
        ),
        TaskSource(
            name="crows-pairs",
            description="CrowS-Pairs: which of two sentences is the likelier",
            origin="data folder; CC BY-SA 4.0",
            build=crows_pairs.build,
            takes_data=True,
            needs_data=f"the file {crows_pairs.FILE} of github.com/nyu-mll/crows-pairs",
        ),
        TaskSource(
            name="ceb",
            description="CEB: recognising and selecting stereotypes and toxic remarks, accuracy",
            origin="data folder; no licence stated",
            build=ceb.build,
            takes_data=True,
            needs_data="the folder data of github.com/SongW-SW/CEB",
        ),
        TaskSource(
            name="mmlu",
            description="MMLU: accuracy on 14,042 four-choice questions, 5 solved before each",
            origin=f"data folder, or the hub ({mmlu.HUB_ID}); MIT",
            build=questions.mmlu,
            takes_data=True,
        ),
        TaskSource(
            name="arc-easy",
            description="ARC-Easy: accuracy on school science questions, answers in words",
            origin=f"data folder (arc), or the hub ({arc.HUB_ID}); CC BY-SA",
            build=questions.arc_easy,
            takes_data=True,
            folder="arc",
        ),
        TaskSource(
            name="arc-challenge",
            description="ARC-Challenge: those that retrieval and co-occurrence get wrong",
            origin=f"data folder (arc), or the hub ({arc.HUB_ID}); CC BY-SA",
            build=questions.arc_challenge,
            takes_data=True,
            folder="arc",
        ),
        TaskSource(
            name="openbookqa",
            description="OpenBookQA: accuracy on elementary science facts put to use",
            origin=f"data folder, or the hub ({openbookqa.HUB_ID}); Apache-2.0",
            build=questions.openbookqa,
            takes_data=True,
        ),
    ],
)


def list_tasks() -> list[tuple[str, str, str]]:
    """Name, one-line description and origin of the data of every known task."""
    return [(source.name, source.description, source.origin) for source in _TASKS]


def task_options(name_or_file: str | Path) -> dict[str, Any]:
    """The options a task has, with their defaults.

    Raises:
        EquipoiseError: Unknown name.
    """
    build = read_jsonl if is_file(name_or_file) else _named(str(name_or_file)).build
    return options_of(build, "path", "data")


def load_task(
    name_or_file: str | Path,
    *,
    data: str | Path | None = None,
    path: str | Path | None = None,
    seed: int = 0,
    limit: int | None = None,
    **options: Any,
) -> Task:
    """Load a task by name, or from a task file.

    Args:
        name_or_file: A name of ``list_tasks()``, or a file of the contract.
        data: Where a named task's data lie; else ``$EQUIPOISE_DATA/NAME``, else the hub.
        path: The same as ``data``.
        seed: Seed of the subset that ``limit`` draws. Splits never depend on it.
        limit: Keep about this many items: whole twins, evenly over occupations and in the
            proportions of the splits.
        **options: Options of the task itself.

    Raises:
        EquipoiseError: Unknown name or option, missing data, or data that cannot be read.
    """
    if path is not None:
        if data is not None:
            raise EquipoiseError("give data or path, not both: they mean the same")
        data = path
    if is_file(name_or_file):
        if data is not None:
            raise EquipoiseError(f"{name_or_file}: a task file takes no data path")
        if str(name_or_file).lower().endswith((".csv", ".tsv")):
            raise EquipoiseError(
                f"{name_or_file}: expected a .jsonl file, one JSON object a line, not a table"
            )
        task = call_with_options(
            read_jsonl, f"task file {name_or_file}", options, path=Path(name_or_file)
        )
        if task.name in _TASKS:  # which may have scores that only its own items can be given
            task = replace(task, name=f"{task.name} (file)")
    else:
        source = _named(str(name_or_file))
        given = {"data": _data_of(source, data)} if source.takes_data else {}
        if data is not None and not given:
            raise EquipoiseError(f"task {source.name!r} takes no data path: {source.origin}")
        task = call_with_options(source.build, f"task {source.name!r}", options, **given)
    return task if limit is None else subset(task, limit, seed=seed)


def is_file(name_or_file: str | Path) -> bool:
    """Whether a task argument means a file rather than a name."""
    text = str(name_or_file)
    if is_capability(text) and not os.path.exists(text):
        return False
    if os.path.isdir(text):
        return False
    if isinstance(name_or_file, Path) or os.sep in text or text.endswith((".jsonl", ".json")):
        return True
    return text not in _TASKS and os.path.isfile(text)


def _named(name: str) -> TaskSource:
    """The task of that name; for what looks like a place, how a place is given."""
    if name not in _TASKS and is_capability(name):
        kind, _, place = name.partition(":")
        if kind in _TASKS:
            raise EquipoiseError(f"unknown task {name!r}: give --task {kind} --data {place}")
        (origin,) = [origin for known, _, origin in list_capabilities() if known == kind]
        raise EquipoiseError(
            f"{kind} is no task but a capability ({origin}): --capability {name}, beside any task"
        )
    if name not in _TASKS and (os.path.isdir(name) or os.path.splitext(name)[1]):
        what = "is a folder" if os.path.isdir(name) else "is no file that exists"
        raise EquipoiseError(
            f"unknown task {name!r}, which {what}; a task file ends in .jsonl, and a named task's "
            "folder of data goes to --data"
        )
    return _TASKS.get(name)


def _data_of(source: TaskSource, data: str | Path | None) -> Path | None:
    path = find_data(source.folder or source.name, data)
    if path is None and source.needs_data is not None:
        raise MissingDataError(
            f"task {source.name!r} needs {source.needs_data}: give its place with --data PATH, "
            f"or set EQUIPOISE_DATA to a folder that holds {source.name}/"
        )
    return path
