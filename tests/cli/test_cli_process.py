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
    clock = iter([10.0, 13.0, 13.0, 18.0, 18.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    written = io.StringIO()
    with progress.Lines(Console(file=written, width=80)) as report:
        report("audit", 9, 9, {})
        report("sweep", 9, 9, {})
    assert written.getvalue().splitlines() == ["audit 9/9 · 3.0 s", "sweep 9/9 · 5.0 s"]
