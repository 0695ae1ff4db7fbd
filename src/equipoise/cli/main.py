"""Run the command line: every way out is an exit code and at most one line."""

from __future__ import annotations

# Little is imported here: Ctrl-C is met with a clean line from `main` on.
import os
import sys
from collections.abc import Sequence

from equipoise.cli.exits import Interrupted, NotOk
from equipoise.errors import EquipoiseError

_INTERRUPTED = 130
_MISTAKE = 2
_DEFECT = 1
_NOT_READ = 141  # as a shell tells of a tool that SIGPIPE ended
_NARROWEST = 10
"""Columns below which COLUMNS is taken for unset."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Words after the program's name; None: those of this process.

    Returns:
        The exit code: 0; 1 if an answer is no or something here is broken; 2 for a mistake the
        user can mend; 130 after Ctrl-C; 141 if the output was not read to its end.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        from equipoise.cli.process import prepare

        prepare()
        _drop_no_width()
        from equipoise.cli.app import app

        code = app(args=words, prog_name="equipoise", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except NotOk:
        return 1
    except (Interrupted, KeyboardInterrupt) as error:
        return _fail(str(error) or "interrupted", words, _INTERRUPTED)
    except (BrokenPipeError, SystemExit) as error:
        # Whoever read our output has had enough (`equipoise tasks | head`). Rich and click turn
        # that into an exit of their own.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        _drop_stdout()
        return _NOT_READ
    except Exception as error:
        if os.environ.get("EQUIPOISE_DEBUG"):
            import traceback

            traceback.print_exc()
        message, code = _explain(error)
        return _fail(message, words, code)


def _drop_no_width() -> None:
    """Forget a COLUMNS that nothing fits: to some tools 0 means unknown, to rich print nothing."""
    told = os.environ.get("COLUMNS", "")
    if told.isdigit() and int(told) < _NARROWEST:
        del os.environ["COLUMNS"]


def _explain(error: Exception) -> tuple[str, int]:
    """Message and exit code."""
    if isinstance(error, EquipoiseError):
        return str(error), _MISTAKE
    # Usage errors of click; typer brings a click of its own, of which no class is public.
    format_message = getattr(error, "format_message", None)
    if format_message is not None:
        return f"{format_message()} (`equipoise --help` shows what there is)", _MISTAKE
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}", _MISTAKE
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            "out of memory; use a smaller --dtype, or fewer tokens a pass (--batch-tokens, "
            "--set batch_tokens=N)"
        ), _MISTAKE
    name = type(error).__name__
    return f"defect: {name}: {error} (EQUIPOISE_DEBUG=1 shows where; please report it)", _DEFECT


def _fail(message: str, words: Sequence[str], code: int) -> int:
    line = " ".join(message.split())
    print(f"equipoise: {line}", file=sys.stderr)
    try:
        if "--json" in words:
            import json

            print(json.dumps({"error": line}))
        sys.stdout.flush()
    except OSError:  # stdout may be what has failed: a full disk, a reader that is gone
        _drop_stdout()
    return code


def _drop_stdout() -> None:
    """Lead stdout nowhere: python would complain once more when it flushes it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
