"""Smaller tasks for quick looks: whole twins, evenly over contexts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from equipoise.errors import EquipoiseError
from equipoise.tasks.item import Item, Split, Task
from equipoise.tasks.splits import unit_hash


class _Known(Protocol):
    @property
    def id(self) -> str: ...


Known = TypeVar("Known", bound=_Known)


def subset(task: Task, limit: int, *, seed: int = 0) -> Task:
    """At most ``limit`` items of a task, in its order, and as many pairs and prompts.

    Each (split, ambiguous or not) keeps its share of the items. Within it the contexts (of
    ``unseen``: the held-out ones) come about equally often, however long their tail.

    Raises:
        EquipoiseError: ``limit`` is below 1, or so low that nothing would be left.
    """
    if limit < 1:
        raise EquipoiseError(f"limit must be 1 or more, got {limit}")
    if limit >= max(len(task.items), len(task.pairs), len(task.prompts)):
        return task
    task = replace(
        task,
        pairs=take_some(task.pairs, limit, seed, by=lambda pair: pair.kind),
        prompts=take_some(
            task.prompts, limit, seed, by=lambda one: (one.part, one.axis, one.group)
        ),
    )
    if limit >= len(task.items):
        return task
    cells: dict[tuple[Split, bool], list[Item]] = defaultdict(list)
    for twin in _twins(task.items).values():
        cells[twin[0].split, twin[0].ambiguous] += twin
    kept: set[str] = set()
    for (split, _), items in cells.items():
        turns = task.held_out_contexts if split == "unseen" else None
        quota = limit * len(items) // len(task.items)
        kept |= {item.id for item in take_evenly(items, quota, seed=seed, contexts=turns)}
    if not kept:
        raise EquipoiseError(f"limit {limit} leaves no whole twin of task {task.name!r}")
    return task.with_items(item for item in task.items if item.id in kept)


def take_some(
    known: Sequence[Known], limit: int, seed: int, by: Callable[[Known], object]
) -> tuple[Known, ...]:
    """At most ``limit`` of things with an id, evenly over what they are about, in their order."""
    told: Counter[object] = Counter()
    turns: dict[str, tuple[int, int]] = {}
    for one in sorted(known, key=lambda one: unit_hash("subset", seed, one.id)):
        turns[one.id] = (told[by(one)], len(turns))
        told[by(one)] += 1
    kept = set(sorted(turns, key=turns.__getitem__)[:limit])
    return tuple(one for one in known if one.id in kept)


def take_evenly(
    items: Collection[Item], quota: int, *, seed: int, contexts: Collection[str] | None = None
) -> list[Item]:
    """At most ``quota`` of the items: whole twins, always one of the context least spoken about.

    Args:
        items: The items, of one split.
        quota: How many at most.
        seed: Which twins of a context are taken is a hash of seed and twin.
        contexts: Those that count; None: all.
    """
    twins = _twins(items)
    if contexts is None:
        contexts = _contexts(items)
    order = sorted(contexts)
    if len(order) > quota:  # not all have a turn: which, is no matter of the alphabet
        order.sort(key=lambda context: unit_hash("subset", seed, context))
    queues: dict[str, list[str]] = {context: [] for context in order}
    for twin in sorted(twins, key=lambda name: unit_hash("subset", seed, name), reverse=True):
        for context in _contexts(twins[twin]) & set(queues):
            queues[context].append(twin)
    said = dict.fromkeys(queues, 0)
    taken: set[str] = set()
    size = 0
    while queues:
        context = min(queues, key=said.__getitem__)
        if not queues[context]:
            del queues[context]
            continue
        twin = queues[context].pop()
        if twin in taken or size + len(twins[twin]) > quota:
            continue
        taken.add(twin)
        size += len(twins[twin])
        for named in _contexts(twins[twin]) & set(said):
            said[named] += 1
    return [item for item in items if (item.twin) in taken]


def _twins(items: Collection[Item]) -> dict[str, list[Item]]:
    twins: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        twins[item.twin].append(item)
    return twins


def _contexts(items: Collection[Item]) -> set[str]:
    """What the items speak about; those that name nothing share the empty context."""
    return {context for item in items for context in item.contexts or ("",)}
