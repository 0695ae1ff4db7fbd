"""The ``--config`` file: read, and written beside every output."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from equipoise.cli.options import Options
from equipoise.errors import EquipoiseError
from equipoise.wording import did_you_mean

NAME = "config.yaml"
_QUOTE = '; put a value that has a colon in quotes, as in model: "builtin:"'


def read_config(path: str | None, known: Collection[str]) -> dict[str, Any]:
    """Options of a YAML file; an option without a value counts as not given.

    Args:
        path: The file; None gives no options.
        known: Options that the command has.

    Raises:
        EquipoiseError: Not readable, not YAML, not a mapping, an unknown key, or one given twice.
    """
    if path is None:
        return {}
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
        value = yaml.load(text, _UniqueKeys)
    except OSError as error:
        raise EquipoiseError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise EquipoiseError(f"{path}: not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or "cannot be parsed"
        what = "" if isinstance(error, ConstructorError) else "not YAML: "
        hint = _QUOTE if why.startswith("mapping values") else ""
        raise EquipoiseError(f"{path}{line}: {what}{why}{hint}") from None
    except RecursionError:
        raise EquipoiseError(f"{path}: not YAML of options: nested too deep") from None
    except ValueError as error:  # a date such as 2024-13-01, a number of thousands of digits
        raise EquipoiseError(f"{path}: not YAML: {error}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise EquipoiseError(f"{path}: expected `option: value` lines, not a {_kind(value)}")
    options: dict[str, Any] = {}
    for key, entry in value.items():
        name = str(key).replace("-", "_")
        if name in options:
            raise EquipoiseError(f"{path}: {name} is given twice, with a hyphen and without")
        if name not in known:
            hint = did_you_mean(name, known) or f"; it has: {', '.join(known)}"
            raise EquipoiseError(f"{path}: this command has no option {str(key)!r}{hint}")
        options[name] = entry
    return {name: entry for name, entry in options.items() if entry is not None}


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that is given twice is an error, as the standard has it."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"key {key.value!r} is given twice"
                raise ConstructorError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _kind(value: Any) -> str:
    return "list" if isinstance(value, list) else "single value"


def resolved(*groups: Options, **more: Any) -> dict[str, Any]:
    """Every option that decides the outcome, defaults included."""
    merged: dict[str, Any] = {}
    for group in groups:
        merged |= group.recorded()
    return merged | more


def to_yaml(command: str, config: dict[str, Any]) -> str:
    """The text of ``config.yaml``."""
    from equipoise import __version__

    head = (
        f"# equipoise {__version__}. To repeat: equipoise {command} --config THIS_FILE --out DIR\n"
    )
    return head + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def repeat(command: str, out: Path) -> str:
    """The command that repeats the one whose output is in a folder."""
    again = f"{os.path.abspath(out)}-again"  # `.` and `..` say no name of their own
    if not out.is_absolute():
        again = os.path.relpath(again)
    words = ["equipoise", command, "--config", str(out / NAME), "--out", again]
    return shlex.join(words)
