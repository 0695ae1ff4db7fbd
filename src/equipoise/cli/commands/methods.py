"""``equipoise methods``."""

from __future__ import annotations

import json
from typing import Any

from rich import box
from rich.table import Table

from equipoise.cli.options import CommonOptions, MethodNameOptions
from equipoise.cli.terminal import Terminal

_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def methods(terminal: Terminal, method: MethodNameOptions, common: CommonOptions) -> None:
    """What methods there are, or the settings of one."""
    from equipoise.methods import METHODS

    if method.name is not None:
        chosen = METHODS.get(method.name)
        settings = chosen.config.model_json_schema().get("properties", {})
        how = "Set one with --set KEY=VALUE, or under method_settings: in a config file."
        described = {"name": chosen.name, "summary": chosen.summary, "settings": settings}
        terminal.show(described, chosen.summary, _table(settings), how)
        return
    found = list(METHODS)
    table = Table("method", "", box=box.SIMPLE_HEAD, pad_edge=False)
    for one in found:
        table.add_row(one.name, one.summary)
    terminal.show(
        {"methods": [{"name": one.name, "summary": one.summary} for one in found]},
        table,
        "Settings of one: equipoise methods NAME",
    )


def _table(settings: dict[str, Any]) -> Table:
    table = Table("setting", "default", "value", "", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, schema in settings.items():
        default = schema.get("default")
        shown = default if isinstance(default, str) else json.dumps(default)
        table.add_row(name, shown, _values(schema), schema.get("description", ""))
    return table


def _values(schema: dict[str, Any]) -> str:
    """``sum | mean``, or ``number ≥ 0``."""
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " | ".join(_values(part) for part in schema["anyOf"])
    bounds = [f"{sign} {schema[key]:g}" for key, sign in _BOUNDS.items() if key in schema]
    return " ".join([str(schema.get("type", "")), *bounds])
