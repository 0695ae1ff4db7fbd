"""No NaN or infinity leaves this package: results are checked before they are handed on."""

from __future__ import annotations

import math
from typing import Any


def assert_finite(value: Any, where: str = "result") -> Any:
    """Return a JSON-ready value unchanged after checking every number in it.

    Args:
        value: Nested dicts, lists, tuples, strings, numbers, booleans and None.
        where: Name of the value, for the message.

    Raises:
        ValueError: On NaN or infinity, naming the place (a defect of ours, not a user's mistake).
        TypeError: On something JSON has no form for, such as a numpy scalar.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where}: key {key!r} is not a string")
            assert_finite(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            assert_finite(inner, f"{where}[{index}]")
    elif type(value) is float:
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}")
    elif value is not None and type(value) not in (bool, int, str):
        raise TypeError(f"{where}: {type(value).__name__} has no JSON form")
    return value
