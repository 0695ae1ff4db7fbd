"""Tasks of lm-eval as capabilities: which of their documents are asked, and what is right."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from equipoise.errors import EquipoiseError
from equipoise.tasks.item import Split
from equipoise.tasks.subset import take_some
from equipoise.wording import did_you_mean

SHOT_SEED = 1234
"""lm-eval's own seed of the solved examples: the same prompts, so the same numbers."""


@dataclass(frozen=True, repr=False)
class LmEvalTask:
    """Tasks that lm-eval asks and judges; the model's answers are ours.

    Attributes:
        name: What the task, group or tag is called.
        tasks: lm-eval's objects by name: one, or those of a group or a tag.
        metric: What says of every document whether it was answered rightly.
        chat: Whether prompts go through the model's chat template.
        documents: For each split that there is, for each task, which of its documents are asked
            (ascending indices).
    """

    name: str
    tasks: Mapping[str, Any]
    metric: str
    chat: bool
    documents: Mapping[Split, Mapping[str, tuple[int, ...]]]

    def __repr__(self) -> str:
        counts = ", ".join(f"{split}={self.count(split)}" for split in self.documents)
        return f"LmEvalTask({self.name!r}, {counts}, metric={self.metric!r})"

    def count(self, split: Split) -> int:
        """How many documents of a split are asked."""
        return sum(map(len, self.documents.get(split, {}).values()))

    def limited(self, limit: int, seed: int) -> LmEvalTask:
        """At most ``limit`` documents of each split, evenly over the tasks."""
        kept = {}
        for split, documents in self.documents.items():
            pool = [_Document(task, k) for task, them in documents.items() for k in them]
            some = take_some(pool, limit, seed, by=lambda one: one.task)
            kept[split] = {
                name: chosen
                for name in documents
                if (chosen := tuple(one.number for one in some if one.task == name))
            }
        return replace(self, documents=kept)

    @contextlib.contextmanager
    def asking(self, split: Split) -> Iterator[tuple[dict[str, Any], dict[str, list[int]] | None]]:
        """lm-eval's objects of a split, set to ask its documents, and which where not all."""
        documents = self.documents[split]
        asked = {name: self.tasks[name] for name in documents}
        with contextlib.ExitStack() as stack:
            if split == "validation":
                for task in asked.values():
                    stack.enter_context(_without_test_part(task))
            # lm-eval looks each document up in this list, which takes its square.
            some = {
                name: list(them)
                for name, them in documents.items()
                if len(them) < len(asked[name].eval_docs)
            }
            yield asked, some or None


class _Document(NamedTuple):
    task: str
    number: int

    @property
    def id(self) -> str:
        return f"{self.task}:{self.number}"


def load_lm_eval(
    task: str,
    *,
    num_fewshot: int | None = None,
    metric: str | None = None,
    include_path: str | None = None,
    apply_chat_template: bool = False,
) -> LmEvalTask:
    """Find a task as lm-eval does, and try it without a model.

    Args:
        task: Name of a task, a group or a tag of lm-eval, or a task's YAML file.
        num_fewshot: Solved examples before each question; None: as the task says.
        metric: One of the task's that is right or wrong for each document; None: ``acc`` where
            there is one, else the first that is.
        include_path: A folder with more task files.
        apply_chat_template: Whether prompts go through the model's chat template. As in lm-eval
            they do not unless asked.

    Raises:
        EquipoiseError: lm-eval is not installed; no such task; data that cannot be read; a task
            of free text or of perplexity; a metric it does not have, or none that fits.
    """
    tasks = _found(task, include_path)
    for name, one in tasks.items():
        _set_shots(name, one, num_fewshot)
    metrics = [_right_or_wrong(name, one) for name, one in tasks.items()]
    common = [found for found in metrics[0] if all(found in other for other in metrics)]
    if metric is None and common:
        metric = "acc" if "acc" in common else common[0]
    if metric not in common:
        asked = "one" if metric is None else repr(metric)
        raise EquipoiseError(
            f"lm-eval task {task!r} has no metric {asked} that says right or wrong of a document"
            f"{did_you_mean(metric or '', common)}; those that do: {', '.join(common) or 'none'}"
        )
    documents: dict[Split, dict[str, tuple[int, ...]]] = {"validation": {}, "test": {}}
    for name, one in tasks.items():
        documents["test"][name] = tuple(range(len(one.eval_docs)))
        if _may_choose(one):
            documents["validation"][name] = tuple(range(len(one.validation_docs())))
    told = {split: them for split, them in documents.items() if them}
    name = next(iter(tasks)) if _is_file(task) and len(tasks) == 1 else task
    return LmEvalTask(name, tasks, metric, apply_chat_template, told)


