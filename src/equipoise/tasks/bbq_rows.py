"""The rows of BBQ, and which answer of a row follows the stereotype.

The official files have no such column: it follows from the stereotyped groups and the polarity of
the question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from equipoise.errors import EquipoiseError
from equipoise.tasks.files import read_lines
from equipoise.tasks.hub import hub_rows

HUB_ID = "oskarvanderwal/bbq"
UNKNOWN = "unknown"
_FOLDERS = ("", "data", "regenerated*")  # the first that has a category's file wins

# The files name a group in several ways; what matters is that one word stands for each.
_SAME = {
    **dict.fromkeys(("man", "men", "boy", "male"), "m"),
    **dict.fromkeys(("woman", "women", "girl", "female"), "f"),
    **dict.fromkeys(("transgender women", "transgender men"), "trans"),
    "low ses": "lowses",
    "high ses": "highses",
}
_AXES = {"m": "gender", "f": "gender", "lowses": "ses", "highses": "ses"}
_COMPOUND = re.compile(r"(M|F|lowSES|highSES|trans|nonTrans)[-_]")
# Where a name carries no group of its own, the text says whose it is. The released generator
# swaps the names but leaves each name its group, so the files are wrong in every swapped row.
# (What is said of a name, its group, the group of the other name.)
_SAID = (
    ("{}, who is trans", "trans", "nonTrans"),
    *(
        (f"{{}} is from a {word} family", "lowSES", "highSES")
        for word in ("poor", "low income", "working-class")
    ),
    *(
        (f"{{}} is from a {word} family", "highSES", "lowSES")
        for word in ("rich", "wealthy", "well-off")
    ),
)


class _Metadata(BaseModel):
    stereotyped_groups: list[str]


class _Record(BaseModel):
    """The fields of a line of BBQ that are used."""

    example_id: int
    question_index: int
    question_polarity: Literal["neg", "nonneg"]
    context_condition: Literal["ambig", "disambig"]
    category: str = Field(min_length=1)
    answer_info: dict[Literal["ans0", "ans1", "ans2"], list[str]] = Field(
        min_length=3, max_length=3
    )
    additional_metadata: _Metadata
    context: str = Field(min_length=1)
    question: str = Field(min_length=1)
    ans0: str = Field(min_length=1)
    ans1: str = Field(min_length=1)
    ans2: str = Field(min_length=1)
    label: Literal[0, 1, 2]


@dataclass(frozen=True)
class Row:
    """One question of BBQ.

    Attributes:
        id: Category and example number.
        category: As the files write it.
        template: Number of the question template within the category.
        negative: Whether the question asks for the one whom the stereotype makes look bad.
        ambiguous: Whether the context leaves the answer open.
        context: The situation.
        question: The question.
        answers: The three answers in the order of the file.
        names: What the context calls the two people, aligned with ``answers`` (the unknown's
            entry is its own text).
        unknown: Index of the answer that abstains.
        label: Index of the right answer by BBQ's own reading (``unknown`` where ambiguous).
        target: Index of the answer that follows the stereotype; None where the stereotyped groups
            single out neither of the two people.
        stereotyped: Index of the person who belongs to the stereotyped groups, or None.
        source: File and line.
    """

    id: str
    category: str
    template: int
    negative: bool
    ambiguous: bool
    context: str
    question: str
    answers: tuple[str, str, str]
    names: tuple[str, str, str]
    unknown: int
    label: int
    target: int | None
    stereotyped: int | None
    source: str


def rows_of_folder(folder: Path) -> Iterator[Row]:
    """The rows of every category file: ``*.jsonl`` here, in ``data/`` or ``regenerated*/``.

    Raises:
        EquipoiseError: No such file, or a line that is not a BBQ question.
    """
    found: dict[str, Path] = {}
    for pattern in _FOLDERS:
        for place in [folder] if not pattern else sorted(folder.glob(pattern)):
            for path in sorted(place.glob("*.jsonl")):
                found.setdefault(path.stem, path)
    files = [folder] if folder.is_file() else list(found.values())
    if not files:
        raise EquipoiseError(
            f"{folder}: no BBQ files (CATEGORY.jsonl, here or in data/); from the official "
            "templates: option generate=true"
        )
    for path in files:
        for line, text in read_lines(path):
            try:
                record = json.loads(text)
            except (ValueError, RecursionError):
                raise EquipoiseError(
                    f"{path}:{line}: not a complete JSON object; is the file cut off?"
                ) from None
            yield row_of(record, f"{path}:{line}")


def rows_of_hub() -> Iterator[Row]:
    """The rows of BBQ's copy on the hub, all eleven categories."""
    instead = "give the folder of its category files with --data PATH"
    for number, record in enumerate(hub_rows(HUB_ID, "All", "test", instead=instead), 1):
        yield row_of(record, f"{HUB_ID}:{number}")


