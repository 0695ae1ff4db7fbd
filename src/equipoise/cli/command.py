"""Turn a function of option groups into a command."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from equipoise.cli.exits import Interrupted
from equipoise.cli.options import CommonOptions, Options, flag_name, flag_of
from equipoise.cli.terminal import Terminal
from equipoise.cli.values import gather

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
        groups = _groups(function)

        @wraps(function)
        def run(**flags: Any) -> None:
            given = {k: v for k, v in flags.items() if v is not None and v != []}
            values = gather(groups, defaults, given)
            common: Any = values["common"]
            with Terminal(machine=common.json_, quiet=common.quiet) as terminal:
                try:
                    function(terminal, **values)
                except KeyboardInterrupt:
                    raise Interrupted("interrupted") from None

        parameters = [
            _parameter(field, info, group.panel, defaults.get(field))
            for group in groups.values()
            for field, info in group.model_fields.items()
        ]
        vars(run)["__signature__"] = inspect.Signature(parameters)
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        app.command(name)(run)
        return function

    return register


def _groups(function: Function) -> Mapping[str, type[Options]]:
    """The groups a function takes, by parameter."""
    hints = get_type_hints(function)
    groups = {k: v for k, v in hints.items() if isinstance(v, type) and issubclass(v, Options)}
    if groups.get("common") is not CommonOptions:
        raise TypeError(f"{function.__name__} must take `common: CommonOptions`")
    return groups


def _parameter(field: str, info: FieldInfo, panel: str, default: Any) -> inspect.Parameter:
    """A field as a parameter that typer understands; None means: not given."""
    flag = flag_of(info)
    boolean = info.annotation in (bool, bool | None)
    kind: Any = bool | None if boolean else list[str] | None if flag.many else str | None
    known = _shown(info.get_default() if default is None else default)
    help_text = f"{info.description}{f' (default: {known})' if known else ''}"
    shown: dict[str, Any] = {"help": help_text, "rich_help_panel": panel, "show_default": False}
    if not boolean:
        shown["metavar"] = flag.metavar or ("N" if info.annotation is int else field.upper())
    name = flag_name(field, info)
    if boolean and flag.recorded:
        name += f"/--no-{name[2:]}"  # to say no where a config file says yes
    say = typer.Argument(**shown) if flag.argument else typer.Option(name, **shown)
    return inspect.Parameter(
        field, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, say]
    )


def _shown(default: Any) -> str:
    """A default as the help shows it; empty where there is nothing to show."""
    if default is PydanticUndefined or default in (None, (), {}, False):
        return ""
    if isinstance(default, tuple):
        return ",".join(f"{value:g}" for value in default)
    return "yes" if default is True else str(default)
