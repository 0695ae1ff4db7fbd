"""Compiled models: torch.compile does not look at hooks that come after it, unless told to."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from equipoise.errors import SteeringError


def check_not_compiled(root: nn.Module, sites: Mapping[str, nn.Module]) -> None:
    """Refuse a model with compiled code that would go on without our hooks.

    From the first attachment on, whatever is compiled in this process is compiled anew when hooks
    come or go (``torch._dynamo.config.skip_nnmodule_hook_guards``), so that attaching and detaching
    take effect in it too. Only code compiled before that is blind to hooks, be it the model's, a
    block's, or a function's that calls it.

    Args:
        root: The model.
        sites: Modules to be steered, by their path in it.

    Raises:
        SteeringError: There is such code. Guards name classes, not models: it may be another
            model's of the same kind.
    """
    dynamo: Any = sys.modules.get("torch._dynamo")
    if dynamo is None:
        return
    dynamo.config.skip_nnmodule_hook_guards = False
    calls = {_call(root, path, module) for path, module in sites.items()}
    for name, guards in _compiled_code(dynamo):
        for caller, called, hooks in calls:
            if caller in guards and called in guards and not hooks.search(guards):
                raise SteeringError(
                    f"{type(root).__name__} was compiled before a steering was attached (in "
                    f"{name}), and would ignore it: call torch._dynamo.reset(), attach, then "
                    "compile"
                )


def _call(root: nn.Module, path: str, module: nn.Module) -> tuple[str, str, re.Pattern[str]]:
    """How guards tell that code calls a module, and that it looks at the module's hooks."""
    above, _, leaf = path.rpartition(".")
    types = type(root.get_submodule(above)), type(module)
    caller, called = (str(id(kind)) for kind in types)
    return caller, called, re.compile(rf"\b{re.escape(leaf)}(?:'\])?\._forward_hooks\b")


def _compiled_code(dynamo: Any) -> Iterator[tuple[str, str]]:
    """Name and guards of all that was compiled in this process so far."""
    seen = getattr(getattr(dynamo.convert_frame, "input_codes", None), "seen", ())
    entries = getattr(dynamo.eval_frame, "_debug_get_cache_entry_list", None)
    for code in (reference() for reference in list(seen)):
        if code is not None and entries is not None:
            for entry in entries(code):
                yield code.co_qualname, str(entry.guard_manager)
