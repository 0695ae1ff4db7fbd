"""BBQ's questions generated from its official templates and vocabularies.

The same design as the released generator: every template with pairs of people of whom one belongs
to the stereotyped groups, each named first once, each pair with both questions in both contexts.
The draws (which names, which wording) are by hash instead of by chance, and pairs that a
stereotype cannot tell apart are not generated.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import permutations, product
from pathlib import Path
from typing import Any, TypeVar

from equipoise.errors import EquipoiseError
from equipoise.tasks.bbq_rows import UNKNOWN, Row, row_of
from equipoise.tasks.files import read_text
from equipoise.tasks.letters import hashed_order
from equipoise.tasks.splits import unit_hash

CATEGORIES = (
    "Age",
    "Disability_status",
    "Gender_identity",
    "Nationality",
    "Physical_appearance",
    "Race_ethnicity",
    "Race_x_SES",
    "Race_x_gender",
    "Religion",
    "SES",
    "Sexual_orientation",
)
_CROSSED = {"Race_x_SES": "OCC", "Race_x_gender": "GEN"}
_DRAWN = 5  # people of a kind per template, as in the released generator
_UNKNOWNS = (
    "Unknown",
    "Cannot be determined",
    "Can't be determined",
    "Not answerable",
    "Not known",
    "Not enough info",
    "Not enough information",
    "Cannot answer",
    "Can't answer",
    "Undetermined",
)
_SLOT = re.compile(r"(?:\b([Aa])n? )?\{+\[?(\w+?)\}+")  # some braces of the files are typos
_LIST = re.compile(r"(NAME\d|WORD\d)\}*: *\[([^\]]*)\]")
_SAYS_YOU = ("eu", "one", "uni", "us")  # begin with a consonant, whatever they are written with

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class _Person:
    """A person of a template: name and group as BBQ records them, and the slots they fill."""

    name: str
    group: str
    slots: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Name:
    name: str
    gender: str
    race: str


Pair = tuple[_Person, _Person]


def generate_rows(
    folder: Path, *, draw: int = 0, categories: Collection[str] = CATEGORIES
) -> Iterator[Row]:
    """The questions of the categories whose template file is there.

    Args:
        folder: The official ``templates/`` (or the folder that holds it).
        draw: Another number, other names and wordings.
        categories: Only these.

    Raises:
        EquipoiseError: No templates, or files that are not BBQ's.
    """
    place = folder / "templates" if (folder / "templates").is_dir() else folder
    files = {name: place / f"new_templates - {name}.csv" for name in CATEGORIES}
    files = {name: path for name, path in files.items() if path.exists()}
    if not files:
        raise EquipoiseError(f"{place}: no 'new_templates - CATEGORY.csv' of BBQ here")
    words = _Vocabulary(place)
    for category, path in files.items():
        if category not in categories:
            continue
        number = 0
        for line, frame in _table(path):
            if not frame["Ambiguous_Context"].strip():
                continue
            try:
                for people in _pairs(category, frame, words, draw):
                    for record in _block(category, frame, people, draw):
                        yield row_of(record | {"example_id": number}, f"{path}:{line}")
                        number += 1
            except (KeyError, ValueError) as error:
                raise EquipoiseError(f"{path}:{line}: not a template of BBQ ({error})") from None


def _table(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), restval="")
    try:
        for row in reader:
            yield reader.line_num, {k: v.strip() for k, v in row.items() if isinstance(k, str)}
    except csv.Error as error:
        raise EquipoiseError(f"{path}:{reader.line_num}: {error}") from None


class _Vocabulary:
    """The two vocabulary files."""

    def __init__(self, folder: Path):
        rows = [row for _, row in _table(folder / "vocabulary.csv")]
        names = [row for _, row in _table(folder / "vocabulary_proper_names.csv")]
        try:
            kept = [row for row in rows if row["Pilot_include"] != "No"]
            self._words = [(r["Category"], r["SubCat"], r["Name"], r["Info"]) for r in kept]
            self._names = {
                kind: [
                    _Name(row["Name"], row["gender"], row["ethnicity"])
                    for row in names
                    if row["First_last"] == kind
                ]
                for kind in ("first", "first_only", "last")
            }
        except KeyError as error:
            raise EquipoiseError(f"{folder}: its vocabulary lacks column {error}") from None

    def words(self, category: str, subcategory: str = "") -> list[_Person]:
        """The words of a category with their groups (the word itself, unless it has one)."""
        return [
            _Person(name, info or name, {"NAME": name})
            for kind, sub, name, info in self._words
            if kind == category and subcategory in ("", sub)
        ]

    def people(self, race: bool, draw: int, *key: str) -> list[_Name]:
        """First names that tell nobody's race; or full names, first and last of one race."""
        if not race:
            return self._names["first_only"]
        people = []
        for first in self._names["first"]:
            lasts = [last.name for last in self._names["last"] if last.race == first.race]
            (last,) = _pick(lasts, 1, draw, *key, first.name)
            people.append(_Name(f"{first.name} {last}", first.gender, first.race))
        return people


