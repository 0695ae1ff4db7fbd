"""The numbers of a study as rows of text: the scorecard, and the table of everything."""

from __future__ import annotations

from dataclasses import dataclass

from equipoise.report.benchmark import benchmark_figures
from equipoise.report.numbers import MISSING, estimate, interval, number, plug_in
from equipoise.report.view import (
    ABSTENTION,
    BIAS,
    BIAS_MEASURES,
    FAIR_UNAMBIGUOUS,
    HELD_OUT_UNAMBIGUOUS,
    MASS,
    UNAMBIGUOUS,
    Measure,
    Metric,
    Study,
    capability,
)

_CERTIFIED = "… certified for sampled answers: change at most"


@dataclass(frozen=True)
class Tabulated:
    """One measure before and at every strength.

    Attributes:
        key: The measure's key.
        label: What a reader sees.
        aim: Which way is better.
        share: Whether it lies in [0, 1] and can be drawn there.
        n: Items it rests on, None if unknown.
        before: The unsteered metric.
        now: The metric at the strength shown first.
        script: [estimate, low, high, and as text: estimate, interval, plug-in] per row, or None.
    """

    key: str
    label: str
    aim: str
    share: bool
    n: int | None
    before: Metric | None
    now: Metric | None
    script: list[list[float | str | None] | None]


def scorecard(study: Study) -> list[Tabulated]:
    """Every measure the study can tell, before and at each strength."""
    lines = []
    for measure in study.measures:
        metrics = [row.metric(measure) for row in study.rows]
        told = next(metric for metric in metrics if metric)
        lines.append(
            Tabulated(
                key=measure.key,
                label=measure.label,
                aim="lower" if told.perplexity else measure.aim,
                share=not told.perplexity,
                n=told.n,
                before=study.base.metric(measure) if study.base else None,
                now=study.shown.metric(measure),
                script=[_for_script(metric) for metric in metrics],
            )
        )
    return lines


def _for_script(metric: Metric | None) -> list[float | str | None] | None:
    if metric is None:
        return None
    texts = (estimate(metric), interval(metric), plug_in(metric))
    return [metric.estimate, metric.low, metric.high, *texts]


@dataclass(frozen=True)
class Line:
    """A row of the table of everything: a label and (text, interval) per strength."""

    label: str
    cells: tuple[tuple[str, str], ...]

    @property
    def told(self) -> bool:
        """Whether any cell holds a number."""
        return any(text != MISSING for text, _ in self.cells)


def sections(study: Study) -> list[tuple[str, list[Line]]]:
    """The table of everything: (heading, rows), rows without a single number left out."""
    kept = [
        _metric(study, UNAMBIGUOUS),
        _drop(study, UNAMBIGUOUS),
        _number(study, _CERTIFIED, *UNAMBIGUOUS.path, "certificate"),
        _number(study, "… of the answered only", *UNAMBIGUOUS.path, "answered_only"),
        _number(study, "… share answered", *UNAMBIGUOUS.path, "coverage"),
    ]
    for measure in (FAIR_UNAMBIGUOUS, HELD_OUT_UNAMBIGUOUS):
        kept += [_metric(study, measure), _drop(study, measure)]
    for name in study.capabilities:
        measure = capability(name)
        kept += [
            _metric(study, measure),
            _drop(study, measure),
            _number(study, _CERTIFIED, *measure.path, "certificate"),
        ]
    classes = dict.fromkeys(name for row in study.rows for name in row.classes())
    table = [
        (
            "Bias",
            [
                *(_metric(study, measure) for measure in BIAS_MEASURES),
                _number(study, "Plug-in, by probability", *BIAS.path, "plug_in"),
                _number(study, "Parity level of the plug-in", *BIAS.path, "parity"),
                _number(study, "p of parity", *BIAS.path, "p_parity"),
            ],
        ),
        ("What must stay", kept),
        (
            "Against trivial rules",
            [
                _metric(study, ABSTENTION),
                _metric(study, MASS),
                _number(study, "… of the item where it is least", *MASS.path, "min"),
                _number(study, "Twin distance", "twins", "distance"),
                _number(study, "Twin flips, greedy", "twins", "greedy_flips"),
                _number(study, "Share: first option", "shares", "first_option"),
                _number(study, "Share: first option, greedy", "shares", "first_option_greedy"),
                *(
                    _number(study, f"Share: {name}{how}", "shares", kind, name)
                    for name in classes
                    for kind, how in (("classes", ""), ("classes_greedy", ", greedy"))
                ),
            ],
        ),
        (
            "Distance from the unsteered model, nat",
            [
                _number(study, "KL, ambiguous prompts", "kl", "ambiguous"),
                _number(study, "KL, anchors", "kl", "anchor"),
            ],
        ),
    ]
    table += _benchmark(study)
    told = [(heading, [line for line in lines if line.told]) for heading, lines in table]
    return [(heading, lines) for heading, lines in told if lines]


def _benchmark(study: Study) -> list[tuple[str, list[Line]]]:
    """The benchmark's own figures: pooled, then each of its groups."""
    sections = []
    for figures in benchmark_figures(study):
        for group, (label, _) in enumerate(figures.groups):
            measures = [figures.measure(group, name) for name in figures.names]
            lines = [line for m in measures for line in (_metric(study, m), _parity(study, m))]
            sections.append((f"{figures.title}: {label}", lines))
    return sections


def _parity(study: Study, measure: Measure) -> Line:
    return _number(study, f"… {measure.label} at parity", *measure.path, "parity")


def _metric(study: Study, measure: Measure) -> Line:
    metrics = [row.metric(measure) for row in study.rows]
    return Line(measure.label, tuple((estimate(m), interval(m)) for m in metrics))


def _drop(study: Study, measure: Measure) -> Line:
    metrics = [row.metric(measure) for row in study.rows]
    drops = [metric.drop if metric else None for metric in metrics]
    perplexity = any(metric.perplexity for metric in metrics if metric)
    label = f"… {'relative rise' if perplexity else 'drop'} against ω = 0, one-sided limits"
    return Line(label, tuple((estimate(d), interval(d)) for d in drops))


def _number(study: Study, label: str, *path: str) -> Line:
    return Line(label, tuple((number(row.number(*path)), "") for row in study.rows))