@contextlib.contextmanager
def hushed() -> Iterator[TextIO]:
    """Without lm-eval's log and progress bars; gives the stream that errors went to before."""
    logger = logging.getLogger("lm_eval")
    level, stderr = logger.level, sys.stderr
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield stderr
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def foreign_errors(what: str) -> Iterator[None]:
    """Errors of lm-eval, of data sets, of the network, of a task's own code, in one line."""
    try:
        yield
    except EquipoiseError:
        raise
    except Exception as error:
        first = str(error).strip().split("\n")[0]
        told = f"{type(error).__name__}: {first}" if first else type(error).__name__
        raise EquipoiseError(f"{what}: {told}") from error


def _found(task: str, include_path: str | None) -> dict[str, Any]:
    """lm-eval's task objects by name."""
    try:
        from lm_eval.tasks import get_task_dict
    except ImportError:
        raise EquipoiseError(
            f"capability 'lm-eval:{task}' needs lm-eval: pip install 'equipoise[lm-eval]'"
        ) from None
    path, is_file = Path(task).expanduser(), _is_file(task)
    if is_file and not path.is_file():
        raise EquipoiseError(f"{path}: no such file (a task of lm-eval)")
    if include_path and not Path(include_path).expanduser().is_dir():
        raise EquipoiseError(f"lm-eval.include_path: {include_path}: no such folder")
    with hushed():
        manager = _manager(include_path, is_file)
        if not is_file and task not in manager.all_tasks:
            raise EquipoiseError(
                f"unknown lm-eval task {task!r}{did_you_mean(task, manager.all_tasks)}; "
                "`lm-eval ls tasks` lists them, and lm-eval:FILE.yaml is one of your own"
            )
        with foreign_errors(f"lm-eval task {task!r} cannot be loaded"):
            found = get_task_dict([str(path) if is_file else task], manager)
    return _flat(found)


def _is_file(task: str) -> bool:
    return Path(task).suffix in (".yaml", ".yml")


@cache
def _manager(include_path: str | None, is_file: bool) -> Any:
    """lm-eval's index of task files; its own 14,000 take a while, and a file needs none of them."""
    from lm_eval.tasks import TaskManager

    folder = str(Path(include_path).expanduser()) if include_path else None
    return TaskManager(include_path=folder, include_defaults=not is_file)


def _flat(found: Mapping[Any, Any]) -> dict[str, Any]:
    """The tasks of groups within groups, in order."""
    flat: dict[str, Any] = {}
    for name, one in found.items():
        flat |= _flat(one) if isinstance(one, Mapping) else {str(name): one}
    return flat


def _set_shots(name: str, task: Any, shots: int | None) -> None:
    fixed = task.get_config("num_fewshot")
    if shots is not None and shots < 0:
        raise EquipoiseError(f"lm-eval.num_fewshot must be 0 or more, got {shots}")
    if shots and fixed == 0:
        raise EquipoiseError(f"lm-eval task {name!r} fixes its solved examples at 0")
    task.set_config("num_fewshot", (fixed or 0) if shots is None else shots)


def _right_or_wrong(name: str, task: Any) -> list[str]:
    """Metrics that say 0 or 1 of a document, by a trial on the first with made-up answers."""
    task.set_fewshot_seed(SHOT_SEED)
    with hushed(), foreign_errors(f"lm-eval task {name!r} cannot be asked"):
        task.build_all_requests(limit=1)
        asked = task.instances
        kinds = {request.request_type for request in asked}
        if kinds <= {"loglikelihood"}:
            answers = [(-float(k + 1), False) for k, _ in enumerate(asked)]
            values = task.process_results(asked[0].doc, answers)
    if not kinds <= {"loglikelihood"}:
        instead = "; give its text as perplexity:FILE" if kinds == {"loglikelihood_rolling"} else ""
        raise EquipoiseError(
            f"lm-eval task {name!r} asks for {', '.join(sorted(kinds))}; a capability scores given "
            f"answers (multiple_choice or loglikelihood){instead}"
        )
    return [metric for metric, value in values.items() if _is_zero_or_one(value)]


def _is_zero_or_one(value: Any) -> bool:
    return isinstance(value, (bool, int, float, np.generic)) and value in (0, 1)


def _may_choose(task: Any) -> bool:
    """Whether there are documents to choose a strength by that neither report nor prompt has."""
    if not (task.has_test_docs() and task.has_validation_docs()):
        return False
    with _without_test_part(task):
        if task.has_test_docs():  # one written in Python, which does not read its settings
            return False
    validation = task.get_config("validation_split")
    shown = task.get_config("fewshot_split") or task.get_config("training_split") or validation
    return not (task.get_config("num_fewshot") and shown == validation)


@contextlib.contextmanager
def _without_test_part(task: Any) -> Iterator[None]:
    """lm-eval asks the validation part of tasks that have no test part."""
    before = task.get_config("test_split")
    task.set_config("test_split", None)
    try:
        yield
    finally:
        task.set_config("test_split", before)
