"""Words of messages: the nearest known name for a typo, and how many of a thing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def counted(n: int, noun: str) -> str:
    """So many of a thing: ``1 site``, ``1,024 parameters``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
