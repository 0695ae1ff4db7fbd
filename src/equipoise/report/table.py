"""Tables for the terminal: a sweep, an audit, a comparison, readable at 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from equipoise.report.benchmark import Figures, benchmark_figures, written
from equipoise.report.numbers import MISSING, number, strength, with_interval
from equipoise.report.verdict import Verdict, judge, judge_comparison
from equipoise.report.view import (
    ABSTENTION,
    BIAS,
    GREEDY,
    UNAMBIGUOUS,
    Measure,
    Metric,
    Row,
    Study,
    capability,
    studies,
)


def results_table(results: Mapping[str, Any]) -> RenderableType:
    """The table at the end of a run, an audit, a sweep or a comparison, with its warnings.

    Args:
        results: A results dict (schema ``equipoise/results/1``), or ``{"results": [...],
            "pareto": [...]}`` of a comparison.

    Returns:
        What a ``rich.console.Console`` prints.

    Raises:
        EquipoiseError: If there is nothing to report.
    """
    many = studies(results)
    if len(many) > 1:
        pareto = [str(name) for name in results.get("pareto") or ()]
        remarks = _remarks(judge_comparison(many, pareto))
        return Group(_Fitting(_comparison(many, pareto)), *remarks)
    study = many[0]
    tables = [_kept(study), *_benchmark(study)]
    if study.ambiguous:
        tables.insert(0, _sweep(study))
    title = f"{'audit' if study.audit else study.method} · {study.model} · {study.task}"
    return Group(Text(title), *map(_Fitting, tables), *_remarks(judge(study)))


@dataclass(frozen=True)
class _Fitting:
    """A table whose columns go on below where the terminal is too narrow, the first one repeated.

    A number that is cut off would be another number.
    """

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        left = list(range(1, len(self.table.columns)))
        first = True
        while left:
            fits = 1
            while fits < len(left) and self._fits([0, *left[: fits + 1]], console, options):
                fits += 1
            part = self._part([0, *left[:fits]])
            left = left[fits:]
            part.title = self.table.title if first else None
            part.caption = None if left else self.table.caption
            first = False
            yield part

    def _fits(self, columns: Sequence[int], console: Console, options: ConsoleOptions) -> bool:
        wide = options.update(width=10_000)
        width = Measurement.get(console, wide, self._part(columns)).maximum
        return width <= options.max_width

    def _part(self, columns: Sequence[int]) -> Table:
        part = _table("")
        cells = []
        for column in (self.table.columns[place] for place in columns):
            part.add_column(column.header, justify=column.justify, overflow="fold")
            cells.append(list(column.cells))
        for place, row in enumerate(self.table.rows):
            part.add_row(*(column[place] for column in cells), style=row.style)
        return part


def _sweep(study: Study) -> Table:
    table = _table("")
    bias, greedy, abstains = (
        _headed(study, measure, f"{name} [95 %]")
        for measure, name in ((BIAS, "bias"), (GREEDY, "greedy"), (ABSTENTION, "abstains"))
    )
    _columns(table, "ω", bias, "at\nparity", greedy, abstains, "KL")
    for row in study.rows:
        cells = [
            _with_interval(row.metric(BIAS)),
            _parity(row.metric(BIAS)),
            _with_interval(row.metric(GREEDY)),
            _with_interval(row.metric(ABSTENTION)),
            _short(row.number("kl", "ambiguous")),
        ]
        _add(table, study, row, cells)
    if study.unmeasured is not None:
        table.caption = f"▸ chosen: {strength(study.unmeasured)}, interpolated and not measured"
    return table


def _kept(study: Study) -> Table:
    """What the steering must not cost: each accuracy, and its drop where there is one."""
    drop = "" if study.audit else " (drop against ω = 0 [one-sided 95 % limits])"
    table = _table(f"kept [95 %]{drop}")
    names = ("unambiguous", *study.capabilities)
    measures = [UNAMBIGUOUS, *(capability(name) for name in study.capabilities)]
    heads = (_headed(study, *pair) for pair in zip(measures, names, strict=True))
    _columns(table, "ω", *heads)
    for row in study.rows:
        shown = _with_interval if row is study.base or study.audit else _with_drop
        _add(table, study, row, [shown(row.metric(measure)) for measure in measures])
    return table


def _benchmark(study: Study) -> list[Table]:
    """The benchmark's own figures; an audit's also category by category."""
    tables = []
    for figures in benchmark_figures(study):
        tables.append(_pooled(study, figures))
        if study.audit and len(figures.groups) > 1:
            tables.append(_by_group(study, figures))
    return tables


def _pooled(study: Study, figures: Figures) -> Table:
    """A benchmark's figures over all it asks: with intervals, or at every strength."""
    table = _table(figures.title)
    table.add_column("all")
    if study.audit:
        _columns(table, "[95 %]", "n", "parity")
    else:
        _columns(table, *(f"ω {strength(row.strength)}" for row in study.rows))
    for name in figures.names:
        measure = figures.measure(0, name)
        metrics = [row.metric(measure) for row in study.rows]
        if not any(metrics):
            continue
        cells = [_estimate(metric) for metric in metrics]
        if study.audit:
            only = metrics[0]
            cells = [_with_interval(only), f"{only.n:,}" if only and only.n else "", _parity(only)]
        table.add_row(Text(measure.label), *cells)
    return table


