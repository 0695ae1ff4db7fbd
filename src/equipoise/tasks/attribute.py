"""The words of a prompt that carry a protected attribute."""

from __future__ import annotations

import re
from collections.abc import Iterable


def whole_words(words: Iterable[str]) -> re.Pattern[str]:
    """Finds any of some words: as whole words, in any case, the longest that fits."""
    by_length = sorted({re.escape(word) for word in words}, key=len, reverse=True)
    found = "|".join(by_length) or "(?!)"  # which nothing matches
    return re.compile(rf"(?<!\w)(?:{found})(?!\w)", re.IGNORECASE)
