"""Finding and reading a user's files, with errors that say where."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path

from equipoise.errors import EquipoiseError


def read_text(path: Path) -> str:
    """The text of a UTF-8 file (a byte order mark is dropped, line ends are left alone).

    Raises:
        EquipoiseError: The file cannot be read, or is not UTF-8 (with the line).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EquipoiseError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise EquipoiseError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from None


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers (from 1) and texts of the lines that are not blank; errors as read_text."""
    # Not splitlines(): JSON strings may hold U+2028 and its like.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield number, line


def read_csv(path: Path, columns: int) -> Iterator[tuple[int, list[str]]]:
    """Numbers of the last line and cells of the rows of a CSV file.

    Args:
        path: The file.
        columns: How many cells each row must have.

    Raises:
        EquipoiseError: As read_text, or a row with another number of cells.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        for row in reader:
            if len(row) != columns:
                raise EquipoiseError(
                    f"{path}:{reader.line_num}: {len(row)} cells where {columns} were expected; "
                    "is the file cut off?"
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise EquipoiseError(f"{path}:{reader.line_num}: {error}") from None


def find_data(name: str, data: str | Path | None) -> Path | None:
    """The path given, else ``$EQUIPOISE_DATA/NAME`` if it exists, else None.

    Raises:
        EquipoiseError: The path given does not exist.
    """
    if data is not None:
        path = Path(data).expanduser()
        if not path.exists():
            raise EquipoiseError(f"{path}: no such file or folder (data of {name!r})")
        return path
    folder = os.environ.get("EQUIPOISE_DATA")
    if folder and (path := Path(folder).expanduser() / name).exists():
        return path
    return None
