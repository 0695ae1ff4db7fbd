"""Charts of one study against ω, and of its fit against the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

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
from equipoise.report.view import (
    BIAS,
    FAIR,
    GREEDY,
    HELD_OUT,
    UNAMBIGUOUS,
    Measure,
    Metric,
    Row,
    Study,
    capability,
    finite,
)

SMALL = 230
"""Height of the charts that come several in a row: fewer ticks, larger text."""


def bias_chart(study: Study) -> Chart | None:
    """Bias against ω: by probability, greedy, fair decoding, held-out; None if all undefined.

    The plug-in and its parity level come with it, hidden at first: they are on another footing
    than the de-biased estimates.
    """
    wanted = (BIAS, GREEDY, FAIR, HELD_OUT)
    series: list[tuple[str, str, list[tuple[Row, Metric]], bool]] = [
        (m.key, _short(m), _points(study, m), True) for m in wanted
    ]
    for key, field, label in (
        ("plug-in", "plug_in", "plug-in, as papers print it"),
        ("parity", "parity", "parity level of the plug-in"),
    ):
        numbers = [(row, row.number(*BIAS.path, field)) for row in study.rows]
        told = [(row, Metric(v, None, None, {})) for row, v in numbers if v is not None]
        series.append((key, label, told, key == "parity"))
    if not any(points for _, _, points, _ in series):
        return None
    return _against_strength(
        study,
        "Bias against strength",
        "per-occupation bias",
        series,
        height=330,
        floor=0.0,
        span=0.05,
    )


def kept_charts(study: Study) -> list[Chart]:
    """Unambiguous accuracy and every capability against ω, one small chart each."""
    measures = [UNAMBIGUOUS, *map(capability, study.capabilities)]
    charts = []
    for measure in measures:
        points = _points(study, measure)
        if not points:
            continue
        perplexity = points[0][1].perplexity
        charts.append(
            _against_strength(
                study,
                measure.label,
                "perplexity, lower is better" if perplexity else "accuracy",
                [("kept", measure.label, points, True)],
                height=SMALL,
                span=points[0][1].estimate / 5 if perplexity else 0.1,
                ceiling=math.inf if perplexity else 1.0,
            )
        )
    return charts


def fit_charts(study: Study) -> list[Chart]:
    """The fit's own course: bias and abstention, and both KLs, against the step."""
    fit = study.results.get("fit") or {}
    history = [step for step in fit.get("history") or () if finite(step.get("step")) is not None]
    if len(history) < 2:
        return []
    charts = []
    for title, y_label, fields in (
        ("Bias and abstention over the fit", "share", ("bias", "abstention")),
        ("KL to the unsteered model", "nat", ("kl_ambiguous", "kl_anchor")),
        ("Reward over the fit", "reward", ("reward",)),
    ):
        lines = {
            field: [
                (float(s["step"]), v) for s in history if (v := finite(s.get(field))) is not None
            ]
            for field in fields
        }
        drawn = {field: points for field, points in lines.items() if len(points) > 1}
        if not drawn:
            continue
        x = axis((float(s["step"]) for s in history), LEFT, WIDTH - RIGHT)
        y = axis(
            [0.0, *(v for line in drawn.values() for _, v in line)], SMALL - BOTTOM, TOP, steps=3
        )
        curves = tuple(
            Curve(
                f"fit{i}",
                field.replace("_", ", "),
                line([(x.at(a), y.at(b)) for a, b in p]),
                "",
                (),
            )
            for i, (field, p) in enumerate(drawn.items())
        )
        charts.append(
            Chart(
                title, f"{title}, {len(history)} steps.", x, y, "step", y_label, curves, (), SMALL
            )
        )
    return charts


def _short(measure: Measure) -> str:
    return measure.label.removeprefix("Bias, ")


def _points(study: Study, measure: Measure) -> list[tuple[Row, Metric]]:
    return [(row, metric) for row in study.rows if (metric := row.metric(measure))]


def _against_strength(
    study: Study,
    title: str,
    y_label: str,
    series: Sequence[tuple[str, str, list[tuple[Row, Metric]], bool]],
    *,
    height: int,
    span: float = 0.0,
    floor: float | None = None,
    ceiling: float = 1.0,
) -> Chart:
    strengths = [row.strength for row in study.rows]
    values = ends(metric for _, _, points, _ in series for _, metric in points)
    x = axis(strengths, LEFT, WIDTH - RIGHT, span=0.0 if len(strengths) > 1 else 1.0)
    y = axis(
        values if floor is None else [floor, *values],
        height - BOTTOM,
        TOP,
        span=span,
        limits=(0.0, ceiling),
        steps=5 if height > SMALL else 3,
    )
    curves = tuple(
        _curve(key, label, points, x, y, shown) for key, label, points, shown in series if points
    )
    told = "; ".join(
        f"{label}: {with_interval(points[0][1])} at ω = {strength(points[0][0].strength)}, "
        f"{with_interval(points[-1][1])} at ω = {strength(points[-1][0].strength)}"
        for _, label, points, _ in series
        if points
    )
    return Chart(
        title, f"{told}.", x, y, "strength ω", y_label, curves, _columns(strengths, x), height
    )


def _curve(
    key: str,
    label: str,
    points: list[tuple[Row, Metric]],
    x: Axis,
    y: Axis,
    shown: bool,
) -> Curve:
    marks = tuple(
        Mark(
            x=x.at(row.strength),
            y=y.at(metric.estimate),
            strength=row.strength,
            title=f"{label}, ω = {strength(row.strength)}: {with_interval(metric)}",
            y_low=None if metric.low is None else y.at(metric.low),
            y_high=None if metric.high is None else y.at(metric.high),
        )
        for row, metric in points
    )
    upper = [(mark.x, mark.y_high) for mark in marks if mark.y_high is not None]
    lower = [(mark.x, mark.y_low) for mark in marks if mark.y_low is not None]
    band = f"{line(upper + lower[::-1])}Z" if len(upper) > 1 and len(lower) > 1 else ""
    return Curve(key, label, line([(mark.x, mark.y) for mark in marks]), band, marks, shown)


def _columns(strengths: Sequence[float], x: Axis) -> tuple[tuple[float, float, float, float], ...]:
    """A strip around every strength, halfway to its neighbours: a click there selects it."""
    centres = [x.at(value) for value in strengths]
    edges = [
        x.start,
        *((a + b) / 2 for a, b in pairwise(centres)),
        x.stop,
    ]
    return tuple(
        (value, centre, round(left, 1), round(right - left, 1))
        for value, centre, left, right in zip(strengths, centres, edges, edges[1:], strict=False)
    )
