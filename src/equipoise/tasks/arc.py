"""ARC (Clark et al., 2018): science questions of school exams, an easy and a challenge set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from equipoise.errors import EquipoiseError
from equipoise.tasks.files import read_csv
from equipoise.tasks.hub import hub_rows
from equipoise.tasks.item import Item, Split
from equipoise.tasks.letters import LETTERS

HUB_ID = "allenai/ai2_arc"
ArcSet = Literal["ARC-Easy", "ARC-Challenge"]
_PARTS: dict[str, Split] = {"train": "train", "validation": "validation", "test": "test"}


class _Question(NamedTuple):
    text: str
    choices: tuple[str, ...]
    answer: int


def load_arc(data: Path | None, name: ArcSet) -> tuple[Item, ...]:
    """The questions of one set, asked as lm-eval's ``arc_easy`` and ``arc_challenge`` ask them.

    Args:
        data: Folder with ``test/NAME_test.csv`` and, if there are, ``train/`` and ``validation/``
            (no header; question, four choices, letter); None asks the hub.
        name: Which set.

    Raises:
        EquipoiseError: Data that are missing or damaged.
    """
    return tuple(
        Item(
            id=f"{name.lower()}-{part}-{number}",
            prompt=f"Question: {question.text}\nAnswer:",
            options=question.choices,
            contexts=(name,),
            answer=question.answer,
            split=split,
        )
        for part, split in _PARTS.items()
        for number, question in enumerate(_questions(data, name, part))
    )


def _questions(data: Path | None, name: ArcSet, part: str) -> Iterator[_Question]:
    if data is None:
        instead = f"give its folder: --data DIR or {name.lower()}:DIR"
        rows = hub_rows(HUB_ID, name, part, instead=instead)
        for row in rows:
            choices = row["choices"]
            answer = choices["label"].index(row["answerKey"])
            yield _Question(row["question"], tuple(choices["text"]), answer)
        return
    path = data / part / f"{name}_{part}.csv"
    if part != "test" and not path.exists():  # the usual copies hold the test part only
        return
    for line, (text, *choices, letter) in read_csv(path, columns=6):
        if letter not in LETTERS[:4] or len(set(choices)) < 4:
            raise EquipoiseError(
                f"{path}:{line}: expected a question, four different choices and A, B, C or D"
            )
        yield _Question(text, tuple(choices), LETTERS.index(letter))