def _pick(things: Sequence[Thing], count: int, *key: object) -> list[Thing]:
    """At most ``count`` of the things, drawn by hash."""
    return sorted(things, key=lambda thing: unit_hash("bbq", *key, thing))[:count]


def _pairs(category: str, frame: dict[str, str], words: _Vocabulary, draw: int) -> Iterator[Pair]:
    """The pairs of people a template is asked about, in the order they are named."""
    key = (category, frame["Q_id"])
    lists = dict(_LIST.findall(frame.get("Names", "")))
    groups = (frame.get("NAME1_info", ""), frame.get("NAME2_info", ""))
    if {"NAME1", "NAME2"} <= set(lists):
        # Templates with lists of their own come in two versions, one for each order.
        yield from product(
            *(
                [_Person(word, group or word, {"NAME": word}) for word in _split(lists[slot])]
                for slot, group in zip(("NAME1", "NAME2"), groups, strict=True)
            )
        )
        return
    proper = frame.get("Proper_nouns_only") == "TRUE"
    if category in _CROSSED:
        targets, others = _crossed(category, frame, words, draw)
    elif proper and category == "Race_ethnicity":
        full = [
            _Person(n.name, f"{n.gender}-{n.race}", {"NAME": n.name})
            for n in words.people(True, draw, *key)
        ]
        targets = [p for p in full if p.group[2:] in _stereotyped(frame)]
        others = [p for p in full if p.group[2:] not in _stereotyped(frame)]
    elif proper:
        yield from _first_names(category, groups, words, draw, *key)
        return
    elif category == "Gender_identity":
        people = words.words(category, frame["Subcategory"])
        for first, second in permutations(people, 2):
            if (first.name in ("man", "boy")) != (second.name in ("man", "boy")):
                yield first, second
        return
    elif category == "SES":
        people = words.words(category, "Occupation")
        targets = [person for person in people if person.group == "lowSES"]
        others = [person for person in people if person.group == "highSES"]
    else:
        people = words.words(category)
        targets = [person for person in people if person.name in _stereotyped(frame)]
        others = [person for person in people if person.name not in _stereotyped(frame)]
    for target in _pick(targets, _DRAWN, draw, *key):
        for other in _opposite(category, target, others, draw, *key):
            yield target, other
            yield other, target


def _opposite(
    category: str, target: _Person, others: Sequence[_Person], draw: int, *key: str
) -> Iterator[_Person]:
    """Whom a target is put beside."""
    if category in _CROSSED:  # of the same race, of the same second trait, of neither
        for same in ((False, True), (True, False), (False, False)):
            alike = [other for other in others if _agree(other, target) == same]
            yield from _pick(alike, _DRAWN, draw, *key, target.name)
    elif "-" in target.group:  # full names: of the same gender
        alike = [other for other in others if other.group[0] == target.group[0]]
        yield from _pick(alike, _DRAWN, draw, *key, target.name)
    else:
        count = len(others) if category == "SES" else _DRAWN
        yield from _pick(others, count, draw, *key, target.name)


def _agree(one: _Person, other: _Person) -> tuple[bool, ...]:
    """Have they the second trait in common, and the race?"""
    both = zip(one.group.split("-", 1), other.group.split("-", 1), strict=True)
    return tuple(a == b for a, b in both)


def _first_names(
    category: str, groups: tuple[str, str], words: _Vocabulary, draw: int, *key: str
) -> Iterator[Pair]:
    """Women and men by first name, each named first once; a group of the slot stays with it."""
    names = words.people(False, draw)
    women = _pick([n for n in names if n.gender == "F"], _DRAWN, draw, *key)
    men = _pick([n for n in names if n.gender == "M"], _DRAWN, draw, *key)
    for woman, man in product(women, men):
        for first, second in ((woman, man), (man, woman)):
            one, two = (
                _Person(n.name, group if category == "SES" else group or n.gender, {"NAME": n.name})
                for n, group in zip((first, second), groups, strict=True)
            )
            yield one, two


