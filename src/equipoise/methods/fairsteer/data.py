"""What a fit sees: items labelled by the unsteered model's answers, and anchors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np

from equipoise.decisions.activations import Prompt, decide_and_read
from equipoise.decisions.decide import Progress
from equipoise.decisions.score import Normalise
from equipoise.errors import EquipoiseError
from equipoise.methods.fairsteer.config import FairSteerConfig
from equipoise.methods.fairsteer.labels import AMBIGUOUS, UNAMBIGUOUS, kinds_of
from equipoise.methods.gating.examples import POSITIVE, Examples
from equipoise.methods.gating.kinds import Kinds
from equipoise.methods.method import Anchors, FitRequest
from equipoise.models import Model
from equipoise.tasks.item import Item, Task
from equipoise.tasks.subset import take_evenly

T = TypeVar("T")
OWN_KINDS = frozenset({AMBIGUOUS, UNAMBIGUOUS})
"""Kinds of unbiased prompts of the task itself: those that look most like the biased ones."""
_TRAIN_SHARE = 0.8


@dataclass(frozen=True)
class Pool:
    """The prompts of one side of the split.

    Attributes:
        items: The task's items that have sides.
        anchors: Prompts of other origin, by kind; unbiased whatever the model answers.
    """

    items: tuple[Item, ...]
    anchors: dict[str, list[Prompt]]

    def __len__(self) -> int:
        return len(self.items) + sum(map(len, self.anchors.values()))


@dataclass(frozen=True)
class Reading:
    """A pool as the unsteered model reads it.

    Attributes:
        examples: Prompts with a label, at S sites.
        ambiguous: All ambiguous items, those without a label too, at the same sites.
    """

    examples: Examples
    ambiguous: Examples


def pools(request: FitRequest, config: FairSteerConfig) -> tuple[Pool, Pool]:
    """The prompts to fit on and those to choose and judge by.

    Raises:
        EquipoiseError: The task has no items with sides to fit on, or ``max_items`` leaves none.
    """
    task = request.task
    if config.splits == "released":
        sides = _released(request)
    else:
        sides = (
            _Side(task.split("train"), request.anchors),
            _Side(task.split("validation"), request.held_out_anchors),
        )
    kinds = Kinds.of(task, sides[0].anchors)
    train, held_out = (_pool(side, kinds) for side in sides)
    if not train.items:
        raise EquipoiseError(
            f"task {task.name!r}: no item of its train split has sides (pro, anti, abstain); "
            "fairsteer needs them to tell a stereotyped answer"
        )
    if config.max_items is None:
        return train, held_out
    return _limited(train, config, request.seed), _limited(held_out, config, request.seed)


def read(
    model: Model,
    pool: Pool,
    sites: Sequence[str],
    normalise: Normalise = "sum",
    progress: Progress | None = None,
) -> Reading:
    """Decide a pool's items and read all its prompts, at S sites.

    ``progress`` is called with the number of prompts just read.
    """
    decisions, h = decide_and_read(model, pool.items, sites, normalise=normalise, progress=progress)
    kinds = kinds_of(decisions)
    labelled = [i for i, kind in enumerate(kinds) if kind is not None]
    ambiguous = [i for i, item in enumerate(pool.items) if item.ambiguous]
    values = h.numpy()
    own = Examples.of(
        values[labelled],
        [pool.items[i] for i in labelled],
        [str(kinds[i]) for i in labelled],
    )
    anchors = Examples.read(model, (), pool.anchors, sites)
    if progress is not None:
        progress(len(anchors))
    open_ones = [pool.items[i] for i in ambiguous]
    return Reading(
        own + anchors,
        Examples.of(values[ambiguous], open_ones, [POSITIVE] * len(open_ones)),
    )


def refuse_one_class(examples: Examples, task: Task) -> None:
    """Stop where there is nothing to tell apart.

    Raises:
        EquipoiseError: The model's answers on the train split are all stereotyped, or none is.
    """
    stereotyped, n = int((examples.kinds == POSITIVE).sum()), len(examples)
    if 0 < stereotyped < n:
        return
    which = "no answer is stereotyped" if stereotyped == 0 else "every answer is stereotyped"
    raise EquipoiseError(
        f"fairsteer: {which} among {n} labelled prompts of task {task.name!r}: a probe cannot "
        "learn from one class; add items or anchors, or set gate=off and a layer"
    )


class _Side(NamedTuple):
    """One side of a split: the task's items, and prompts on which nothing should change."""

    items: tuple[Item, ...]
    anchors: Anchors


def _pool(side: _Side, kinds: Kinds) -> Pool:
    sided = tuple(item for item in side.items if item.sides)
    # Unambiguous items with sides are labelled by their answers; those without are anchors.
    mine = frozenset(sided)
    others = tuple(item for item in side.anchors.items if item not in mine)
    return Pool(sided, kinds.sort(replace(side.anchors, items=others)))


def _released(request: FitRequest) -> tuple[_Side, _Side]:
    """80 : 20 at random over all items, whatever their split or twin [C]."""
    rng = np.random.default_rng(request.seed)
    first, second = request.anchors, request.held_out_anchors
    own = frozenset(request.task.items)
    strangers = [item for item in (*first.items, *second.items) if item not in own]
    items, more = _cut(request.task.items, rng), _cut(strangers, rng)
    texts = _cut((*first.texts, *second.texts), rng)
    sources = {**first.sources, **second.sources}

    def side(k: int) -> _Side:
        plain = tuple(item for item in items[k] if not item.sides and not item.ambiguous)
        return _Side(items[k], Anchors((*plain, *more[k]), texts[k], sources))

    return side(0), side(1)


def _cut(values: Sequence[T], rng: np.random.Generator) -> tuple[tuple[T, ...], tuple[T, ...]]:
    order = rng.permutation(len(values))
    edge = round(_TRAIN_SHARE * len(values))
    return tuple(values[i] for i in order[:edge]), tuple(values[i] for i in order[edge:])


def _limited(pool: Pool, config: FairSteerConfig, seed: int) -> Pool:
    limit = config.max_items or len(pool.items)
    if len(pool.items) <= limit:
        return pool
    kept = take_evenly(pool.items, limit, seed=seed)
    if not kept:
        raise EquipoiseError(
            f"fairsteer: max_items={limit} leaves no item: twins stay whole, and none has {limit} "
            "items or less; raise max_items"
        )
    return Pool(tuple(kept), pool.anchors)
