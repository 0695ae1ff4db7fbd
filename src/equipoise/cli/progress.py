"""Progress of long work: bars on a terminal, lines in a log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.text import Text

# Figures worth a glance while a fit goes on, and what they are called.
_SHOWN = {"bias": "bias", "kl_ambiguous": "KL", "kl_anchor": "KL anchors"}
_HEARTBEAT = 30.0
"""Seconds after which a log that has no bars hears of a phase again."""


def describe(figures: Mapping[str, float]) -> str:
    """``bias 0.031 · KL 0.21``; empty where there is nothing worth a glance."""
    parts = [f"{label} {figures[name]:.3f}" for name, label in _SHOWN.items() if name in figures]
    return " · ".join(parts)


class _Elapsed(ProgressColumn):
    """A phase's time until the next one begins; rich's own stops when the bar is first full."""

    def render(self, task: Task) -> Text:
        """As 0:01:30."""
        seconds = timedelta(seconds=int(task.elapsed or 0))
        return Text(str(seconds), style="progress.elapsed")


class Bars:
    """A bar per phase; called as ``report(phase, done, of, figures)``."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<7}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Elapsed(),
            TextColumn("{task.fields[figures]}", style="dim"),
            console=console,
        )
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, phase: str, done: int, of: int, figures: dict[str, float]) -> None:
        """Show what was reported."""
        if phase not in self._bars:
            if self._bars:
                self._progress.stop_task(next(reversed(self._bars.values())))
            self._bars[phase] = self._progress.add_task(phase, total=of, figures="")
        told = describe(figures)
        self._progress.update(self._bars[phase], completed=done, total=of, figures=told)


class Lines:
    """A line when a phase ends, and one every half minute until then; called as the bars are.

    A phase is first heard of when some of it is done: its time counts from the report before. It
    ends when another begins: one of several rounds (a search that measures again) is told once.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._phase = ""
        self._line = ""
        self._heard = self._started = self._said = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._say()

    def __call__(self, phase: str, done: int, of: int, figures: dict[str, float]) -> None:
        """Show what was reported."""
        now = time.monotonic()
        if phase != self._phase:
            self._say()
            self._phase, self._started, self._said = phase, self._heard, now
        self._heard = now
        told = describe(figures)
        self._line = f"{phase} {done}/{of}{f' · {told}' if told else ''}"
        if now - self._said > _HEARTBEAT:
            self._say()

    def _say(self) -> None:
        """Print the line, once."""
        if self._line:
            self._said = self._heard
            text = f"{self._line} · {self._heard - self._started:.1f} s"
            self._console.print(Text(text), soft_wrap=True)
            self._line = ""
