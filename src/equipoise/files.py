"""Write files whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from equipoise.errors import EquipoiseError


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write beside, then move into place: a reader sees the old file or the new one.

    Raises:
        EquipoiseError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise EquipoiseError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except OSError as error:
        raise EquipoiseError(f"cannot write {path}: {error.strerror}") from error
    finally:
        Path(name).unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON a person can read; NaN and infinity are errors, not numbers."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text + "\n")


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
