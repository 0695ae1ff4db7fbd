"""Lettered questions with their choices under other letters."""

from __future__ import annotations

from dataclasses import replace

from equipoise.tasks.item import Item
from equipoise.tasks.letters import LETTERS, lettered


def rotations(item: Item) -> tuple[Item, ...]:
    """An item with each choice under each letter once: K items, the first one as it was.

    Over them a right answer is every letter equally often, and so is a stereotyped one: what is
    specific to a letter cancels in the difference of their means. An item whose options are not
    the letters of choices in its prompt stands alone.
    """
    choices = _choices(item)
    if choices is None:
        return (item,)
    head, texts = choices
    return tuple(_rotated(item, head, texts, by) for by in range(len(texts)))


def _choices(item: Item) -> tuple[str, tuple[str, ...]] | None:
    """The prompt before its last block of choices, and the texts of these."""
    count = len(item.options)
    if item.options != LETTERS[:count]:
        return None
    *head, end = item.prompt.split("\n")
    lines, head = head[-count:], head[:-count]
    marks = [f"{letter}. " for letter in item.options]
    if end != "Answer:" or len(lines) < count:
        return None
    if not all(line.startswith(mark) for line, mark in zip(lines, marks, strict=True)):
        return None
    texts = tuple(line.removeprefix(mark) for line, mark in zip(lines, marks, strict=True))
    question = "\n".join(head)
    return (question, texts) if lettered(question, texts) == item.prompt else None


def _rotated(item: Item, question: str, texts: tuple[str, ...], by: int) -> Item:
    order = [(k + by) % len(texts) for k in range(len(texts))]

    def moved(values: tuple | None) -> tuple | None:
        return None if values is None else tuple(values[k] for k in order)

    return replace(
        item,
        prompt=lettered(question, [texts[k] for k in order]),
        sides=moved(item.sides),
        groups=moved(item.groups),
        classes=moved(item.classes),
        answer=None if item.answer is None else order.index(item.answer),
    )
