"""Equipoise: audit and steer stereotype-driven decisions of open-weight language models.

The names below are the public surface. They are looked up on first use, so that importing the
package is quick and does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equipoise.errors import EquipoiseError
    from equipoise.models import load
    from equipoise.steering import Steering
    from equipoise.study import Result, audit, fit, run, sweep
    from equipoise.tasks import Item, Task
    from equipoise.tasks import load_capability as capability
    from equipoise.tasks import load_task as task

    __version__: str

# Public name: module and name there.
_PLACES = {
    "EquipoiseError": ("equipoise.errors", "EquipoiseError"),
    "Item": ("equipoise.tasks", "Item"),
    "Result": ("equipoise.study", "Result"),
    "Steering": ("equipoise.steering", "Steering"),
    "Task": ("equipoise.tasks", "Task"),
    "audit": ("equipoise.study", "audit"),
    "capability": ("equipoise.tasks", "load_capability"),
    "fit": ("equipoise.study", "fit"),
    "load": ("equipoise.models", "load"),
    "run": ("equipoise.study", "run"),
    "sweep": ("equipoise.study", "sweep"),
    "task": ("equipoise.tasks", "load_task"),
}

__all__ = [
    "EquipoiseError",
    "Item",
    "Result",
    "Steering",
    "Task",
    "__version__",
    "audit",
    "capability",
    "fit",
    "load",
    "run",
    "sweep",
    "task",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("equipoise")
    elif name in _PLACES:
        module, attribute = _PLACES[name]
        value = getattr(import_module(module), attribute)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
