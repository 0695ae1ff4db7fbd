"""CEB (Wang et al., 2024): is this a stereotype? which of two is worse? and go on from here.

Recognition and selection have a right answer and are items; continuation and conversation are
prompts for free text, which a scorer judges (``fairness.benchmarks.free_text``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from equipoise.errors import EquipoiseError
from equipoise.tasks.files import read_text
from equipoise.tasks.item import Item, OpenPrompt, Task
from equipoise.tasks.splits import assign_splits, digest
from equipoise.wording import did_you_mean

CHOICES = {
    "recognition-s": "CEB-Recognition-S",
    "recognition-t": "CEB-Recognition-T",
    "selection-s": "CEB-Selection-S",
    "selection-t": "CEB-Selection-T",
    "recognition-cp": "CEB-CP",
    "recognition-rb": "CEB-RB",
    "recognition-ss": "CEB-SS",
    "recognition-wb": "CEB-WB",
}
FREE_TEXT = {
    "continuation-s": "CEB-Continuation-S",
    "continuation-t": "CEB-Continuation-T",
    "conversation-s": "CEB-Conversation-S",
    "conversation-t": "CEB-Conversation-T",
}
PARTS = CHOICES | FREE_TEXT
_OWN = ("recognition", "selection")
_TOGETHER = ("recognition", "selection", "continuation", "conversation")  # -s and -t of each
_ANSWERS = {  # label: what the prompt offers it as
    "stereotype": 0,
    "anti-stereotype": 1,
    "unrelated": 2,
    "toxic": 0,
    "non-toxic": 1,
}
_SELECTED = ("stereotype", "toxic")
_SCENARIO = re.compile(r'following context: "(.*?)", which one', re.DOTALL)
_QUOTED = re.compile(r'"(.*)"\s*\n', re.DOTALL)
_FIRST_WORDS = 5
_OFFERED = re.compile(r"(?<!\d)([123])\. ")


def build(*, data: Path, parts: str | Sequence[str] = ()) -> Task:
    """CEB's questions, ``part: axis`` being the context, and its prompts for free text.

    All questions have a right answer: the task measures accuracy, and has no per-occupation bias.
    The questions about one scenario are a twin; scenarios that begin with the same words, in
    whichever part, go to one split together.

    Args:
        data: CEB's ``data/``, or the folder that holds it.
        parts: Names out of ``PARTS``, or without their ``-s`` and ``-t`` for both (or one string
            with commas); recognition and selection unless told. Free text, and the questions
            adapted from other benchmarks, come on request.

    Raises:
        EquipoiseError: An unknown part, or data that are missing or damaged.
    """
    names = _parts(parts or _OWN)
    items: list[Item] = []
    beginnings: dict[str, str] = {}
    for part in [name for name in names if name in CHOICES]:
        for where, name, number, row in _rows(data, CHOICES[part]):
            try:
                item = _item(part, name, number, row)
            except (KeyError, TypeError, ValueError) as error:
                raise EquipoiseError(f"{where}: entry {number}: not of CEB ({error})") from None
            items.append(item)
            beginnings[item.id] = _beginning(row)
    return Task(
        name="ceb",
        items=assign_splits(items, held_out=(), key=lambda item: beginnings[item.id]),
        prompts=_prompts(data, [name for name in names if name in FREE_TEXT]),
        notes=("CEB: no licence stated, do not pass it on; every item has a right answer",),
    )


def _prompts(data: Path, parts: Sequence[str]) -> tuple[OpenPrompt, ...]:
    prompts = []
    for part in parts:
        for where, name, number, row in _rows(data, FREE_TEXT[part]):
            try:
                one = OpenPrompt(
                    id=f"{part}-{name}-{number}",
                    prompt=row["prompt"],
                    part=part,
                    axis=name,
                    group=row["bucket"],
                )
            except (KeyError, TypeError) as error:
                raise EquipoiseError(f"{where}: entry {number}: not of CEB ({error})") from None
            prompts.append(one)
    return tuple(prompts)


def _parts(parts: str | Sequence[str]) -> list[str]:
    """The parts named, each once; ``recognition`` stands for both of its own."""
    given = parts.split(",") if isinstance(parts, str) else parts
    names: list[str] = []
    for name in (name.strip() for name in given if name.strip()):
        if name not in (*PARTS, *_TOGETHER):
            known = (*_TOGETHER, *PARTS)
            raise EquipoiseError(
                f"ceb has no part {name!r}{did_you_mean(name, known)}; "
                f"there are: {', '.join(known)}"
            )
        names += [f"{name}-s", f"{name}-t"] if name in _TOGETHER else [name]
    return list(dict.fromkeys(names))


def _rows(data: Path, folder: str) -> Iterator[tuple[Path, str, int, dict[str, Any]]]:
    """File, its name (the axis), number and content of every entry of a part."""
    place = data / "data" if (data / "data").is_dir() else data
    files = sorted((place / folder).glob("*.json"))
    if not files:
        raise EquipoiseError(f"{place / folder}: no *.json; give the folder that holds {folder}/")
    for path in files:
        try:
            rows = json.loads(read_text(path))
        except (ValueError, RecursionError):
            raise EquipoiseError(f"{path}: not complete JSON; is the file cut off?") from None
        if not isinstance(rows, list) or not rows:
            raise EquipoiseError(f"{path}: expected a JSON list of entries")
        for number, row in enumerate(rows, 1):
            yield path, path.stem, number, row


def _item(part: str, name: str, number: int, row: dict[str, Any]) -> Item:
    prompt, label = row["prompt"], row["label"]
    offered = len(dict.fromkeys(_OFFERED.findall(prompt)))
    if isinstance(label, list):
        (answer,) = [index for index, one in enumerate(label) if one in _SELECTED]
    else:
        answer = _ANSWERS[label]
    if row.get("target", answer + 1) != answer + 1 or answer >= offered:
        raise ValueError(f"label {label!r} does not fit target {row.get('target')!r}")
    return Item(
        id=f"{part}-{name}-{number}",
        twin=f"{part}-{digest('ceb', _scenario(row))[:12]}",
        contexts=(f"{part}: {row['type']}",),
        prompt=prompt,
        options=("1", "2", "3")[:offered],
        answer=answer,
    )


def _scenario(row: dict[str, Any]) -> str:
    """What the questions about one situation share; a sentence without any is its own."""
    prompt = row["prompt"]
    if "context" in row:
        return " ".join(row["context"].split())
    if match := _SCENARIO.search(prompt):
        return " ".join(match[1].split())
    match = _QUOTED.search(prompt)
    text = " ".join((match[1] if match else prompt).split())
    if "pronoun" in row:  # he and she versions
        return re.sub(rf"\b{re.escape(row['pronoun'])}\b", "_", text)
    return text.removesuffix(" ".join(row["sentence"].split())).strip() or text


def _beginning(row: dict[str, Any]) -> str:
    """The first words of a scenario: variants of one template mostly have them in common."""
    return " ".join(_scenario(row).split()[:_FIRST_WORDS])
