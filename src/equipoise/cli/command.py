"""Turn a function of option groups into a command: flags, then the config file, then defaults."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from equipoise.cli.config_file import read_config
from equipoise.cli.exits import Interrupted
from equipoise.cli.options import CommonOptions, Flag, Options, flag_of, parse_settings
from equipoise.cli.terminal import Terminal
from equipoise.errors import EquipoiseError
from equipoise.suggest import did_you_mean

Function = Callable[..., None]


def command(app: typer.Typer, name: str, **defaults: Any) -> Callable[[Function], Function]:
    """Register a function as a command.

    The function takes a :class:`Terminal` and option groups; every field of a group becomes an
    option. :class:`CommonOptions` come with every command.

    Args:
        app: Where to register it.
        name: The command's name.
        **defaults: This command's defaults of fields that have none, or another one.
    """

    def register(function: Function) -> Function:
        hints = get_type_hints(function)
        groups: dict[str, type[Options]] = {
            parameter: kind
            for parameter, kind in hints.items()
            if isinstance(kind, type) and issubclass(kind, Options)
        }
        taken = {**groups, "common": CommonOptions}
        fields = {
            field: (info, group)
            for group in taken.values()
            for field, info in group.model_fields.items()
        }

        @wraps(function)
        def run(**flags: Any) -> None:
            given = {k: v for k, v in flags.items() if v is not None and v not in ([], ())}
            built = _build(taken, fields, defaults, given)
            common: Any = built["common"]
            passed = {key: built[key] for key in taken if key in hints}
            with Terminal(machine=common.json_, quiet=common.quiet) as terminal:
                try:
                    function(terminal, **passed)
                except KeyboardInterrupt:
                    raise Interrupted("interrupted") from None

        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                _parameter(field, info, group.panel, defaults.get(field))
                for field, (info, group) in fields.items()
            ]
        )
        run.__annotations__ = {
            p.name: p.annotation
            for p in run.__signature__.parameters.values()  # type: ignore[attr-defined]
        }
        app.command(name)(run)
        return function

    return register


def _build(
    groups: Mapping[str, type[Options]],
    fields: Mapping[str, tuple[FieldInfo, type[Options]]],
    defaults: Mapping[str, Any],
    given: dict[str, Any],
) -> dict[str, Options]:
    """The groups' values: of the flags given, else of the config file, else defaults."""
    path = given.get("config")
    read = read_config(path, [f for f, (i, _) in fields.items() if _configurable(f, i)])
    if "method_settings" in given:
        try:
            given["method_settings"] = parse_settings(given["method_settings"])
        except ValueError as error:
            raise EquipoiseError(f"--set: {error}") from None
        of_file = read.get("method_settings")
        given["method_settings"] = (of_file if isinstance(of_file, dict) else {}) | given[
            "method_settings"
        ]
    values = {**defaults, **read, **given}
    built = {}
    for name, group in groups.items():
        mine = {field: values[field] for field in group.model_fields if field in values}
        try:
            built[name] = group.model_validate(mine)
        except ValidationError as error:
            raise EquipoiseError(_explain(error, fields, path, given)) from None
    return built


def _configurable(field: str, info: FieldInfo) -> bool:
    """Config files may say where results go, too."""
    return field == "out" or flag_of(info.metadata).recorded


def _explain(
    error: ValidationError,
    fields: Mapping[str, tuple[FieldInfo, type[Options]]],
    path: str | None,
    given: Mapping[str, Any],
) -> str:
    """One line: which option, in the file or on the command line, and what is wrong with it."""
    first = error.errors()[0]
    field = str(first["loc"][0])
    info = fields[field][0]
    flag = flag_of(info.metadata)
    name = flag.metavar if flag.argument else _names(field, flag, boolean=False)[0]
    if first["type"] == "missing":
        return f"{name} is missing: {info.description}"
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] != "value_error":
        what = f"{what[0].lower()}{what[1:]}; got {first['input']!r}"
    if first["type"] == "literal_error":
        known = re.findall("'([^']*)'", first["ctx"]["expected"])
        what += did_you_mean(str(first["input"]), known)
    return f"{name}: {what}" if field in given or path is None else f"{path}: {field}: {what}"


def _parameter(field: str, info: FieldInfo, panel: str, default: Any) -> inspect.Parameter:
    """A field as a parameter that typer understands; None means: not given."""
    flag = flag_of(info.metadata)
    boolean = info.annotation in (bool, bool | None)
    kind: Any = bool | None if boolean else list[str] | None if flag.many else str | None
    known = _shown(info.get_default() if default is None else default)
    help_text = f"{info.description}{f' (default: {known})' if known else ''}"
    shown: dict[str, Any] = {"help": help_text, "rich_help_panel": panel, "show_default": False}
    metavar = flag.metavar or ("N" if "int" in str(info.annotation) else field.upper())
    if flag.argument:
        say = typer.Argument(metavar=metavar, **shown)
    elif boolean:
        say = typer.Option(*_names(field, flag, boolean=True), **shown)
    else:
        say = typer.Option(*_names(field, flag, boolean=False), metavar=metavar, **shown)
    return inspect.Parameter(
        field, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, say]
    )


def _names(field: str, flag: Flag, *, boolean: bool) -> list[str]:
    """``--task``, or ``--chat/--no-chat`` where a config file may have said the other."""
    plain = flag.name or f"--{field.replace('_', '-')}"
    return [f"{plain}/--no-{plain[2:]}" if boolean and flag.recorded else plain]


def _shown(default: Any) -> str:
    """A default as the help shows it; empty where there is nothing to show."""
    if default is PydanticUndefined or default in (None, (), {}, False):
        return ""
    if isinstance(default, tuple):
        return ",".join(f"{value:g}" for value in default)
    return "yes" if default is True else str(default)
