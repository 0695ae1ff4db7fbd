"""OpenBookQA (Mihaylov et al., EMNLP 2018): elementary science facts put to use."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from equipoise.errors import EquipoiseError
from equipoise.tasks.files import read_text
from equipoise.tasks.hub import hub_rows
from equipoise.tasks.item import Item, Split

HUB_ID = "allenai/openbookqa"
_PARTS: dict[str, Split] = {"train": "train", "validation": "validation", "test": "test"}
_INSTRUCTION = re.compile(
    r"Please choose the correct answer to the question: (.*?)\s*"
    r"Answer1: (.*?)\s*Answer2: (.*?)\s*Answer3: (.*?)\s*Answer4: (.*?)\s*Answer format: .*",
    re.DOTALL,
)


def load_openbookqa(data: Path | None) -> tuple[Item, ...]:
    """The questions without the book of facts, asked as lm-eval's ``openbookqa`` asks them.

    Args:
        data: Folder with ``test.json`` and, if there are, ``train.json`` and ``validation.json``
            (lists of ``instruction`` and ``answer``); None asks the hub.

    Raises:
        EquipoiseError: Data that are missing or damaged.
    """
    return tuple(
        Item(
            id=f"openbookqa-{part}-{number}",
            prompt=question,
            options=choices,
            contexts=("openbookqa",),
            answer=answer,
            split=split,
        )
        for part, split in _PARTS.items()
        for number, (question, choices, answer) in enumerate(_questions(data, part))
    )


def _questions(data: Path | None, part: str) -> Iterator[tuple[str, tuple[str, ...], int]]:
    if data is None:
        for row in hub_rows(
            HUB_ID, "main", part, instead="give its folder: --data DIR or openbookqa:DIR"
        ):
            choices = row["choices"]
            answer = choices["label"].index(row["answerKey"].strip())
            yield row["question_stem"], tuple(choices["text"]), answer
        return
    path = data / f"{part}.json"
    if part != "test" and not path.exists():  # the usual copies hold the test part only
        return
    for number, row in enumerate(_list(path), 1):
        try:
            match = _INSTRUCTION.fullmatch(row["instruction"])
            answer = ("answer1", "answer2", "answer3", "answer4").index(row["answer"])
        except (KeyError, TypeError, ValueError):
            match, answer = None, 0
        if match is None or len(set(match.groups()[1:])) < 4:
            raise EquipoiseError(
                f"{path}: entry {number}: expected an 'instruction' with a question and four "
                "different answers, and an 'answer' from answer1 to answer4"
            )
        question, *choices = match.groups()
        yield question, tuple(choices), answer


def _list(path: Path) -> list[Any]:
    try:
        rows = json.loads(read_text(path))
    except (ValueError, RecursionError):
        raise EquipoiseError(f"{path}: not complete JSON; is the file cut off?") from None
    if not isinstance(rows, list) or not rows:
        raise EquipoiseError(f"{path}: expected a JSON list of questions")
    return rows
