"""What a task holds, in counts."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from equipoise.tasks.item import SPLITS, Split, Task


@dataclass(frozen=True)
class SplitSummary:
    """Counts of one split.

    Attributes:
        ambiguous: Ambiguous items.
        unambiguous: Items with a right answer.
        twins: Twins, of either kind.
        contexts: Contexts the ambiguous items are evidence on (of ``unseen``: held-out ones).
        single_twin: Those with a single twin: no variance, so left out of an estimate of bias.
    """

    ambiguous: int
    unambiguous: int
    twins: int
    contexts: tuple[str, ...]
    single_twin: tuple[str, ...]


@dataclass(frozen=True)
class TaskSummary:
    """Counts of a task; ``splits`` holds those that have items, in the order of SPLITS."""

    name: str
    digest: str
    ambiguous: int
    unambiguous: int
    twins: int
    contexts: tuple[str, ...]
    held_out_contexts: tuple[str, ...]
    splits: dict[Split, SplitSummary]
    notes: tuple[str, ...]


def describe(task: Task) -> TaskSummary:
    """Count a task's items, twins and contexts, altogether and by split."""
    by_split = {name: _describe_split(task, name) for name in SPLITS if task.split(name)}
    ambiguous = sum(item.ambiguous for item in task.items)
    return TaskSummary(
        name=task.name,
        digest=task.digest,
        ambiguous=ambiguous,
        unambiguous=len(task.items) - ambiguous,
        twins=len({item.twin for item in task.items}),
        contexts=tuple(sorted({c for part in by_split.values() for c in part.contexts})),
        held_out_contexts=by_split["unseen"].contexts if "unseen" in by_split else (),
        splits=by_split,
        notes=task.notes,
    )


def _describe_split(task: Task, name: Split) -> SplitSummary:
    items = task.split(name)
    twins: dict[str, set[str]] = defaultdict(set)
    for item in items:
        for context in item.contexts:
            if item.ambiguous and (name != "unseen" or context in task.held_out_contexts):
                twins[context].add(item.twin)
    kinds = Counter(item.ambiguous for item in items)
    return SplitSummary(
        ambiguous=kinds[True],
        unambiguous=kinds[False],
        twins=len({item.twin for item in items}),
        contexts=tuple(sorted(twins)),
        single_twin=tuple(sorted(c for c, members in twins.items() if len(members) == 1)),
    )
