"""Documents for perplexity, from a plain text file or a JSON list."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from equipoise.errors import EquipoiseError
from equipoise.tasks.files import read_text
from equipoise.tasks.item import Split
from equipoise.wording import counted

LONGEST = 2000  # characters: some 500 tokens, within any model's context
_TRAIN, _VALIDATION = 0.4, 0.2
_FEWEST = 2  # documents of a part that have limits; a single one has none


@dataclass(frozen=True)
class Document:
    """A text and its split (``train`` documents serve as anchors)."""

    text: str
    split: Split


def read_documents(path: Path) -> tuple[Document, ...]:
    """Read documents: the first 40 % are train, the next 20 % validation, the rest test.

    A ``.json`` file holds a list of texts; any other file is cut into texts at its blank lines.
    Texts of more than 2000 characters are cut at white space. Of fewer than ten documents train
    has what the other two parts can spare: those need two each for limits. With fewer than four
    that cannot be had, which a warning says.

    Raises:
        EquipoiseError: Unreadable, not UTF-8, not a JSON list of texts, or without any text.
    """
    text = read_text(path)
    whole = _json_list(path, text) if path.suffix == ".json" else re.split(r"\n\s*\n", text)
    pieces = [piece for document in whole for piece in _cut(document.strip())]
    if not pieces:
        raise EquipoiseError(f"{path}: the file holds no text")
    train, validation = _parts(len(pieces))
    if len(pieces) < 2 * _FEWEST:
        warnings.warn(
            f"{path}: {counted(len(pieces), 'document')}, too few to choose a "
            "strength by and to judge it (two each, as one document has no limits, and a text file "
            "is cut at blank lines)",
            stacklevel=2,
        )
    return tuple(
        Document(piece, "train" if i < train else "validation" if i < validation else "test")
        for i, piece in enumerate(pieces)
    )


def _parts(count: int) -> tuple[int, int]:
    """Where the train and the validation documents end."""
    train, end = round(_TRAIN * count), round((_TRAIN + _VALIDATION) * count)
    validation = min(max(_FEWEST, end - train), (count + 1) // 2)
    train = max(0, count - validation - max(_FEWEST, count - end))
    return train, train + validation


def _json_list(path: Path, text: str) -> list[str]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise EquipoiseError(
            f"{path}:{error.lineno}: not JSON ({error.msg}); is it cut off?"
        ) from None
    except (ValueError, RecursionError):
        raise EquipoiseError(f"{path}: not a JSON list of texts") from None
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise EquipoiseError(f"{path}: expected a JSON list of texts")
    return value


def _cut(text: str) -> list[str]:
    """Pieces of at most LONGEST characters; a longer stretch without white space is cut anyway."""
    pieces = []
    start = 0  # where the rest begins: to copy it for each piece would take its square
    while len(text) - start > LONGEST:
        window = text[start : start + LONGEST + 1]
        spaces = [m.start() for m in re.finditer(r"\s", window)]
        end = spaces[-1] if spaces else LONGEST
        pieces.append(window[:end].rstrip())
        start += end
        while text[start].isspace():  # the text ends in none
            start += 1
    return [*pieces, text[start:]] if text else pieces
