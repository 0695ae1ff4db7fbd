"""Choosing ω: the lowest bias whose price, at its upper confidence limit, fits the budget."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from equipoise.errors import EquipoiseError
from equipoise.fairness.interval import paired_upper_limit

Row = Mapping[str, Any]

LEAST = 5e-4
"""A bias that falls by less than this, which no figure shows, has not been lowered."""

ALL_ABSTAIN = 0.999
"""From this rate of abstention on no answer is left to compare."""


@dataclass(frozen=True)
class Choice:
    """A recommended strength.

    Attributes:
        strength: ω; 0 if no other fits.
        rule: In words: what was asked for, and why this strength.
        bias: The bias estimate there (interpolated if ``interpolated``), None if unknown.
        limits: Upper 95 % limit of each drop there, by name.
        interpolated: Whether the strength lies between swept ones, where nothing was measured.
    """

    strength: float
    rule: str
    bias: float | None
    limits: dict[str, float]
    interpolated: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The ``chosen`` object of ``results.json``."""
        return {
            "strength": self.strength,
            "rule": self.rule,
            "bias": self.bias,
            "limits": dict(self.limits),
            "interpolated": self.interpolated,
        }


def choose_strength(
    rows: Sequence[Row],
    max_drop: float,
    *,
    interpolate: bool = False,
    metric: str = "per_occupation_bias",
) -> Choice:
    """Pick the lowest bias among the strengths that fit a budget.

    A strength fits if the paired drop of every capability and of the unambiguous accuracy has an
    upper 95 % limit ≤ ``max_drop``. What the task cannot tell (a null metric) is no constraint; a
    metric without a drop is one that cannot be met.

    Args:
        rows: ``sweep`` rows (:func:`~equipoise.fairness.summarise`), in any order.
        max_drop: The budget, as a share (.01 is one point).
        interpolate: Also consider the strengths between two swept ones, taking the bias and the
            limits as linear in between; the limit of an accuracy is at least the one that
            unchanged answers have.
        metric: The bias to lower.

    Returns:
        The choice. Of equal estimates the one with the lower upper limit, then the strength nearer
        0. Strength 0 where nothing fits, nothing was measured, or nothing is better by ``LEAST``.

    Raises:
        EquipoiseError: ``max_drop`` is not a number in [0, 1].
    """
    check_budget(max_drop)
    points = _points(rows, metric)
    asked = f"lowest {metric} with upper 95 % limits of the drops ≤ {max_drop:g}"
    stay = next((p for p in points if p.strength == 0), _Point(0.0, None, None, {}, {}))

    def none(why: str) -> Choice:
        return Choice(0.0, f"{asked}: {why}; strength 0 recommended", stay.bias, {})

    known = [p for p in points if p.bias is not None]
    steered = [p for p in known if p.strength != 0]
    if not steered:
        unknown = next((row for row in rows if row["strength"] != 0), None)
        if unknown is None:
            return none("no strength but 0 was swept")
        where = "no strength but 0" if known else "no strength"
        return none(f"{metric} is known at {where} ({why_undefined(unknown)})")
    if not any(p.limits for p in steered):
        return none("no capability or unambiguous item is among what a strength is chosen by")
    candidates = [p for p in known if p.strength == 0 or p.fits(max_drop)]
    if interpolate:
        for left, right in itertools.pairwise(known):
            candidates += _between(left, right, max_drop)
    if all(p.strength == 0 for p in candidates):
        return none(_closest(steered))
    best = min(candidates, key=lambda p: (p.bias, p.high, abs(p.strength)))
    if best.strength == 0:
        return none("no strength that fits lowers the bias")
    if stay.bias is not None and best.bias is not None and stay.bias - best.bias < LEAST:
        return none(f"no strength that fits lowers the bias by {LEAST:g}, the least that shows")
    inside = best.strength not in {p.strength for p in known}
    limits = {name: limit for name, limit in best.limits.items() if limit is not None}
    worst = max(limits, key=limits.__getitem__)
    rule = f"{asked}: the largest is {worst}'s, {limits[worst]:.4f}"
    if inside:
        rule += " (interpolated between swept strengths, not measured)"
    return Choice(best.strength, rule, best.bias, limits, inside)


def check_budget(max_drop: float) -> None:
    """Make sure of a budget before the work whose outcome it judges.

    Raises:
        EquipoiseError: Not a number in [0, 1].
    """
    if not 0 <= max_drop <= 1:
        raise EquipoiseError(f"a capability drop of {max_drop} is not a share in [0, 1]")