def row_of(record: Mapping[str, Any], where: str) -> Row:
    """The row of one line of BBQ.

    Raises:
        EquipoiseError: It is not a question of BBQ (with ``where``).
    """
    try:
        read = _Record.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the line"
        raise EquipoiseError(f"{where}: not a BBQ question: {field}: {first['msg']}") from None
    infos = [_two(read.answer_info[key]) for key in ("ans0", "ans1", "ans2")]
    unknown = [index for index, (_, group) in enumerate(infos) if group == UNKNOWN]
    ambiguous = read.context_condition == "ambig"
    if len(unknown) != 1:
        raise EquipoiseError(f"{where}: {len(unknown)} of 3 answers are 'unknown'; expected one")
    if ambiguous != (read.label == unknown[0]):
        raise EquipoiseError(
            f"{where}: label {read.label} does not fit an {read.context_condition} context"
        )
    answers = (read.ans0, read.ans1, read.ans2)
    infos = _as_said(read.context, infos)
    stereotyped = _stereotyped(answers, infos, read.additional_metadata.stereotyped_groups)
    negative = read.question_polarity == "neg"
    target = stereotyped
    if stereotyped is not None and not negative:
        (target,) = {0, 1, 2} - {unknown[0], stereotyped}
    return Row(
        id=f"{read.category}-{read.example_id}",
        category=read.category,
        template=read.question_index,
        negative=negative,
        ambiguous=ambiguous,
        context=read.context.strip(),
        question=read.question.strip(),
        answers=answers,
        names=_names(answers, [name for name, _ in infos]),
        unknown=unknown[0],
        label=read.label,
        target=target,
        stereotyped=stereotyped,
        source=where,
    )


def _two(info: list[str]) -> tuple[str, str]:
    """Name and group of an answer; both empty where the files leave them out."""
    clean = [" ".join(part.strip("{}[] ").split()) for part in info]
    return (clean[0], clean[1]) if len(clean) == 2 else ("", "")


def _names(answers: tuple[str, str, str], names: Sequence[str]) -> tuple[str, str, str]:
    """The names, or the answers themselves where a name is missing or says nothing."""
    first, second, third = (
        name if name and names.count(name) == 1 else answer
        for name, answer in zip(names, answers, strict=True)
    )
    return first, second, third


def _as_said(context: str, infos: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The answers' names and groups, the groups corrected where the context states them."""
    if "is trans" not in context and "is from a" not in context:
        return infos
    for phrase, own, others in _SAID:
        for said, group in infos:
            if group != UNKNOWN and phrase.format(said) in context:
                return [
                    (name, group if group == UNKNOWN else own if name == said else others)
                    for name, group in infos
                ]
    return infos


def _stereotyped(
    answers: Sequence[str], infos: Sequence[tuple[str, str]], groups: Iterable[str]
) -> int | None:
    """Index of the one answer in the stereotyped groups; None if none is, or both are.

    Groups of several axes (race and gender, say) must all fit.
    """
    wanted: dict[str, set[str]] = {}
    for word in map(_word, groups):
        wanted.setdefault(_AXES.get(word, ""), set()).add(word)
    # A file that calls both people alike (African for African American) leaves their answers.
    alike = len(set(infos)) < len(infos)
    fits = []
    for index, (name, group) in enumerate(infos):
        words = _words_of_text(answers[index]) if alike else _words(name, group)
        if group != UNKNOWN and not any(words.isdisjoint(axis) for axis in wanted.values()):
            fits.append(index)
    return fits[0] if len(fits) == 1 else None


@cache
def _word(group: str) -> str:
    word = " ".join(group.split()).casefold()
    return _SAME.get(word, word)


def _words(name: str, group: str) -> set[str]:
    """What an answer may be called in a list of groups: M-Black is M, and Black."""
    parts = re.split("[-_]", group) if _COMPOUND.match(group) else []
    return {_word(part) for part in (name, group, *parts) if part}


def _words_of_text(answer: str) -> set[str]:
    """The words of an answer, and its pairs of neighbouring words."""
    words = answer.split()
    return {_word(word) for word in [*words, *map(" ".join, pairwise(words))]}
