"""What the command line sets up before its libraries, and how it tells of progress."""

from __future__ import annotations

import ctypes
import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from equipoise.cli import process, progress


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What malloc is asked to do."""
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda *call: calls.append(call))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(process.sys, "platform", "linux")
    monkeypatch.setattr(process.os, "environ", {})
    return calls


def test_freed_tensors_are_kept_for_the_next_step(asked):
    process.prepare()
    assert dict(asked) == {-3: 32 << 20, -1: 256 << 20}


def test_the_users_malloc_settings_win(asked, monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    process.prepare()
    assert asked == []


def test_a_c_library_without_the_setting_is_left_alone(asked, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    process.prepare()
    assert asked == []


@pytest.mark.parametrize("policy", [None, "ACTIVE"])
def test_the_users_way_of_waiting_wins(asked, monkeypatch, policy):
    if policy:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    process.prepare()
    assert process.os.environ.get("GOMP_SPINCOUNT") == (None if policy else "100000")


def test_a_phase_that_is_done_at_once_took_the_time_since_the_report_before(monkeypatch):
    told = lines(monkeypatch, [10.0, 13.0, 18.0], [("audit", 9, 9), ("sweep", 9, 9)])
    assert told == ["audit 9/9 · 3.0 s", "sweep 9/9 · 5.0 s"]


def test_a_phase_of_several_rounds_is_one_line(monkeypatch):
    rounds = [("fit", 5, 5), ("hold", 9, 9), ("hold", 9, 9), ("hold", 9, 9)]
    told = lines(monkeypatch, [10.0, 11.0, 14.0, 16.0, 18.0], rounds)
    assert told == ["fit 5/5 · 1.0 s", "hold 9/9 · 7.0 s"]


def test_a_bar_is_timed_until_the_next_phase(monkeypatch):
    clock = iter([1.0, 2.0, 3.0, 9.0, 20.0, 21.0])
    now = [0.0]
    bars = progress.Bars(Console(file=io.StringIO(), force_terminal=True, width=100))
    monkeypatch.setattr(bars._progress, "get_time", lambda: now[0])
    for phase, done in (("fit", 5), ("hold", 9), ("hold", 4), ("hold", 9), ("sweep", 1)):
        now[0] = next(clock)
        bars(phase, done, 9, {})
    now[0] = next(clock)
    column = next(c for c in bars._progress.columns if isinstance(c, progress._Elapsed))
    told = [column.render(task).plain for task in bars._progress.tasks]
    assert told == ["0:00:01", "0:00:18", "0:00:01"]


def test_a_log_hears_of_a_long_phase_meanwhile(monkeypatch):
    told = lines(monkeypatch, [0.0, 5.0, 40.0, 41.0], [("fit", n, 9) for n in (1, 2, 3)])
    assert told == ["fit 2/9 · 40.0 s", "fit 3/9 · 41.0 s"]


def lines(monkeypatch, clock: list[float], reports: list[tuple[str, int, int]]) -> list[str]:
    """What a log is told of some reports; the clock starts with what comes before them."""
    ticks = iter(clock)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    written = io.StringIO()
    with progress.Lines(Console(file=written, width=80)) as report:
        for phase, done, of in reports:
            report(phase, done, of, {})
    return written.getvalue().splitlines()