def _by_group(study: Study, figures: Figures) -> Table:
    """A benchmark's figures for each of its categories; their intervals are in the report."""
    table = _table(f"{figures.title}, one by one")
    table.add_column("")
    for name in figures.names:  # a word a line: a benchmark's figures fit 80 columns
        table.add_column(Text(written(name).replace(" ", "\n")), justify="right")
    for group, (label, _) in list(enumerate(figures.groups))[1:]:
        metrics = [study.rows[0].metric(figures.measure(group, name)) for name in figures.names]
        table.add_row(Text(label), *map(_estimate, metrics))
    return table


def _comparison(many: Sequence[Study], pareto: Sequence[str]) -> Table:
    table = _table(f"{many[0].model} · {many[0].task}, each method at its chosen strength")
    table.add_column("method")
    names = ("n", "bias [95 %]", "at parity", "greedy [95 %]", "unambiguous (drop [limits])")
    _columns(table, "ω", *names, "largest capability drop [limits]", "abstains [95 %]")
    for study in many:
        row = study.shown
        bias = row.metric(BIAS)
        front = study.method in pareto
        table.add_row(
            Text(f"{study.method}{' ◆' if front else ''}"),
            strength(row.strength),
            f"{bias.n:,}" if bias and bias.n else "",
            _with_interval(bias),
            _parity(bias),
            _with_interval(row.metric(GREEDY)),
            _with_drop(row.metric(UNAMBIGUOUS)),
            _largest_drop(study, row),
            _with_interval(row.metric(ABSTENTION)),
            style="bold" if front else "",
        )
    if pareto:
        table.caption = "◆ Pareto front of bias and accuracy"
    return table


def _remarks(verdict: Verdict) -> list[RenderableType]:
    headline = Text(verdict.headline, style="bold")
    lines = [
        Text.assemble(("! ", "yellow"), (f"{found.title}. ", "bold"), found.text)
        for found in verdict.warnings
    ]
    return [Padding(line, (0, 0, 0, 1)) for line in (headline, *lines)]


def _table(title: str) -> Table:
    return Table(
        title=Text(title) if title else None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def _columns(table: Table, *names: str) -> None:
    for name in names:
        table.add_column(Text(name), justify="right")


def _add(table: Table, study: Study, row: Row, cells: Sequence[str]) -> None:
    """A row of a strength, the chosen one marked by sign and weight."""
    chosen = not study.audit and study.chosen is not None and row is study.row(study.chosen)
    name = f"{'▸ ' if chosen else ''}{strength(row.strength)}"
    table.add_row(name, *cells, style="bold" if chosen else "")


def _headed(study: Study, measure: Measure, name: str) -> str:
    """A column's head: its name, and how many items it is over."""
    counts = {metric.n for row in study.rows if (metric := row.metric(measure)) and metric.n}
    return f"{name}\nn = {max(counts):,}" if counts else name


def _largest_drop(study: Study, row: Row) -> str:
    metrics = [row.metric(capability(name)) for name in study.capabilities]
    drops = [metric.drop for metric in metrics if metric and metric.drop]
    return _with_interval(max(drops, key=lambda drop: drop.estimate)) if drops else MISSING


def _short(value: float | None) -> str:
    """A number without its leading zero, as columns are dear: ``.021``, ``−.004``."""
    text = number(value)
    return text.replace("0.", ".", 1) if text.lstrip("−").startswith("0.") else text


def _estimate(metric: Metric | None) -> str:
    if metric is None:
        return MISSING
    return number(metric.estimate, 2) if metric.perplexity else _short(metric.estimate)


def _parity(bias: Metric | None) -> str:
    return _short(bias.number("parity") if bias else None)


def _with_drop(metric: Metric | None) -> str:
    if metric is None or metric.drop is None:
        return _estimate(metric)
    return f"{_estimate(metric)} ({_with_interval(metric.drop)})"


def _with_interval(metric: Metric | None) -> str:
    if metric is None or metric.low is None or metric.high is None:
        return _estimate(metric)
    if metric.perplexity:
        return with_interval(metric)
    return f"{_short(metric.estimate)} [{_short(metric.low)}, {_short(metric.high)}]"
