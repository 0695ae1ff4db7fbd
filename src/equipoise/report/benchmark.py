"""A benchmark's own figures: which there are, and where they lie in the results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from equipoise.report.view import Measure, Row, Study

KEY = "benchmark"
_POOLED, _BY, _FREE_TEXT = "pooled", "by_", "free_text"
_WRITTEN = {"s_amb": "s_AMB", "s_dis": "s_DIS", "mu": "μ", "eta": "η"}


@dataclass(frozen=True)
class Figures:
    """The figures of one part of a benchmark.

    Attributes:
        title: What was measured.
        names: The figures, in the order of the results.
        groups: What they are told for, with its place in a row: all together first, then the
            benchmark's categories.
    """

    title: str
    names: tuple[str, ...]
    groups: tuple[tuple[str, tuple[str, ...]], ...]

    def measure(self, group: int, name: str) -> Measure:
        """Where a figure of a group lies."""
        label, path = self.groups[group]
        return Measure(f"{label}-{name}", (*path, name), written(name))


def written(name: str) -> str:
    """A figure's name for a reader."""
    return _WRITTEN.get(name, name.replace("_", " "))


def benchmark_figures(study: Study) -> list[Figures]:
    """All figures that any row of a study has; empty for a task without its own."""
    parts = []
    for title, path in ((study.task, (KEY,)), ("free text", (KEY, _FREE_TEXT))):
        found = [row for row in study.rows if _at(row, path)]
        if found:
            scorer = _at(found[0], path).get("scorer")
            groups = tuple(dict.fromkeys(g for row in found for g in _groups(row, path)))
            names = dict.fromkeys(
                name for row in found for _, place in groups for name in _cells(_at(row, place))
            )
            if names:
                told = f"{title}, judged by {scorer}" if scorer else title
                parts.append(Figures(told, tuple(names), groups))
    return parts


def _at(row: Row, path: tuple[str, ...]) -> Mapping[str, Any]:
    value = row.at(*path)
    return value if isinstance(value, Mapping) else {}


def _groups(row: Row, path: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    table = _at(row, path)
    if _POOLED in table:
        yield "all", (*path, _POOLED)
    for key, value in table.items():
        if key.startswith(_BY) and isinstance(value, Mapping):
            for name in value:
                yield str(name), (*path, key, name)


def _cells(table: Mapping[str, Any]) -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, Mapping) and "estimate" in value:
            yield name
