"""Compiled models: torch.compile does not look at hooks that come after it, unless told to."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

from torch import nn

from equipoise.errors import SteeringError

# A guard on the hooks of a module that the compiled code was given.
_GUARDED = re.compile(r"source=L\[[^\n]*\._forward_hooks")


def check_not_compiled(root: nn.Module) -> None:
    """Refuse a model with compiled code that would go on without our hooks.

    From the first attachment on, models compiled in this process are recompiled when hooks come
    or go (``torch._dynamo.config.skip_nnmodule_hook_guards``), so that attaching and detaching
    take effect in them too. Only code compiled before that is blind to hooks.

    Raises:
        SteeringError: There is such code.
    """
    dynamo: Any = sys.modules.get("torch._dynamo")
    if dynamo is None:
        return
    dynamo.config.skip_nnmodule_hook_guards = False
    entries: Callable[[CodeType], list[Any]] | None = getattr(
        dynamo.eval_frame, "_debug_get_cache_entry_list", None
    )
    if entries is None:
        return
    for code in {code for module in root.modules() for code in _codes(type(module).forward)}:
        for entry in entries(code):
            guards = str(entry.guard_manager)
            # The code may be shared (decorators): only what was traced through this class counts.
            if str(id(type(root))) in guards and not _GUARDED.search(guards):
                raise SteeringError(
                    f"{type(root).__name__} was compiled before a steering was attached, and "
                    "would ignore it: call torch._dynamo.reset(), attach, then compile"
                )


def _codes(function: Any) -> Iterator[CodeType]:
    while function is not None:
        code = getattr(function, "__code__", None)
        if code is not None:
            yield code
        function = getattr(function, "__wrapped__", None)
