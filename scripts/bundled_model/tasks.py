"""The two task files in the JSONL contract ``equipoise/task/1``: coreference and skills.

    python scripts/bundled_model/tasks.py --draw 2 --out FOLDER

writes both with held-out items drawn anew, for a reading that no earlier one has touched; the train
and validation items stay the same. The package holds draw 1.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from coreference import Sentence, draw_ambiguous, draw_unambiguous, question
from skills import ASKED as SKILLS
from split import for_task_files
from words import FEMALE_LIST, MALE_LIST, UNKNOWN, fitting, unseen

SENTENCES = {
    "train": {"ambiguous": 480, "unambiguous": 320},
    "validation": {"ambiguous": 120, "unambiguous": 240},
    "test": {"ambiguous": 240, "unambiguous": 400},
    "unseen": {"ambiguous": 120, "unambiguous": 100},
}
"""By split and kind. An ambiguous one is there twice, as he/she twins; one in which the evidence
decides is there once, with either pronoun: its twin would hardly narrow an interval."""

QUESTIONS = {"train": 240, "validation": 240, "test": 400}
"""Skill items by split, equally many of each skill."""

HARD = {"facts": 1.0, "towns": 0.2, "tracking": 0.5, "comparison": 0.2, "opposites": 0.2}
"""Share of hard questions in the task file, chosen so that no skill is at 100 % or at chance."""

Item = dict[str, Any]


def _pairs(split: str, count: int, rng: random.Random) -> list[tuple[str, str]]:
    """(female-list, male-list) pairs with equal counts per occupation as far as possible."""
    pick = unseen if split == "unseen" else fitting
    columns = []
    for words in (pick(FEMALE_LIST), pick(MALE_LIST)):
        column: list[str] = []
        while len(column) < count:
            column += rng.sample(words, len(words))
        columns.append(column[:count])
    return list(zip(*columns, strict=True))


def _item(sentence: Sentence, female: bool, options: list[str], split: str, name: str) -> Item:
    text, pronoun, used = sentence.render(female)
    lists = {
        word: "female-list" if word in FEMALE_LIST else "male-list" for word in sentence.people
    }
    agreeing = "female-list" if female else "male-list"
    sides = {word: "pro" if lists[word] == agreeing else "anti" for word in sentence.people}
    referent = sentence.referent
    return {
        "id": f"{name}{'f' if female else 'm'}",
        "context": sorted(sentence.people, key=lambda word: lists[word]),
        "prompt": question(text, pronoun, options),
        "options": options,
        "sides": [sides.get(word, "abstain") for word in options],
        "answer": None if referent is None else options.index(sentence.people[referent]),
        "twin": name,
        "classes": [lists.get(word) for word in options],
        "attribute": used,
        "split": split,
    }  # fmt: skip


def _named(seed: int, split: str, draw: int) -> str:
    """What a split's random numbers are seeded with."""
    held_out = split in ("test", "unseen")
    return f"{seed} {split}" + (f" draw {draw}" if held_out and draw > 1 else "")


def coreference_items(seed: int, draw: int = 1) -> list[Item]:
    """All coreference items."""
    items: list[Item] = []
    texts: set[str] = set()
    for split, kinds in SENTENCES.items():
        held = split in ("test", "unseen")
        for kind, count in kinds.items():
            rng = random.Random(f"coreference {_named(seed, split, draw)} {kind}")
            for index, (woman, man) in enumerate(_pairs(split, count, rng)):
                people = (woman, man) if index // 2 % 2 else (man, woman)
                referent = index // 4 % 2
                while True:
                    if kind == "ambiguous":
                        sentence = draw_ambiguous(people, held, rng)
                    else:
                        sentence = draw_unambiguous(people, referent, held, rng)
                    if for_task_files(sentence.text) and sentence.text not in texts:
                        break
                texts.add(sentence.text)
                options = [woman, man] if index % 2 else [man, woman]
                options.insert(index // 8 % 3, UNKNOWN)
                name = f"{split}-{kind[0]}{index:03d}"
                both = (True, False) if kind == "ambiguous" else (index // 24 % 2 == 0,)
                items += [_item(sentence, female, options, split, name) for female in both]
    return items


def skill_items(seed: int, draw: int = 1) -> list[Item]:
    """All skill items."""
    items: list[Item] = []
    seen: set[str] = set()
    for split, count in QUESTIONS.items():
        rng = random.Random(f"skills {_named(seed, split, draw)}")
        for index in range(count):
            name = list(SKILLS)[index % len(SKILLS)]
            while True:
                asked = SKILLS[name](rng, rng.random() < HARD[name])
                if for_task_files(asked.prompt) and asked.prompt not in seen:
                    break
            seen.add(asked.prompt)
            items.append({
                "id": f"{split}-{name}-{index // len(SKILLS):03d}",
                "context": name,
                "prompt": asked.prompt,
                "options": list(asked.options),
                "answer": asked.answer,
                "split": split,
            })  # fmt: skip
    return items


def write_jsonl(path: Path, items: list[Item]) -> None:
    """Write one item a line."""
    lines = (json.dumps(item, ensure_ascii=False) for item in items)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_tasks(folder: Path, seed: int, draw: int = 1) -> None:
    """Write both files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "coreference.jsonl", coreference_items(seed, draw))
    write_jsonl(folder / "skills.jsonl", skill_items(seed, draw))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draw", type=int, default=1, help="of the held-out items")
    args = parser.parse_args()
    write_tasks(args.out, args.seed, args.draw)


if __name__ == "__main__":
    main()
