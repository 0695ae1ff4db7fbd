"""A check of a user's values that pydantic's lax rules lack: yes and no are no numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import ValidationInfo
from pydantic_core import PydanticCustomError


def no_boolean_as_number(value: Any, annotation: Any) -> Any:
    """A value as it is; YAML reads ``yes`` as true, which would pass for 1.

    Args:
        value: What the user gave, before any conversion.
        annotation: The type it is for.

    Raises:
        PydanticCustomError: (a ValueError) A boolean, alone or in a list or a mapping, where only
            numbers are meant.
    """
    kinds = set(_kinds(annotation))
    if kinds & {int, float} and bool not in kinds and any(map(_is_boolean, _parts(value))):
        raise PydanticCustomError("boolean_as_number", "expected a number")
    return value


def check_field(cls: Any, value: Any, info: ValidationInfo) -> Any:
    """The same as a pydantic validator of every field, before its own."""
    return no_boolean_as_number(value, cls.model_fields[info.field_name].annotation)


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _kinds(annotation: Any) -> Iterator[Any]:
    """All types an annotation names, however deep."""
    yield annotation
    for part in get_args(annotation):
        if not isinstance(part, str | int | float):  # a literal's values
            yield from _kinds(part)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else [value]
