"""The value of every option: the flag's, else the config file's, else the default."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from equipoise.cli.config_file import read_config
from equipoise.cli.options import Options, flag_name, flag_of, parse_settings
from equipoise.errors import EquipoiseError
from equipoise.wording import did_you_mean

# Where pydantic names a type of Python's, the user's word for it.
_EXPECTED = {
    "tuple_type": "a list",
    "dict_type": "`key: value` lines",
    "path_type": "a folder or a file",
}


def gather(
    groups: Mapping[str, type[Options]], defaults: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Options]:
    """Fill the groups.

    Args:
        groups: By name.
        defaults: Of this command, by field.
        given: What the flags say, by field, as strings or booleans.

    Raises:
        EquipoiseError: A value that does not fit; names the flag, or the file and the key.
    """
    fields = {f: info for group in groups.values() for f, info in group.model_fields.items()}
    path = given.get("config")
    # A config file may say where results go, too, though that is not part of what a run is.
    known = [f for f, info in fields.items() if f == "out" or flag_of(info).recorded]
    read = read_config(path, known)
    flags = dict(given)
    for field in fields:
        if field in flags and flag_of(fields[field]).settings:
            of_file = read.get(field)
            said = _settings(flag_name(field, fields[field]), flags[field])
            flags[field] = (of_file if isinstance(of_file, dict) else {}) | said
    values = {**defaults, **read, **flags}
    filled = {}
    for name, group in groups.items():
        mine = {field: values[field] for field in group.model_fields if field in values}
        try:
            filled[name] = group.model_validate(mine)
        except ValidationError as error:
            raise EquipoiseError(_explain(error, group, path, flags)) from None
    return filled


def _settings(flag: str, pairs: list[str]) -> dict[str, Any]:
    try:
        return parse_settings(pairs)
    except ValueError as error:
        raise EquipoiseError(f"{flag}: {error}") from None


def _explain(
    error: ValidationError, group: type[Options], path: str | None, flags: Mapping[str, Any]
) -> str:
    """One line: which option, in the file or on the command line, and what is wrong with it."""
    first = error.errors()[0]
    field = str(first["loc"][0])
    info = group.model_fields[field]
    name = flag_name(field, info)
    if first["type"] == "missing":
        return f"{name} is missing: {info.description}"
    if first["type"] in _EXPECTED:
        what = f"expected {_EXPECTED[first['type']]}; got {first['input']!r}"
    elif first["type"] == "value_error":  # raised by our own validators, which say it all
        what = first["msg"].removeprefix("Value error, ")
    else:
        what = f"{first['msg'][0].lower()}{first['msg'][1:]}; got {first['input']!r}"
    if first["type"] == "literal_error":
        choices = re.findall("'([^']*)'", first["ctx"]["expected"])
        what += did_you_mean(str(first["input"]), choices)
    return f"{name}: {what}" if field in flags or path is None else f"{path}: {field}: {what}"
