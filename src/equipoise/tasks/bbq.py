"""BBQ (Parrish et al., Findings of ACL 2022): questions about two people of different groups.

In an ambiguous context nothing says who of the two it was, and the answer is "unknown"; in a
disambiguated one the text says it. A question asks either for the one whom a stereotype makes look
bad (negative) or for the other: picking the stereotyped person is ``pro`` in the first kind and
``anti`` in the second.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Literal

from equipoise.errors import EquipoiseError
from equipoise.tasks.bbq_rows import HUB_ID, Row, rows_of_folder, rows_of_hub
from equipoise.tasks.bbq_templates import CATEGORIES, generate_rows
from equipoise.tasks.item import Item, Side, Task
from equipoise.tasks.letters import LETTERS, hashed_order, lettered
from equipoise.tasks.splits import assign_splits, digest, unit_hash
from equipoise.wording import did_you_mean

MAX_SHOTS = 8
Order = Literal["hashed", "released"]


@dataclass(frozen=True)
class _Question:
    """An item and what decides its split and whether it may serve as a solved example."""

    item: Item
    row: Row
    right: int
    pair: str


def build(
    *,
    data: Path | None = None,
    shots: int = 0,
    order: Order = "hashed",
    categories: str | Sequence[str] = (),
    hold_out: str | Sequence[str] = (),
    generate: bool = False,
    draw: int = 0,
) -> Task:
    """Read or generate BBQ; the categories are the contexts.

    Ambiguous items have no ``answer`` (the abstaining side is BBQ's right answer); disambiguated
    ones have one. Both have sides. Items about the same two people under one template are a twin,
    whichever of them is named first and whichever way the question is put, apart for ambiguous
    and disambiguated contexts; they show each person under the same letter. Templates that share
    a question, in whatever category, go to one split together.

    Args:
        data: Folder of the category files, or one such file; the folder of the official
            templates with ``generate``; None asks the hub.
        shots: Solved examples before every question, 0 to 8: the same for all, taken from the
            train split, half of them ambiguous. Their twins are left out.
        order: Letters by a hash of the twin, so that none is favoured, or as in the files.
        categories: Only these (names, or one string with commas); all unless told.
        hold_out: Categories whose templates go to ``unseen`` as a whole.
        generate: Generate the questions from the official templates.
        draw: Which names and words the generator draws.

    Raises:
        EquipoiseError: Missing or damaged data, an unknown category, bad ``shots``, or no
            row with a usable target.
    """
    if not 0 <= shots <= MAX_SHOTS:
        raise EquipoiseError(f"bbq has 0 to {MAX_SHOTS} shots, got {shots}")
    wanted = _names(categories)
    rows = _generated(data, wanted, draw) if generate else _read(data)
    if wanted:
        kept = _known(wanted, rows)
        rows = [row for row in rows if row.category in kept]
    usable = [row for row in rows if row.target is not None]
    if not usable:
        raise EquipoiseError(
            f"bbq: none of {len(rows)} rows has a usable target: their stereotyped groups single "
            "out neither answer"
        )
    held_out = _known(_names(hold_out), usable)
    questions = _split([_question(row, order) for row in usable], held_out)
    if shots:
        questions = _with_examples(questions, shots)
    return Task(
        name="bbq",
        items=tuple(question.item for question in questions),
        notes=_notes(rows, questions, data, generated=generate, shots=shots),
    )


def _read(data: Path | None) -> list[Row]:
    return list(rows_of_hub() if data is None else rows_of_folder(data))


def _generated(data: Path | None, wanted: Sequence[str], draw: int) -> list[Row]:
    """The rows generated from the templates, of the categories wanted or of all."""
    if data is None:
        raise EquipoiseError(
            "bbq: generate=true needs the folder of the official templates: --data PATH"
        )
    known = frozenset(wanted) & frozenset(CATEGORIES)
    return list(generate_rows(data, draw=draw, categories=known or CATEGORIES))


def _names(names: str | Sequence[str]) -> list[str]:
    given = names.split(",") if isinstance(names, str) else names
    return [name.strip() for name in given if name.strip()]


def _known(names: Iterable[str], rows: Iterable[Row]) -> frozenset[str]:
    there = sorted({row.category for row in rows})
    for name in names:
        if name not in there:
            raise EquipoiseError(
                f"bbq has no category {name!r} here{did_you_mean(name, there)}; "
                f"there are: {', '.join(there)}"
            )
    return frozenset(names)


def _question(row: Row, order: Order) -> _Question:
    people = sorted({0, 1, 2} - {row.unknown}, key=lambda index: row.names[index].casefold())
    pair = digest("bbq", row.category, row.template, *(row.names[i].casefold() for i in people))
    if order == "hashed":
        listed = (*people, row.unknown)
        shown = [listed[index] for index in hashed_order(3, pair)]
    else:
        shown = [0, 1, 2]
    condition = "ambig" if row.ambiguous else "disambig"
    if order == "released":  # Letters change within a pair; compare answers where they agree.
        condition += "-" + "".join(LETTERS[shown.index(index)] for index in people)
    sides: dict[int | None, Side] = {row.unknown: "abstain", row.target: "pro"}
    right = shown.index(row.label)
    item = Item(
        id=row.id,
        twin=f"{pair[:12]}-{condition}",
        contexts=(row.category,),
        prompt=lettered(f"{row.context} {row.question}", [row.answers[i] for i in shown]),
        options=LETTERS[:3],
        sides=tuple(sides.get(index, "anti") for index in shown),
        answer=None if row.ambiguous else right,
        classes=tuple(
            None if i == row.unknown else "stereotyped" if i == row.stereotyped else "other"
            for i in shown
        ),
        attribute=tuple(row.names[index] for index in people),
    )
    return _Question(item, row, right, pair)


def _split(questions: Sequence[_Question], held_out: frozenset[str]) -> list[_Question]:
    families = _families(questions)
    key = {question.item.id: families[_template(question.row)] for question in questions}
    items = assign_splits(
        [question.item for question in questions],
        held_out=held_out,
        key=lambda item: key[item.id],
    )
    return [replace(q, item=item) for q, item in zip(questions, items, strict=True)]


def _template(row: Row) -> str:
    return f"{row.category}-{row.template}"


def _families(questions: Iterable[_Question]) -> dict[str, str]:
    """The family of each template: those that share a question are one, under its first name.

    BBQ asks the same with group labels and with proper names under different numbers.
    """
    sharing: dict[str, set[str]] = defaultdict(set)
    for question in questions:
        sharing[question.row.question.casefold()].add(_template(question.row))
    family: dict[str, set[str]] = {}
    for templates in sharing.values():
        joined = set().union(*(family.get(name, {name}) for name in templates))
        family.update(dict.fromkeys(joined, joined))
    return {name: min(members) for name, members in family.items()}


def _with_examples(questions: Sequence[_Question], shots: int) -> list[_Question]:
    """Solved examples before every question; their twins are left out."""
    examples = _examples(questions, shots)
    prefix = "".join(f"{e.item.prompt} {LETTERS[e.right]}\n\n" for e in examples)
    shown = {example.pair for example in examples}
    return [
        replace(q, item=replace(q.item, prompt=prefix + q.item.prompt))
        for q in questions
        if q.pair not in shown
    ]


def _examples(questions: Sequence[_Question], shots: int) -> list[_Question]:
    """Train questions that favour nothing: categories, conditions, letters and sides in turn."""
    pools: dict[tuple[str, bool], list[_Question]] = defaultdict(list)
    for question in questions:
        if question.item.split == "train":
            pools[question.row.category, question.row.ambiguous].append(question)
    names = sorted(
        (name for name, ambiguous in pools if ambiguous and (name, False) in pools),
        key=lambda name: unit_hash("example", name),
    )
    if not names:
        raise EquipoiseError(
            "bbq: too few train questions for solved examples; use shots=0 or more categories"
        )
    examples: list[_Question] = []
    for number, name in zip(range(shots), cycle(names), strict=False):
        letter, side = number % 3, ("pro", "anti")[number // 2 % 2]

        used = {example.pair for example in examples}

        def rank(
            question: _Question,
            used: Collection[str] = used,
            letter: int = letter,
            side: str = side,
        ) -> tuple[float, ...]:
            followed = (question.item.sides or ())[question.right]
            return (
                question.pair in used,
                question.right != letter,
                not question.row.ambiguous and followed != side,
                unit_hash("example", question.item.id),
            )

        examples.append(min(pools[name, number % 2 == 0], key=rank))
    return examples


def _notes(
    rows: Sequence[Row],
    questions: Sequence[_Question],
    data: Path | None,
    *,
    generated: bool,
    shots: int,
) -> tuple[str, ...]:
    source = "generated from the official templates" if generated else "as released"
    notes = [f"BBQ: CC BY 4.0; {source}" + (f", from the hub ({HUB_ID})" if data is None else "")]
    redrawn = sorted({row.category for row in rows if "/regenerated" in row.source})
    if redrawn and not generated:
        notes.append(f"regenerated, not the published draws: {', '.join(redrawn)}")
    lost = Counter(row.category for row in rows if row.target is None)
    if lost:
        where = ", ".join(f"{count} of {name}" for name, count in sorted(lost.items()))
        notes.append(f"left out, the stereotyped groups single out neither person: {where}")
    if shots:
        left = len(rows) - lost.total() - len(questions)
        notes.append(
            f"{shots} solved examples from the train split before every question; "
            f"the {left} questions about the people in them are left out"
        )
    return tuple(notes)
