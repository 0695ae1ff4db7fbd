"""MMLU (Hendrycks et al., ICLR 2021): four-choice questions on 57 subjects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from equipoise.errors import EquipoiseError
from equipoise.tasks.files import read_csv
from equipoise.tasks.hub import hub_rows
from equipoise.tasks.item import Item, Split

HUB_ID = "cais/mmlu"
LETTERS = ("A", "B", "C", "D")
_PARTS: dict[str, Split] = {"dev": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class _Question:
    subject: str
    text: str
    choices: tuple[str, ...]
    answer: int


def load_mmlu(data: Path | None, *, shots: int = 0) -> tuple[Item, ...]:
    """MMLU's questions with the letters as options; subjects are the contexts.

    ``dev`` questions are train, ``val`` validation, ``test`` test. The prompt is the benchmark's:
    a line that names the subject, the solved examples, the question, ``Answer:``.

    Args:
        data: Folder with ``dev/``, ``val/`` and ``test/`` of ``SUBJECT_PART.csv`` files (no header;
            question, four choices, letter); None asks the hub.
        shots: Solved examples (0 to 5) from the subject's ``dev`` questions, never itself.

    Raises:
        EquipoiseError: Bad ``shots``, or data that are missing or malformed.
    """
    if not 0 <= shots <= 5:
        raise EquipoiseError(f"mmlu has 0 to 5 shots, got {shots}")
    questions = {part: list(_questions(data, part)) for part in _PARTS}
    examples: dict[str, list[_Question]] = defaultdict(list)
    for question in questions["dev"]:
        examples[question.subject].append(question)
    items = []
    for part, split in _PARTS.items():
        for number, question in enumerate(questions[part]):
            solved = [other for other in examples[question.subject] if other is not question]
            items.append(
                Item(
                    id=f"mmlu-{part}-{number}",
                    twin=f"mmlu-{part}-{number}",
                    contexts=(question.subject,),
                    prompt=_prompt(question, solved[:shots]),
                    options=LETTERS,
                    answer=question.answer,
                    split=split,
                )
            )
    return tuple(items)


def _prompt(question: _Question, solved: Sequence[_Question]) -> str:
    head = f"The following are multiple choice questions (with answers) about {question.subject}."
    shown = [f"{_ask(example)} {LETTERS[example.answer]}" for example in solved]
    return "\n\n".join([head, *shown, _ask(question)])


def _ask(question: _Question) -> str:
    choices = (f"{letter}. {text}" for letter, text in zip(LETTERS, question.choices, strict=True))
    return "\n".join([question.text.strip(), *choices, "Answer:"])


def _questions(data: Path | None, part: str) -> Iterator[_Question]:
    if data is None:
        split = "validation" if part == "val" else part
        for row in hub_rows(
            HUB_ID, "all", split, instead="give its folder: --data DIR or mmlu:DIR"
        ):
            subject = row["subject"].replace("_", " ")
            yield _Question(subject, row["question"], tuple(row["choices"]), row["answer"])
        return
    files = sorted((data / part).glob(f"*_{part}.csv"))
    if not files:
        raise EquipoiseError(f"{data / part}: no *_{part}.csv; give the folder that holds {part}/")
    for path in files:
        subject = path.stem.removesuffix(f"_{part}").replace("_", " ")
        for line, (text, *choices, letter) in read_csv(path, columns=6):
            if letter not in LETTERS:
                raise EquipoiseError(f"{path}:{line}: answer {letter!r} is none of A, B, C, D")
            yield _Question(subject, text, tuple(choices), LETTERS.index(letter))
