"""Results of a benchmark's runs, each in a file of its own: an interrupted benchmark goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from equipoise.files import write_json


def kept(folder: Path, name: str, key: Any, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A run from its file, or made now and kept there.

    Args:
        folder: Where runs are kept.
        name: Beginning of the file's name.
        key: What the run depends on, as JSON; another key is another file.
        make: Makes it.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:10]
    path = folder / f"{name}-{digest}.json"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, make())
    return dict(json.loads(path.read_text()))
