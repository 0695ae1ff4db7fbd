"""WinoBias (Zhao et al., NAACL 2018): coreference over 40 occupations, all of it resolvable.

``type1`` is resolved by what the sentence means, ``type2`` by its syntax: every item has a right
answer, so the task measures accuracy on pro- against anti-stereotypical sentences and is a source
of anchors; it has no ambiguous items and so no per-occupation bias.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from equipoise.errors import EquipoiseError
from equipoise.tasks.coreference import coreference_item
from equipoise.tasks.files import read_lines
from equipoise.tasks.hub import hub_rows
from equipoise.tasks.item import Item, Split, Task
from equipoise.tasks.occupations import PRONOUNS, WINOBIAS
from equipoise.tasks.splits import digest, unit_hash

HUB_ID = "uclanlp/wino_bias"
_PARTS = {"dev": "validation", "test": "test"}  # WinoBias's name: the hub's
_VALIDATION_SHARE = 2 / 7  # of the dev sentences; the proportion of our own splits

_BRACKETED = re.compile(r"\[([^\]]*)\]")
_OCCUPATION = re.compile(rf"\b({'|'.join(WINOBIAS)})\b", re.IGNORECASE)
_BY_LOWER = {occupation.lower(): occupation for occupation in WINOBIAS}


def build(*, data: Path | None = None) -> Task:
    """Read WinoBias: its test sentences are ``test``, its dev sentences train and validation.

    Args:
        data: The folder of its eight ``{pro,anti}_stereotyped_type{1,2}.txt.{dev,test}`` files;
            None asks the hub.

    Raises:
        EquipoiseError: A file is missing, or a line is not what WinoBias promises.
    """
    items: list[Item] = []
    tested: set[str] = set()
    repeated = 0
    for part in ("test", "dev"):
        for source, kind, number, line in _lines(data, part):
            try:
                item = _item(f"{part}-{kind}-{number}", line)
            except ValueError as error:
                raise EquipoiseError(f"{source}:{number}: {error}") from None
            if part == "test":
                tested.add(item.twin)
            elif item.twin in tested:
                repeated += 1
                continue
            items.append(replace(item, split=_split(part, item.twin)))
    sizes = Counter(item.twin for item in items)
    alone = sum(size == 1 for size in sizes.values())
    return Task(
        name="winobias",
        items=tuple(items),
        notes=(
            "WinoBias: MIT; type1 and type2 both have a right answer, so there is no bias on "
            "ambiguous items to report",
            f"{len(items):,} rows in {len(sizes):,} twins; {alone:,} rows have no twin, their he "
            f"and she versions differ by a slip; {repeated} dev rows that the test repeats are "
            "left out",
        ),
    )


def _lines(data: Path | None, part: str) -> Iterator[tuple[str, str, int, str]]:
    """Source, kind, line number, and the sentence with its brackets, of every line of a part."""
    for kind in ("type1-pro", "type1-anti", "type2-pro", "type2-anti"):
        form, side = kind.split("-")
        if data is None:
            rows = hub_rows(
                HUB_ID,
                f"{form}_{side}",
                _PARTS[part],
                instead="give the folder of its text files with --data PATH",
            )
            for number, row in enumerate(rows, 1):
                yield HUB_ID, kind, number, _bracket(**row)
            continue
        path = data / f"{side}_stereotyped_{form}.txt.{part}"
        for number, line in read_lines(path):
            yield str(path), kind, number, re.sub(r"^\d+\s*", "", line)


def _bracket(*, tokens: list[str], coreference_clusters: list[str], **_: object) -> str:
    """The hub's tokens and flat list of inclusive (first, last) pairs as a bracketed sentence."""
    words = list(tokens)
    ends = [int(index) for index in coreference_clusters]
    for first, last in zip(ends[::2], ends[1::2], strict=True):
        words[first] = "[" + words[first]
        words[last] += "]"
    return re.sub(r"\s+([.,?!])", r"\1", " ".join(words))


def _item(id: str, line: str) -> Item:
    pronouns = tuple(mark for mark in _BRACKETED.findall(line) if mark.lower() in PRONOUNS)
    frame = _plain(_BRACKETED.sub(_blank, line))
    mentions = [_BY_LOWER[match.lower()] for match in _OCCUPATION.findall(line)]
    named = [m for mark in _BRACKETED.findall(line) for m in _OCCUPATION.findall(mark)]
    if not pronouns or len(named) != 1:
        raise ValueError("expected one [occupation] and a [pronoun] in brackets")
    referent = _BY_LOWER[named[0].lower()]
    others = [mention for mention in mentions if mention != referent]
    if not others:
        raise ValueError("expected two occupations of the WinoBias lists")
    return coreference_item(
        id=id,
        twin=digest("winobias", frame)[:12],
        sentence=_plain(line),
        pronouns=pronouns,
        candidates=(referent, others[0]),
        referent=referent,
    )


def _blank(mark: re.Match[str]) -> str:
    return "_" if mark[1].lower() in PRONOUNS else mark[1]


def _plain(line: str) -> str:
    """Running text: no brackets, no doubled articles or spaces where the brackets were."""
    text = " ".join(line.replace("[", "").replace("]", "").split())
    return re.sub(r"\b(the) the\b", r"\1", text.replace(" 's", "'s"), flags=re.IGNORECASE)


def _split(part: str, twin: str) -> Split:
    if part == "test":
        return "test"
    return "validation" if unit_hash("dev", twin) < _VALIDATION_SHARE else "train"
