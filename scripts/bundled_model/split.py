"""One rule that keeps the task files and the training mixture apart, whatever either draws."""

from __future__ import annotations

from zlib import crc32


def for_task_files(text: str) -> bool:
    """Whether a sentence or prompt is for the task files; a tenth is, training uses the rest."""
    return crc32(text.encode()) % 10 == 0