def _crossed(
    category: str, frame: dict[str, str], words: _Vocabulary, draw: int
) -> tuple[list[_Person], list[_Person]]:
    """Those of the stereotyped race and second trait, and all others."""
    slot, key = _CROSSED[category], (category, frame["Q_id"])
    if frame["Names"]:
        listed = json.loads(frame["Names"])
        traits = json.loads(frame.get("Var2_info") or '["M", "F"]')
        values = [
            (trait, word)
            for trait, given in zip(traits, listed, strict=True)
            for word in (given if isinstance(given, list) else [given])
        ]
    elif category == "Race_x_SES":
        values = [(p.group, p.name) for p in words.words("SES", "Occupation")]
    else:
        values = [("M", ""), ("F", "")]
    people = []
    if frame["Proper_nouns_only"] == "TRUE":
        gender = frame.get("Stated_gender_info") or "F"
        for n in words.people(True, draw, *key):
            for trait, word in values:
                if n.gender == (trait if category == "Race_x_gender" else gender):
                    slots = {"NAME": n.name, slot: word}
                    people.append(_Person(f"{n.name} {word}".strip(), f"{trait}-{n.race}", slots))
    else:
        for race, (trait, word) in product(words.words("Race_ethnicity"), values):
            slots = {"NAME": race.name, slot: word}
            people.append(_Person(f"{race.name} {word}", f"{trait}-{race.name}", slots))
    wanted = {f"{frame['Known_stereotyped_var2']}-{race}" for race in _stereotyped(frame)[:-1]}
    return (
        [person for person in people if person.group in wanted],
        [person for person in people if person.group not in wanted],
    )


def _stereotyped(frame: dict[str, str]) -> list[str]:
    """The stereotyped groups of a template; where two traits cross, the second trait last."""
    if "Known_stereotyped_race" in frame:
        return [*json.loads(frame["Known_stereotyped_race"]), frame["Known_stereotyped_var2"]]
    groups = json.loads(frame["Known_stereotyped_groups"])
    if not isinstance(groups, list) or not groups:
        raise ValueError("no stereotyped groups")
    return groups


def _split(words: str) -> list[str]:
    return [word.strip() for word in words.split(",")]


def _block(
    category: str, frame: dict[str, str], people: Pair, draw: int
) -> Iterator[dict[str, Any]]:
    """The four questions about a pair, as lines of BBQ without their number."""
    key = (draw, category, frame["Q_id"], frame.get("version", ""), people[0].name, people[1].name)
    slots = {
        f"{slot}{number}": value
        for number, person in enumerate(people, 1)
        for slot, value in person.slots.items()
    }
    for word, choices in _LIST.findall(frame["Lexical_diversity"]):
        # Both orders of a pair are worded alike.
        (slots[word],) = _pick(_split(choices), 1, draw, *key[1:3], word, *sorted(key[4:]))
    filled = {column: _fill(text, slots) for column, text in frame.items()}
    (unknown,) = _pick(_UNKNOWNS, 1, *key)
    owner = {  # whom an answer is about: the number at the end of its slots
        column: int(_SLOT.findall(frame[column])[0][1][-1]) - 1
        for column in ("Answer_negative", "Answer_non_negative")
    }
    answers = [
        (filled[column], [people[who].name, people[who].group]) for column, who in owner.items()
    ]
    answers.append((unknown, [unknown, UNKNOWN]))
    order = hashed_order(3, *key)
    shown = [answers[index] for index in order]
    for polarity, question, right in (
        ("neg", "Question_negative_stereotype", 0),
        ("nonneg", "Question_non_negative", 1),
    ):
        for condition in ("ambig", "disambig"):
            context = filled["Ambiguous_Context"]
            if condition == "disambig":
                context = f"{context} {filled['Disambiguating_Context']}"
            yield {
                "question_index": frame["Q_id"],
                "question_polarity": polarity,
                "context_condition": condition,
                "category": category,
                "answer_info": {f"ans{i}": info for i, (_, info) in enumerate(shown)},
                "additional_metadata": {"stereotyped_groups": _stereotyped(frame)},
                "context": context,
                "question": filled[question],
                **{f"ans{i}": text for i, (text, _) in enumerate(shown)},
                "label": order.index(2 if condition == "ambig" else right),
            }


def _fill(text: str, slots: dict[str, str]) -> str:
    """The text with its slots filled, and the article before a slot as the word wants it."""

    def word(match: re.Match[str]) -> str:
        article, value = match[1], slots.get(match[2], "")
        if article is None:
            return value
        vowel = value[:1].lower() in "aeiou" and not value.lower().startswith(_SAYS_YOU)
        return f"{article}{'n' if vowel else ''} {value}"

    return _SLOT.sub(word, text).strip()
