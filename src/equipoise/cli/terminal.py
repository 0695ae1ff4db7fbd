"""What a person sees, on which stream: results on stdout, all else on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console, RenderableType
from rich.text import Text

from equipoise.cli.progress import Bars, Lines

if TYPE_CHECKING:
    from equipoise.methods.method import Report

_PACKAGE = str(Path(__file__).parent.parent)
_WIDE = 120
"""Columns where the output is no terminal: nothing gets cut for a width nobody has."""


class Terminal:
    """The streams of one command; a context manager.

    While it is open, whatever a library prints goes to stderr if the machine form was asked for,
    and warnings become single lines.

    Args:
        machine: JSON to stdout, and nothing else there.
        quiet: No progress.
    """

    def __init__(self, *, machine: bool, quiet: bool) -> None:
        self.machine, self.quiet = machine, quiet
        self._stdout: TextIO = sys.stdout
        self._out = _console(sys.stdout)
        self._err = _console(sys.stderr)
        self._stack = contextlib.ExitStack()
        self._warned: set[str] = set()

    def __enter__(self) -> Terminal:
        if self.quiet or not self._err.is_terminal:
            os.environ.setdefault("TQDM_DISABLE", "1")  # bars of the libraries
        if self.machine:
            self._stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        self._stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = self._warn  # type: ignore[assignment]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def show(self, value: Any, *human: RenderableType) -> None:
        """The outcome: the value as JSON, or what a person reads."""
        if self.machine:
            # Pure ASCII, whatever the locale.
            self._stdout.write(json.dumps(value, indent=1, allow_nan=False) + "\n")
            self._stdout.flush()
            return
        for part in human:
            self._out.print(part)

    def tell(self, label: str, text: str) -> None:
        """A labelled line after the outcome: what was chosen, written, or can be done next."""
        console = self._err if self.machine else self._out
        if not (self.machine and self.quiet):
            console.print(Text.assemble((f"{label:<8}", "bold"), text), soft_wrap=True)

    def note(self, text: str) -> None:
        """A line on what is going on."""
        if not self.quiet:
            self._err.print(Text(text, style="dim"), soft_wrap=True)

    @contextlib.contextmanager
    def progress(self, *, resuming: bool = False) -> Iterator[Report]:
        """Live bars on a terminal, a line per phase elsewhere, nothing if quiet.

        Args:
            resuming: There is a checkpoint; say whether the fit took it up.
        """
        if self.quiet:
            yield _ignore
            return
        shown = Bars(self._err) if self._err.is_terminal else Lines(self._err)
        with shown:
            yield self._announcing(shown) if resuming else shown

    def _announcing(self, report: Report) -> Report:
        """Says once what became of the checkpoint: when the fit begins, or passes to what follows.

        A fit that reads the unsteered model (``base``) and takes no step had none left to take.
        """
        said, before = False, ""

        def announce(phase: str, done: int, of: int, figures: dict[str, float]) -> None:
            nonlocal said, before
            report(phase, done, of, figures)
            if not said and phase == "fit":
                said = True
                self.note(
                    f"resumed after step {done - 1}"
                    if done > 1
                    else "the checkpoint there is of other settings: fitting from the start"
                )
            elif not said and before == "base" != phase:
                said = True
                self.note("resumed after the last step: the fit was done")
            before = phase

        return announce

    def _warn(
        self, message: Warning | str, category: type[Warning], filename: str, *_: Any
    ) -> None:
        """Our own warnings in a line each; those of libraries are for developers."""
        # The details after a semicolon differ from batch to batch.
        text = str(message).partition(";")[0]
        ours = filename.startswith(_PACKAGE) and not issubclass(category, DeprecationWarning)
        if ours and text not in self._warned:
            self._warned.add(text)
            self._err.print(Text(f"equipoise: warning: {text}"), soft_wrap=True)


def _ignore(phase: str, done: int, of: int, figures: dict[str, float]) -> None:
    pass


def _console(file: TextIO) -> Console:
    narrow = file.isatty() or "COLUMNS" in os.environ
    width = None if narrow else _WIDE
    # Names, paths and notes are printed as they are: [brackets] in them are no markup.
    return Console(file=file, highlight=False, markup=False, emoji=False, width=width)
