"""The plane of bias against accuracy: the price of every strength of every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from equipoise.report.drawing import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Chart,
    Curve,
    Mark,
    axis,
    ends,
    line,
)
from equipoise.report.numbers import strength, with_interval
from equipoise.report.view import BIAS, UNAMBIGUOUS, Measure, Metric, Row, Study, capability


def plane(many: Sequence[Study]) -> Chart | None:
    """Bias against accuracy, a point for every strength of every study.

    Accuracy is the unambiguous accuracy, or the first capability that is one where the task has
    no unambiguous items; None where there is neither.
    """
    names = dict.fromkeys(name for study in many for name in study.capabilities)
    for measure in (UNAMBIGUOUS, *map(capability, names)):
        pairs = [(study, _pairs(study, measure)) for study in many]
        known = [(x, y) for _, points in pairs for _, x, y in points]
        if known and not any(x.perplexity for x, _ in known):
            break
    else:
        return None
    height = 400 if len(many) > 1 else 330
    x = axis(ends(x for x, _ in known), LEFT, WIDTH - RIGHT, span=0.05, limits=(0, 1))
    y = axis([0.0, *ends(y for _, y in known)], height - BOTTOM, TOP, limits=(0, 1))
    curves = tuple(
        Curve(
            key=f"m{index}",
            label=study.method,
            path=line([(x.at(a.estimate), y.at(b.estimate)) for _, a, b in points]),
            band="",
            marks=tuple(_plane_mark(study, row, a, b, x, y) for row, a, b in points),
        )
        for index, (study, points) in enumerate(pairs)
    )
    return Chart(
        title="Bias against accuracy",
        summary="Every point is a strength, with intervals both ways; lower right is better.",
        x=x,
        y=y,
        x_label=f"{measure.label.lower()} →",
        y_label="per-occupation bias, by probability",
        curves=curves,
        columns=(),
        height=height,
    )


def pareto_path(chart: Chart, many: Sequence[Study], names: Sequence[str]) -> str:
    """The line through the shown points of the methods on the Pareto front."""
    front = []
    for study, curve in zip(many, chart.curves, strict=True):
        at = [mark for mark in curve.marks if mark.strength == study.shown.strength]
        if study.method in names and at:
            front.append((at[0].x, at[0].y))
    return line(sorted(front)) if len(front) > 1 else ""


def label_places(chart: Chart, many: Sequence[Study]) -> list[tuple[float, float, str, str]]:
    """(x, y, anchor, text) of a label for each method beside its shown point, none overlapping."""
    wanted: Mapping[str, Mark] = {
        study.method: mark
        for study, curve in zip(many, chart.curves, strict=True)
        for mark in curve.marks
        if mark.strength == study.shown.strength
    }
    places: list[tuple[float, float, str, str]] = []
    for name, mark in sorted(wanted.items(), key=lambda entry: entry[1].y):
        right = mark.x < chart.x.stop - 110
        y = mark.y - 8
        while any(
            abs(y - other) < 15 and (anchor == "start") == right for _, other, anchor, _ in places
        ):
            y += 3
        places.append((mark.x + (9 if right else -9), y, "start" if right else "end", name))
    return places


def _pairs(study: Study, measure: Measure) -> list[tuple[Row, Metric, Metric]]:
    return [
        (row, accuracy, bias)
        for row in study.rows
        if (accuracy := row.metric(measure)) and (bias := row.metric(BIAS))
    ]


def _plane_mark(study: Study, row: Row, accuracy: Metric, bias: Metric, x: Axis, y: Axis) -> Mark:
    def at(end: float | None, on: Axis) -> float | None:
        return None if end is None else on.at(end)

    title = (
        f"{study.method}, ω = {strength(row.strength)}: bias {with_interval(bias)}, "
        f"accuracy {with_interval(accuracy)}"
    )
    return Mark(
        x=x.at(accuracy.estimate),
        y=y.at(bias.estimate),
        strength=row.strength,
        title=title,
        x_low=at(accuracy.low, x),
        x_high=at(accuracy.high, x),
        y_low=at(bias.low, y),
        y_high=at(bias.high, y),
    )
