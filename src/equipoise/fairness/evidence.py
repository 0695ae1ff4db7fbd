"""From decisions to evidence: one row per twin and context, one column per group."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from equipoise.decisions.decision import Decisions
from equipoise.errors import EquipoiseError
from equipoise.tasks.item import Item

SIDES = ("pro", "anti")


@dataclass(frozen=True)
class Evidence:
    """What the twins say about the contexts (R rows, C contexts, G groups).

    Attributes:
        contexts: Names of the C contexts, sorted.
        groups: Names of the G groups; (``pro``, ``anti``) for items with sides.
        context: int [R], index into ``contexts``; rows are sorted by context, then twin.
        twin: int [R], 0..T-1; a twin has one row in each context it speaks about.
        deviation: float64 [R, G], share of each group less its wanted part of the answered share;
            each row sums to 0. Items of the twin are averaged.
        answered: float64 [R], share that picks some group (does not abstain).
        offered: int [C], number of groups the items of a context offer (its K).
        farthest: float64 [C], no answers can be further from the target than this, in total
            variation (1 − 1/K for equal shares).
        links: int [P, 2], which item (first column) is evidence on which context (second).
    """

    contexts: tuple[str, ...]
    groups: tuple[str, ...]
    context: np.ndarray
    twin: np.ndarray
    deviation: np.ndarray
    answered: np.ndarray
    offered: np.ndarray
    farthest: np.ndarray
    links: np.ndarray


def option_probabilities(decisions: Decisions, temperature: float = 1.0) -> np.ndarray:
    """``Decisions.probabilities`` of checked input.

    Returns:
        float64 [n, k], rows summing to 1; one-hot at temperature 0.

    Raises:
        EquipoiseError: On a negative temperature, a score that is NaN or +inf, or an item none of
            whose options has a finite score.
    """
    if not temperature >= 0 or np.isinf(temperature):
        raise EquipoiseError(f"temperature {temperature} is not a number ≥ 0")
    scores = decisions.scores
    wrong = np.isnan(scores) | (scores == np.inf)
    bad = wrong.any(axis=1) | ~np.isfinite(scores).any(axis=1)
    if bad.any():
        item = decisions.items[int(bad.argmax())]
        why = "the model diverged, lower the strength"
        if decisions.strength == 0:
            why = "the model does so unsteered: load it in another dtype, or with another attention"
        raise EquipoiseError(
            f"item {item.id!r} at strength {decisions.strength:g}: its option scores are not "
            f"log-probabilities (NaN, +inf or all −inf); {why}"
        )
    return decisions.probabilities(temperature)


def cluster_index(keys: Iterable[Hashable]) -> np.ndarray:
    """Number the keys in order of first appearance: int [n], without gaps."""
    numbers: dict[Hashable, int] = {}
    return np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), dtype=int)


def twin_index(items: Iterable[Item]) -> np.ndarray:
    """The twin each item belongs to: int [n], 0..T-1 (an item without a twin is its own)."""
    return cluster_index(item.twin for item in items)


def option_groups(item: Item) -> tuple[str | None, ...] | None:
    """The group each option of an item picks, or None where the item cannot show a bias.

    Sides are the two groups ``pro`` and ``anti``; an item with ``groups`` must offer two of them.
    """
    if item.sides is not None:
        groups = tuple(side if side in SIDES else None for side in item.sides)
        return groups if any(groups) else None
    if item.groups is not None and len(set(item.groups) - {None}) > 1:
        return item.groups
    return None


def collect(
    decisions: Decisions,
    probabilities: np.ndarray,
    *,
    contexts: Collection[str] | None = None,
    target: Mapping[str, float] | None = None,
) -> Evidence | None:
    """Average the items of each twin within each context.

    An item's wanted share of a group is the target over the groups *that item offers*, so that a
    design with pairs out of K groups is not held against the model.

    Args:
        decisions: Whose items; those without sides, groups or contexts are passed over.
        probabilities: float64 [n, k] of :func:`option_probabilities`.
        contexts: Only these (None: all).
        target: Wanted share of each group (None: equal); sides always aim at equal shares.

    Returns:
        The evidence, or None if no item is evidence on any of the contexts.

    Raises:
        EquipoiseError: The target does not name an offered group, or gives all of them 0.
    """
    used: list[tuple[int, tuple[str | None, ...], list[str]]] = []
    for index, item in enumerate(decisions.items):
        groups = option_groups(item)
        named = [c for c in dict.fromkeys(item.contexts) if contexts is None or c in contexts]
        if groups is not None and named:
            used.append((index, groups, named))
    if not used:
        return None

    found = {group for _, groups, _ in used for group in groups if group is not None}
    names = SIDES if found <= set(SIDES) else tuple(sorted(found))
    kinds: dict[tuple[str | None, ...], _Kind] = {}
    shares = np.zeros((len(used), len(names)))
    wanted, offered = np.zeros_like(shares), np.zeros_like(shares, dtype=bool)
    for row, (index, groups, _) in enumerate(used):
        if groups not in kinds:
            kinds[groups] = _kind(decisions.items[index], groups, names, target)
        kind = kinds[groups]
        shares[row] = probabilities[index, : len(groups)] @ kind.incidence
        wanted[row], offered[row] = kind.wanted, kind.offered
    answered = shares.sum(axis=1)
    deviation = shares - wanted * answered[:, None]

    context_names = tuple(sorted({name for _, _, named in used for name in named}))
    number = {name: position for position, name in enumerate(context_names)}
    source = np.array([row for row, (_, _, named) in enumerate(used) for _ in named])
    context = np.array([number[name] for _, _, named in used for name in named])
    twins = twin_index(decisions.items[index] for index, _, _ in used)
    stride = int(twins.max()) + 1
    # One key per (context, twin): the rows come out sorted by context, then by twin.
    keys, cell = np.unique(context * stride + twins[source], return_inverse=True)
    size = np.bincount(cell)
    in_context = np.zeros((len(context_names), len(names)), dtype=bool)
    farthest = np.zeros(len(context_names))
    np.logical_or.at(in_context, context, offered[source])
    item_farthest = 1 - np.where(offered, wanted, 1.0).min(axis=1)
    np.maximum.at(farthest, context, item_farthest[source])
    return Evidence(
        contexts=context_names,
        groups=names,
        context=keys // stride,
        twin=keys % stride,
        deviation=sums(deviation[source], cell, len(keys)) / size[:, None],
        answered=np.bincount(cell, weights=answered[source]) / size,
        offered=in_context.sum(axis=1),
        farthest=farthest,
        links=np.stack([np.array([index for index, _, _ in used])[source], context], axis=1),
    )


def sums(rows: np.ndarray, index: np.ndarray, count: int) -> np.ndarray:
    """float64 [count, G]: the sum of the rows (float [n, G]) of each index (int [n])."""
    return np.stack([np.bincount(index, weights=part, minlength=count) for part in rows.T], axis=1)


@dataclass(frozen=True)
class _Kind:
    """What items with the same groups, option by option, have in common.

    Attributes:
        incidence: float64 [options, G], 1 where an option picks a group.
        offered: bool [G].
        wanted: float64 [G], the target over the offered groups; sums to 1.
    """

    incidence: np.ndarray
    offered: np.ndarray
    wanted: np.ndarray


def _kind(
    item: Item,
    groups: tuple[str | None, ...],
    names: tuple[str, ...],
    target: Mapping[str, float] | None,
) -> _Kind:
    incidence = np.array([[float(group == name) for name in names] for group in groups])
    # An item with sides compares pro with anti even where it offers one of them only.
    sided = item.sides is not None
    offered = np.asarray(incidence.any(axis=0) | sided)
    if target is None or sided:
        target = dict.fromkeys(names, 1.0)
    missing = [names[column] for column in np.flatnonzero(offered) if names[column] not in target]
    if missing:
        raise EquipoiseError(f"item {item.id!r} offers group {missing[0]!r}: no target share")
    wanted = np.array([target.get(name, 0.0) for name in names]) * offered
    if not (wanted >= 0).all() or not 0 < wanted.sum() < np.inf:
        raise EquipoiseError(
            f"item {item.id!r}: the target shares of its groups must be ≥ 0 with a positive sum"
        )
    return _Kind(incidence, offered, wanted / wanted.sum())
