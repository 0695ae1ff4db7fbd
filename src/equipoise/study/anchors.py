"""What a fit holds unchanged: prompts and texts of one split, and those given by hand."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

from equipoise.methods import Anchors
from equipoise.methods.method import evenly, some_items
from equipoise.tasks import Capability, Task
from equipoise.tasks.item import Item, Split
from equipoise.wording import counted

MAX_ANCHORS = 512
"""Anchor items, and texts, at most: a fit draws a few dozen a step."""

_LATER: tuple[Split, ...] = ("validation", "test", "unseen")
_HELD_OUT = "of a validation, test or unseen part of the task or of a capability (twins count)"
_AMBIGUOUS = "ambiguous in the task"


def anchors_of(
    task: Task, capability: Sequence[Capability], split: Split, extra: Anchors | None = None
) -> Anchors:
    """Prompts of a split on which a steering should change nothing.

    The task's unambiguous items and texts, the capabilities' items and documents, and any given
    by hand (those belong to the train split). Of too many, each of these sources keeps the same
    number, as far as it has so many: a large benchmark does not crowd out the others.
    """
    given = extra if extra and split == "train" else Anchors()
    items = [[item for item in task.split(split) if not item.ambiguous], given.items]
    items += [one.questions(split) for one in capability]
    texts = [task.texts if split == "train" else (), given.texts]
    texts += [one.texts(split) for one in capability]
    return Anchors(
        tuple(i for kept in _shared_out(items) for i in some_items(*kept)),
        tuple(text for kept in _shared_out(texts) for text in evenly(*kept)),
        _sources(capability, split),
    )


def _sources(capability: Sequence[Capability], split: Split) -> dict[Item | str, str]:
    """Which capability a prompt or text is from."""
    found: dict[Item | str, str] = {}
    for one in capability:
        found |= dict.fromkeys([*one.questions(split), *one.texts(split)], one.name)
    return found


def _shared_out(sources: Sequence[Sequence[Any]]) -> list[tuple[Sequence[Any], int]]:
    """Each source with how many of it to keep, at most ``MAX_ANCHORS`` of all."""
    left, share = MAX_ANCHORS, [0] * len(sources)
    for place, number in enumerate(sorted(range(len(sources)), key=lambda n: len(sources[n]))):
        share[number] = min(len(sources[number]), left // (len(sources) - place))
        left -= share[number]
    return [(source, keep) for source, keep in zip(sources, share, strict=True) if keep]


def allowed(given: Anchors, task: Task, capability: Sequence[Capability]) -> Anchors:
    """Those of the anchors given by hand that a fit may see; one warning tells of the others.

    Left out is what the task or a capability keeps for choosing and judging, and what the task
    asks the fit to change. Prompts and texts are compared word by word.
    """
    if not given:
        return given
    later = list(task.split(*_LATER))
    later += [item for one in capability for item in one.items if item.split in _LATER]
    texts = [item.prompt for item in later] + [prompt.prompt for prompt in task.prompts]
    texts += [text for one in capability for text in one.texts(*_LATER)]
    texts += [text for p in task.pairs if p.split in _LATER for text in (p.more, p.less)]
    held_out = set(map(_words, texts))
    to_change = {_words(item.prompt) for item in task.items if item.ambiguous}
    # A twin that nobody named is its item's id, perhaps the number of a line in some file.
    named = {item.twin for item in (*later, *given.items) if item.twin != item.id}
    twins = named & {item.twin for item in later}

    def why_not(text: str, twin: str | None = None) -> str | None:
        if _words(text) in held_out or twin in twins:
            return _HELD_OUT
        return _AMBIGUOUS if _words(text) in to_change else None

    of_items = [why_not(item.prompt, item.twin) for item in given.items]
    of_texts = [why_not(text) for text in given.texts]
    reasons = Counter(why for why in (*of_items, *of_texts) if why)
    if reasons:
        said = ", ".join(f"{count:,} {why}" for why, count in reasons.items())
        n = len(of_items) + len(of_texts)
        warnings.warn(f"left out of {counted(n, 'anchor')} given: {said}", stacklevel=2)
    return Anchors(
        tuple(item for item, why in zip(given.items, of_items, strict=True) if not why),
        tuple(text for text, why in zip(given.texts, of_texts, strict=True) if not why),
    )


def _words(text: str) -> str:
    return " ".join(text.split())
