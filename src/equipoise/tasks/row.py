"""One line of a task file: its schema, its checks, and the item it stands for."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from equipoise.tasks.attribute import whole_words
from equipoise.tasks.item import Item, Side, Split
from equipoise.wording import did_you_mean


class Row(BaseModel):
    """One line of a task file: its fields and their types; null is the same as not given."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str
    options: list[str]
    id: str | None = None
    context: str | list[str] | None = None
    sides: list[Side | None] | None = None
    groups: list[str | None] | None = None
    answer: int | None = None
    twin: str | None = None
    classes: list[str | None] | None = None
    attribute: list[str] | None = None
    images: list[str] | None = None
    split: Split | None = None

    @property
    def contexts(self) -> list[str]:
        """The context, or contexts, as a list."""
        return [self.context] if isinstance(self.context, str) else self.context or []


def parse(text: str) -> Row:
    """The row of a line; ValueError says what is wrong with it."""
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except _GivenTwiceError:
        raise
    except RecursionError:
        raise ValueError("not JSON of a task item (nested too deep)") from None
    except ValueError as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise ValueError(f"not a complete JSON object ({reason}); is the line cut off?") from None
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError(r"a \u escape stands for half a character (a lone surrogate)") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {_short(value)}")
    try:
        return Row.model_validate(value)
    except ValidationError as error:
        raise ValueError(_explain(error.errors()[0])) from None


class _GivenTwiceError(ValueError):
    """A field of a JSON object that stands there twice; plain JSON takes the last."""


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _GivenTwiceError(f"field {twice!r} is given twice")
    return fields


def _explain(error: ErrorDetails) -> str:
    """One line for the first thing pydantic found."""
    field = str(error["loc"][0])
    known = list(Row.model_fields)
    if error["type"] == "extra_forbidden":
        return f"unknown field {field!r}" + (did_you_mean(field, known) or f"; known: {known}")
    if error["type"] == "missing":
        return f"missing field {field!r}"
    where = "".join(f"[{part}]" for part in error["loc"][1:] if isinstance(part, int))
    reason = error["msg"].removeprefix("Input ").rstrip(".")
    return f"{field}{where} {reason}, got {_short(error['input'])}"


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def item_of(row: Row, line: int, folder: Path) -> Item:
    """The item of a row, its fields checked against each other; ValueError says what is wrong."""
    if not row.prompt.strip():
        raise ValueError("prompt is empty")
    stripped = [option.strip() for option in row.options]
    if len(stripped) < 2:
        raise ValueError(f"options must hold two or more answers, got {len(stripped)}")
    if "" in stripped:
        raise ValueError(f"options[{stripped.index('')}] is empty")
    for i, option in enumerate(stripped):
        if option in stripped[:i]:
            raise ValueError(f"options {stripped.index(option)} and {i} are equal ({option!r})")
    if row.answer is not None and not 0 <= row.answer < len(stripped):
        raise ValueError(
            f"answer {row.answer} is out of range: {len(stripped)} options count from 0"
        )
    for field in ("sides", "groups", "classes"):
        labels = getattr(row, field)
        if labels is not None and len(labels) != len(stripped):
            raise ValueError(f"{field} has {len(labels)} entries for {len(stripped)} options")
    _check_names(row)
    if row.sides is not None and row.groups is not None:
        raise ValueError("both sides and groups; give sides for two groups, groups for more")
    if row.answer is None:
        _check_ambiguous(row)
    identity = row.id or f"line-{line}"
    return Item(
        id=identity,
        prompt=row.prompt,
        options=tuple(row.options),
        contexts=tuple(row.contexts),
        sides=None if row.sides is None else tuple(row.sides),
        groups=None if row.groups is None else tuple(row.groups),
        answer=row.answer,
        twin=row.twin or "",
        classes=None if row.classes is None else tuple(row.classes),
        attribute=tuple(row.attribute or ()),
        images=tuple(_image(folder, image) for image in row.images or ()),
        split=row.split or "test",
    )


def _check_names(row: Row) -> None:
    """Names say something, contexts differ, and there is an attribute to mask."""
    for field in ("context", "groups", "classes", "attribute"):
        given = getattr(row, field)
        if isinstance(given, str):  # a single context
            if not given.strip():
                raise ValueError(f"{field} is empty")
            continue
        for k, name in enumerate(given or ()):
            if name is not None and not name.strip():
                raise ValueError(f"{field}[{k}] is empty")
    for k, context in enumerate(row.contexts):
        if context in row.contexts[:k]:
            raise ValueError(f"context {context!r} is given twice")
    if row.attribute and not whole_words(row.attribute).search(row.prompt):
        raise ValueError(
            f"attribute {_short(row.attribute)}: none of the words stands in the prompt as a word "
            "of its own; fair decoding would mask nothing"
        )


def _check_ambiguous(row: Row) -> None:
    """An ambiguous item must be evidence of a bias: on a context, between groups."""
    if not row.contexts:
        raise ValueError("an ambiguous item (answer null) needs a context")
    if row.sides is None and row.groups is None:
        raise ValueError("an ambiguous item (answer null) needs sides or groups")
    if row.sides is not None and not {"pro", "anti"} <= set(row.sides):
        raise ValueError("sides of an ambiguous item need at least one 'pro' and one 'anti'")
    if row.groups is not None and len(set(row.groups) - {None}) < 2:
        raise ValueError("groups of an ambiguous item need at least two different groups")


def _image(folder: Path, image: str) -> str:
    path = (folder / image).absolute()
    if "\0" in image or not path.is_file():
        raise ValueError(f"image {image!r} does not exist (looked for {path})")
    return str(path)


def row_of(item: Item, folder: Path) -> dict[str, object]:
    """The fields of an item that say something, in the contract's order."""
    row: dict[str, object] = {
        "id": item.id,
        "context": item.contexts[0] if len(item.contexts) == 1 else item.contexts,
        "prompt": item.prompt,
        "options": item.options,
        "sides": item.sides,
        "groups": item.groups,
        "answer": item.answer,
        "twin": item.twin,
        "classes": item.classes,
        "attribute": item.attribute,
        "images": [os.path.relpath(image, folder) for image in item.images],
        "split": item.split,
    }
    return {field: value for field, value in row.items() if value or field == "answer"}
