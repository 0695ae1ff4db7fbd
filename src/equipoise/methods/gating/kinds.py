"""Anchors by kind, so that a gate can be asked about kinds of prompts it was not trained on."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from equipoise.decisions.activations import Prompt
from equipoise.methods.method import Anchors
from equipoise.tasks.item import Item, Task

UNAMBIGUOUS, QUESTIONS, TEXTS = "unambiguous", "questions", "texts"
_MAX_KINDS, _MIN_ITEMS = 12, 10


@dataclass(frozen=True)
class Kinds:
    """How anchors are sorted: the task's unambiguous items, each capability's, other ones.

    Attributes:
        own: The task's items.
        by_context: Groups whose first contexts (categories of a benchmark, skills) are kinds of
            their own.
    """

    own: frozenset[Item]
    by_context: frozenset[str]

    @classmethod
    def of(cls, task: Task, anchors: Anchors) -> Kinds:
        """The sorting that suits some anchors: by context where these are few and well filled."""
        plain = cls(frozenset(task.items), frozenset())
        contexts: dict[str, Counter[str]] = defaultdict(Counter)
        for item in anchors.items:
            contexts[plain.kind(item, anchors)][_first_context(item)] += 1
        split = {
            group
            for group, found in contexts.items()
            if 1 < len(found) <= _MAX_KINDS and found.total() >= _MIN_ITEMS * len(found)
        }
        return cls(plain.own, frozenset(split))

    def kind(self, prompt: Prompt, anchors: Anchors) -> str:
        """The kind of one of some anchors."""
        if not isinstance(prompt, Item):
            return anchors.sources.get(prompt, TEXTS)
        group = UNAMBIGUOUS if prompt in self.own else anchors.sources.get(prompt, QUESTIONS)
        return f"{group}: {_first_context(prompt)}" if group in self.by_context else group

    def sort(self, anchors: Anchors) -> dict[str, list[Prompt]]:
        """Anchors by kind, in the order of the kinds' names."""
        found: dict[str, list[Prompt]] = defaultdict(list)
        prompts: tuple[Prompt, ...] = (*anchors.items, *anchors.texts)
        for prompt in prompts:
            found[self.kind(prompt, anchors)].append(prompt)
        return dict(sorted(found.items()))


def _first_context(item: Item) -> str:
    return item.contexts[0] if item.contexts else "other"
