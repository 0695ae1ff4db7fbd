"""Axes, curves and marks in drawing units; templates turn them into SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from equipoise.report.numbers import number
from equipoise.report.view import Metric

# One unit is a CSS pixel where a chart is drawn at its natural width.
WIDTH = 520
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 14, 44
_LEAST = 1e-6  # of a range: beyond it ticks would need more digits than floats have


@dataclass(frozen=True)
class Axis:
    """A linear axis from data to drawing units.

    Attributes:
        low: Data value at ``start``.
        high: Data value at ``stop``.
        start: Drawing coordinate of ``low``.
        stop: Drawing coordinate of ``high`` (smaller than ``start`` on a vertical axis).
        ticks: (coordinate, text) pairs.
    """

    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        """Coordinate of a value, kept within the axis."""
        share = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)
        return round(self.start + share * (self.stop - self.start), 1)


def axis(
    values: Iterable[float],
    start: float,
    stop: float,
    *,
    span: float = 0.0,
    limits: tuple[float, float] = (-math.inf, math.inf),
    steps: int = 5,
) -> Axis:
    """An axis around some values, with round ends and round ticks.

    Args:
        values: What must be seen.
        start: Coordinate of the low end.
        stop: Coordinate of the high end.
        span: The least range of data shown, so that noise is not drawn as a mountain.
        limits: Values the axis never passes (0 and 1 for shares).
        steps: About how many intervals the ticks make; never more than one above it.
    """
    known = list(values) or [0.0, 1.0]
    low, high = min(known), max(known)
    missing = max(max(span, _LEAST) - (high - low), 0.0)
    low, high = low - missing / 2, high + missing / 2
    if low < limits[0]:
        low, high = limits[0], max(high, limits[0] + span)
    if high > limits[1]:
        low, high = min(low, limits[1] - span), limits[1]
    step = _round_step((high - low) / steps)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    low, high = first * step, last * step
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    places += round(step * 10**places, 6) != round(step * 10**places)
    drawn = Axis(low, high, start, stop, ())
    marks = [k * step for k in range(first, last + 1)]
    return Axis(low, high, start, stop, tuple((drawn.at(m), number(m, places)) for m in marks))


def _round_step(raw: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= raw * (1 - 1e-9))


@dataclass(frozen=True)
class Mark:
    """One measured point with its error bars, in drawing units."""

    x: float
    y: float
    strength: float
    title: str
    x_low: float | None = None
    x_high: float | None = None
    y_low: float | None = None
    y_high: float | None = None


@dataclass(frozen=True)
class Curve:
    """A series: the path through its marks and the band of its intervals."""

    key: str
    label: str
    path: str
    band: str
    marks: tuple[Mark, ...]
    shown: bool = True


@dataclass(frozen=True)
class Chart:
    """Everything a template needs to draw one chart.

    Attributes:
        title: Short heading.
        summary: One sentence for readers who do not see the drawing.
        x: Horizontal axis.
        y: Vertical axis.
        x_label: What the horizontal axis shows.
        y_label: What the vertical axis shows.
        curves: The series.
        columns: (strength, x, left, width) of every swept strength, where x is ω.
        height: Height in drawing units (the width is ``WIDTH``).
    """

    title: str
    summary: str
    x: Axis
    y: Axis
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    columns: tuple[tuple[float, float, float, float], ...]
    height: int

    @property
    def width(self) -> int:
        """Width in drawing units."""
        return WIDTH


def line(points: Sequence[tuple[float, float]]) -> str:
    """An SVG path through points, empty for none."""
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in points) if points else ""


def ends(metrics: Iterable[Metric]) -> list[float]:
    """Everything an axis must hold: estimates and the ends of their intervals."""
    triples = [(metric.low, metric.estimate, metric.high) for metric in metrics]
    return [value for triple in triples for value in triple if value is not None]
