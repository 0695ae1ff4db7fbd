"""UnQover (Li et al., Findings of EMNLP 2020): questions that the text does not answer.

"[x1] lives in the same city with [x2]. Who was a hunter?", and the same with x1 and x2 swapped and
with the question negated ("Who can never be a hunter?"). The four belong together: what a model
answers because of a name's position or of the question's wording cancels among them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import NamedTuple

from equipoise.errors import EquipoiseError
from equipoise.tasks.files import read_lines
from equipoise.tasks.item import Item, Task
from equipoise.tasks.letters import LETTERS, hashed_order, lettered
from equipoise.tasks.splits import assign_splits, digest, hold_out, unit_hash
from equipoise.wording import did_you_mean

UNKNOWN = "Unknown"
_NEGATED = ", negated"
# Category: templates, attributes, subjects (two lists: pairs of one of each).
_LISTS = {
    "gender": ("gender_noact", "occupation_rev1", ("female", "male")),
    "country": ("country_noact", "biased_country", ("country",)),
    "ethnicity": ("ethnicity_noact", "biased_ethnicity", ("ethnicity",)),
    "religion": ("religion_noact", "biased_religion", ("religion",)),
}
_ENTRY = re.compile(r"\[([\w-]+)(?::(\w+))?\]\s*(?:[^|]*\|)?\s*(.+)")
_SUBJECT = re.compile(r"\[subj([12])(?::(\w+))?\]")
_WORDING = re.compile(r"\[[\w-]+(?::neg)?\]")


class Reading(NamedTuple):
    """What an item asks: its category, its attribute (never negated), whether it is negated."""

    category: str
    attribute: str
    negated: bool


@dataclass(frozen=True)
class _Subject:
    """A subject: its group (itself, but for names), and its forms (a country's people)."""

    name: str
    group: str
    forms: dict[str, str]


@dataclass(frozen=True)
class _Attribute:
    """An attribute: its kind (``p_act-single``), what it is known by, and its two wordings."""

    kind: str
    name: str
    positive: str
    negative: str


class _Quad(NamedTuple):
    """What four questions have in common."""

    attribute: _Attribute
    template: tuple[str, str, str]
    first: _Subject
    second: _Subject

    @property
    def key(self) -> tuple[str, ...]:
        """Its texts."""
        return (self.attribute.name, *self.template, self.first.name, self.second.name)


def reading(item: Item) -> Reading:
    """What an item of this task asks, from its context."""
    head, _, attribute = item.contexts[0].partition(": ")
    return Reading(head.removesuffix(_NEGATED), attribute, head.endswith(_NEGATED))


def build(
    *,
    data: Path,
    categories: str | Sequence[str] = (),
    subjects: int = 16,
    quads: int = 16,
    draw: int = 0,
) -> Task:
    """Generate UnQover's questions from its word lists.

    The options are the two subjects and "Unknown", lettered in an order that the four questions
    of a twin share; every item is ambiguous. ``groups`` are women and men for the names, else the
    subjects; ``classes`` the subjects; the context is the category with the attribute, negated or
    not. A fifth of each category's attributes is held out.

    Args:
        data: ``word_lists/`` of UnQover, or the folder that holds it.
        categories: gender, country, ethnicity, religion (names, or one string with commas).
        subjects: At most so many subjects of a category (of the names: half women, half men).
        quads: At most so many twins of four questions for each attribute.
        draw: Which subjects and twins are drawn.

    Raises:
        EquipoiseError: Missing or damaged lists, an unknown category, or bad numbers.
    """
    place = data / "word_lists" if (data / "word_lists").is_dir() else data
    given = categories.split(",") if isinstance(categories, str) else categories
    names = [name.strip() for name in given if name.strip()] or list(_LISTS)
    for name in names:
        if name not in _LISTS:
            raise EquipoiseError(
                f"unqover has no category {name!r}{did_you_mean(name, _LISTS)}; "
                f"there are: {', '.join(_LISTS)}"
            )
    if subjects < 2 or quads < 1:
        raise EquipoiseError(
            f"unqover needs 2 or more subjects and 1 or more quads, got {subjects} and {quads}"
        )
    items = [item for name in names for item in _category(place, name, subjects, quads, draw)]
    return Task(
        name="unqover",
        items=tuple(items),
        notes=(
            "UnQover: Apache-2.0; generated from its word lists",
            f"drawn: at most {subjects} subjects a category, {quads} twins an attribute",
        ),
    )


def _category(place: Path, category: str, subjects: int, quads: int, draw: int) -> tuple[Item, ...]:
    slots, acts, people = _LISTS[category]
    templates = _templates(place / "slots" / slots)
    attributes = _attributes(place / "activities" / acts)
    lists = [_subjects(place / "nouns" / "subjects" / name) for name in people]
    drawn = [
        sorted(members, key=lambda one: unit_hash(draw, category, one.name))[
            : subjects // len(lists)
        ]
        for members in lists
    ]
    pairs = list(combinations(drawn[0], 2) if len(drawn) == 1 else product(*drawn))
    forms = {form for context, *_ in templates for _, form in _SUBJECT.findall(context)}
    for subject in (one for members in drawn for one in members):
        if not forms <= set(subject.forms):
            raise EquipoiseError(f"{place}: slots/{slots} uses a form that {subject.name!r} lacks")
    asked: dict[str, list[_Quad]] = defaultdict(list)
    for attribute, template in product(attributes, templates):
        if f"[{attribute.kind}]" in template[1]:
            asked[attribute.name] += [_Quad(attribute, template, *pair) for pair in pairs]
    items = [
        item
        for candidates in asked.values()
        for quad in sorted(candidates, key=lambda quad: unit_hash(draw, *quad.key))[:quads]
        for item in _items(category, quad)
    ]
    held_out = hold_out(f"{category}: {name}" for name in asked)
    negated = {context.replace(": ", f"{_NEGATED}: ", 1) for context in held_out}
    return assign_splits(items, held_out=held_out | negated)


def _items(category: str, quad: _Quad) -> Iterator[Item]:
    """Both orders of a pair, with the question as it is and negated."""
    twin = digest("unqover", category, *quad.key)[:12]
    order = hashed_order(3, twin)
    attribute, (context, *questions), *pair = quad
    form = _SUBJECT.findall(context)[0][1]
    shown = [subject.forms[form] for subject in pair]
    choices = [(*shown, UNKNOWN)[index] for index in order]
    for swapped, negated in product((False, True), (False, True)):
        told = _filled(context, [s.forms for s in (pair[::-1] if swapped else pair)])
        wording = attribute.negative if negated else attribute.positive
        question = wording.join(_WORDING.split(questions[negated]))
        yield Item(
            id=f"{twin}-{'ba' if swapped else 'ab'}{'-negated' if negated else ''}",
            twin=twin,
            contexts=(f"{category}{_NEGATED if negated else ''}: {attribute.name}",),
            prompt=lettered(f"{told} {question}", choices),
            options=LETTERS[:3],
            groups=tuple((*(s.group for s in pair), None)[index] for index in order),
            classes=tuple((*(s.name for s in pair), None)[index] for index in order),
            attribute=tuple(shown),
        )


def _filled(context: str, forms: Sequence[dict[str, str]]) -> str:
    """The context with the subjects' forms in the slots ``[subj1]`` and ``[subj2]``."""
    return _SUBJECT.sub(lambda slot: forms[int(slot[1]) - 1][slot[2] or ""], context)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for line, text in read_lines(path):
        if not text.startswith("#"):
            yield line, text.strip()


def _entries(path: Path) -> dict[tuple[str, str], list[str]]:
    """The entries of a list by kind and form: ``[kind:form] class | entry``.

    Raises:
        EquipoiseError: A line that is no entry, or forms of a kind that do not pair up.
    """
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for line, text in _lines(path):
        match = _ENTRY.fullmatch(text)
        if match is None:
            raise EquipoiseError(f"{path}:{line}: expected '[kind] entry' of an UnQover list")
        found[match[1], match[2] or ""].append(match[3].strip())
    for kind, form in found:
        if len(found[kind, form]) != len(found.get((kind, ""), ())):
            raise EquipoiseError(f"{path}: [{kind}] and [{kind}:{form}] differ in number")
    return found


def _subjects(path: Path) -> list[_Subject]:
    entries = _entries(path)
    names = entries.get(("subj", ""), [])
    if len(set(names)) < 2:
        raise EquipoiseError(f"{path}: {len(names)} subjects; a comparison needs two or more")
    group = path.name if path.name in ("female", "male") else None
    return [
        _Subject(name, group or name, {form: forms[k] for (_, form), forms in entries.items()})
        for k, name in enumerate(names)
    ]


def _attributes(path: Path) -> list[_Attribute]:
    """The attributes; wordings for one and for many are one attribute."""
    entries = _entries(path)
    for kind, _ in entries:
        if (kind, "neg") not in entries or (kind.removesuffix("-single"), "") not in entries:
            raise EquipoiseError(f"{path}: [{kind}] has no [{kind}:neg], or no plain form")
    return [
        _Attribute(kind, entries[kind.removesuffix("-single"), ""][k], positive, negative)
        for kind in dict.fromkeys(kind for kind, _ in entries)
        for k, (positive, negative) in enumerate(
            zip(entries[kind, ""], entries[kind, "neg"], strict=True)
        )
    ]


def _templates(path: Path) -> list[tuple[str, str, str]]:
    """Context, question, negated question."""
    templates = []
    for line, text in _lines(path):
        parts = [part.strip() for part in text.split("\t")]
        if len(parts) != 3 or not {"1", "2"} <= {
            number for number, _ in _SUBJECT.findall(parts[0])
        }:
            raise EquipoiseError(f"{path}:{line}: expected context, question, negated question")
        templates.append((parts[0], parts[1], parts[2]))
    return templates