def why_undefined(row: Row) -> str:
    """Why a row has no bias, as a clause."""
    contexts = (row.get("by_occupation") or {}).values()
    if contexts and all(context.get("twins") == 1 for context in contexts):
        return (
            "every occupation has a single twin here, and one twin has no variance: give more "
            "items, or a larger limit"
        )
    if ((row.get("abstention") or {}).get("estimate") or 0) > ALL_ABSTAIN:
        return "every answer abstains"
    return "no occupation has two twins with answers to compare"


@dataclass(frozen=True)
class _Point:
    """What the choice needs of a row; a limit of None is a drop that was not measured.

    ``unchanged`` are the limits of measurements in which no answer differs from the base's.
    """

    strength: float
    bias: float | None
    high: float | None
    limits: dict[str, float | None]
    unchanged: dict[str, float]

    def fits(self, max_drop: float) -> bool:
        return all(limit is not None and limit <= max_drop for limit in self.limits.values())


def _points(rows: Sequence[Row], metric: str) -> list[_Point]:
    """The rows by rising strength, each with a limit for every metric that any row measures."""
    measured = [
        {"unambiguous_accuracy": row.get("unambiguous_accuracy"), **(row.get("capability") or {})}
        for row in rows
    ]
    names = sorted({name for values in measured for name, value in values.items() if value})
    points = []
    for row, values in zip(rows, measured, strict=True):
        strength, bias = float(row["strength"]), row.get(metric) or {}
        limits: dict[str, float | None] = {
            name: ((values.get(name) or {}).get("drop") or {}).get("high") for name in names
        }
        if strength == 0:  # The base against itself.
            limits = dict.fromkeys(names, 0.0)
        unchanged = {name: _unchanged(values.get(name) or {}) for name in names}
        points.append(_Point(strength, bias.get("estimate"), bias.get("high"), limits, unchanged))
    return sorted(points, key=lambda point: point.strength)


def _unchanged(metric: Mapping[str, Any]) -> float:
    """Upper limit of an accuracy's drop while no answer changes; a perplexity moves smoothly."""
    n = metric.get("n")
    return paired_upper_limit(0, 0, n) if n and metric.get("unit") != "perplexity" else 0.0


def _between(left: _Point, right: _Point, max_drop: float) -> list[_Point]:
    """The ends of the part of a segment that fits: a linear bias is lowest at one of them."""
    if any(limit > max_drop for limit in (left.unchanged | right.unchanged).values()):
        return []
    start, stop = 0.0, 1.0
    for at, to in zip(left.limits.values(), right.limits.values(), strict=True):
        if at is None or to is None:
            return []
        if max(at, to) <= max_drop:
            continue
        if min(at, to) > max_drop:
            return []
        crossing = (max_drop - at) / (to - at)
        start, stop = (start, min(stop, crossing)) if to > at else (max(start, crossing), stop)
    return [_mix(left, right, share) for share in {start, stop} if start <= stop and 0 < share < 1]


def _mix(left: _Point, right: _Point, share: float) -> _Point:
    def line(at: float | None, to: float | None) -> float | None:
        return None if at is None or to is None else at + share * (to - at)

    limits = {name: line(limit, right.limits[name]) for name, limit in left.limits.items()}
    return _Point(
        left.strength + share * (right.strength - left.strength),
        line(left.bias, right.bias),
        line(left.high, right.high),
        {n: None if up is None else max(up, right.unchanged[n]) for n, up in limits.items()},
        right.unchanged,
    )


def _closest(steered: Sequence[_Point]) -> str:
    """Why no strength fits: the one that misses by least, and what it misses."""
    unmeasured = sorted({n for p in steered for n, limit in p.limits.items() if limit is None})
    measured = [p for p in steered if None not in p.limits.values()]
    if not measured:
        return f"the drop of {', '.join(unmeasured)} was not measured against strength 0"
    tops = [
        (max((up, name) for name, up in p.limits.items() if up is not None), p) for p in measured
    ]
    (limit, name), point = min(tops, key=lambda top: (top[0][0], abs(top[1].strength)))
    return (
        f"no swept strength fits; the nearest, {point.strength:g}, has {limit:.4f} for {name} "
        "(fewer items give wider limits)"
    )
