"""SynthBias (Wang et al., ICML 2025, arXiv 2505.23996): coreference over 40 occupations.

Its licence (CC BY-NC-ND 4.0) allows evaluation on the unmodified file; nothing of it is part of
this package. ``type1`` rows are ambiguous; in ``type2`` rows ``occ_1`` is the referent.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from equipoise.errors import EquipoiseError
from equipoise.tasks.coreference import coreference_item
from equipoise.tasks.files import read_csv
from equipoise.tasks.item import Item, Task
from equipoise.tasks.occupations import WINOBIAS, class_of, gender_of
from equipoise.tasks.published import PublishedFile
from equipoise.tasks.splits import assign_splits, digest, hold_out

FILE = "synthbias_data.csv"
SOURCE = PublishedFile(
    "https://raw.githubusercontent.com/apple/ml-synthbias/"
    f"6db30ffb573178f578df60c5a604a205e47f8d56/data/{FILE}",
    "6bf346256a12eeb959dfbe610948694e8da26c74306bb202c2f6cd177af84588",
)
_COLUMNS = ["type", "sample", "occ_1", "occ_2", "pronoun", "is_stereotypical"]
_LICENCE = "SynthBias: CC BY-NC-ND 4.0, for evaluation; never train what you publish on it"


def build(*, data: Path | None) -> Task:
    """Read the SynthBias table.

    Rows that differ only in the pronoun's gender are a twin. The whole sentence decides the
    split, whatever its type. A fifth of each list's occupations is held out.

    Args:
        data: ``synthbias_data.csv``, or the folder that holds it; None: the authors' own copy,
            fetched from their repository.

    Raises:
        EquipoiseError: No such table, or a row that is not what SynthBias promises.
    """
    if data is None:
        data = SOURCE.fetch("synthbias")
    path = data / FILE if data.is_dir() else data
    seen: Counter[tuple[str, str]] = Counter()
    frames: dict[str, str] = {}
    items: list[Item] = []
    for line, row in _rows(path):
        try:
            frame = _mask(row["sample"], row["pronoun"])
            # Two sentences are there twice; the second copies make a twin of their own.
            copy = (row["type"] + frame, gender_of(row["pronoun"]))
            seen[copy] += 1
            twin = digest(row["type"], frame, seen[copy])[:12]
            items.append(_item(row, line, twin))
        except (ValueError, EquipoiseError) as error:
            raise EquipoiseError(f"{path}:{line}: {error}") from None
        frames[items[-1].id] = frame
    if not items:
        raise EquipoiseError(f"{path}: no rows; is the file cut off?")
    lists: dict[str, list[str]] = defaultdict(list)
    for occupation in sorted({c for item in items for c in item.contexts}):
        lists[class_of(occupation)].append(occupation)
    held_out = frozenset().union(*(hold_out(members) for members in lists.values()))
    split = assign_splits(items, held_out=held_out, key=lambda item: frames[item.id])
    return Task(name="synthbias", items=split, notes=(_LICENCE, _twin_note(split)))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    rows = read_csv(path, columns=len(_COLUMNS))
    if next(rows, (0, []))[1] != _COLUMNS:
        raise EquipoiseError(f"{path}:1: not SynthBias; its columns are {', '.join(_COLUMNS)}")
    for line, cells in rows:
        yield line, dict(zip(_COLUMNS, cells, strict=True))


def _mask(sentence: str, pronoun: str) -> str:
    """The sentence without its pronoun: what he and she versions share."""
    frame, count = re.subn(rf"\b{re.escape(pronoun)}\b", "_", sentence)
    if count != 1:
        raise ValueError(f"expected {pronoun!r} once in {sentence!r}, found it {count} times")
    return frame


def _item(row: dict[str, str], line: int, twin: str) -> Item:
    if row["type"] not in ("type1", "type2"):
        raise ValueError(f"type {row['type']!r} is neither type1 nor type2")
    first, second = row["occ_1"], row["occ_2"]
    for occupation in (first, second):
        if occupation not in WINOBIAS:
            raise ValueError(f"occupation {occupation!r} is on neither WinoBias list")
    return coreference_item(
        id=f"row-{line}",
        twin=twin,
        sentence=row["sample"],
        pronouns=(row["pronoun"],),
        candidates=(first, second),
        referent=first if row["type"] == "type2" else None,
    )


def _twin_note(items: tuple[Item, ...]) -> str:
    sizes = Counter(item.twin for item in items)
    alone = sum(size == 1 for size in sizes.values())
    return f"{len(items):,} rows in {len(sizes):,} he/she twins; {alone:,} rows without a twin"
