"""The ``--config`` file: read, and written beside every output."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from equipoise.cli.options import Options
from equipoise.errors import EquipoiseError
from equipoise.suggest import did_you_mean

NAME = "config.yaml"


def read_config(path: str | None, known: Collection[str]) -> dict[str, Any]:
    """Options of a YAML file; an option without a value counts as not given.

    Args:
        path: The file; None gives no options.
        known: Options that the command has.

    Raises:
        EquipoiseError: Not readable, not YAML, not a mapping, or an unknown key.
    """
    if path is None:
        return {}
    try:
        value = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise EquipoiseError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise EquipoiseError(f"{path}: not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or "cannot be parsed"
        raise EquipoiseError(f"{path}{line}: not YAML: {why}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise EquipoiseError(f"{path}: expected `option: value` lines, not a {_kind(value)}")
    options = {}
    for key, entry in value.items():
        name = str(key).replace("-", "_")
        if name not in known:
            hint = did_you_mean(name, known) or f"; it has: {', '.join(known)}"
            raise EquipoiseError(f"{path}: this command has no option {str(key)!r}{hint}")
        if entry is not None:
            options[name] = entry
    return options


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
    again = out.with_name(f"{out.name}-again")
    words = ["equipoise", command, "--config", str(out / NAME), "--out", str(again)]
    return shlex.join(words)
