"""What a model makes of rows that are read together, found by trying, once.

A list of architectures would age, and knows nothing of a model in a wrapper or of someone's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from equipoise.models.backbone import text_config, weights_dtype
from equipoise.models.model import unwrap
from equipoise.steering.attach.runtime import Runtime

Trial = Callable[[nn.Module], bool | None]
"""Whether a model does something; None: its logits do not tell."""

_KNOWN: WeakKeyDictionary[nn.Module, dict[object, bool]] = WeakKeyDictionary()
_CLOSE = {torch.float32: 1e-3, torch.float64: 1e-3}
_CLOSE_IN_HALF = 0.1
_MATTERS = 0.3


def passes(model: nn.Module, trial: Trial) -> bool:
    """Whether a model, unsteered, passes a trial: run once for each way it computes.

    Whatever it takes exception to, it does not pass; memory that ran out is no answer. What its
    logits do not tell is not remembered: its weights may not be loaded yet.
    """
    root = unwrap(model)  # compiled, each shape tried would be compiled too
    known = _KNOWN.setdefault(root, {})
    checkpoints = any(getattr(m, "gradient_checkpointing", False) for m in root.modules())
    kind = trial, attention(root), weights_dtype(root), root.training, checkpoints
    if kind in known:
        return known[kind]
    try:
        runtime = Runtime.of(root)
        with contextlib.nullcontext() if runtime is None else runtime.mute(), torch.no_grad():
            found = trial(root)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception:
        found = False
    if found is not None:
        known[kind] = found
    return bool(found)


def attention(model: nn.Module) -> str:
    """The attention implementation in use."""
    return getattr(text_config(model), "_attn_implementation", None) or "eager"


def probe(model: nn.Module, n: int) -> tuple[int, ...]:
    """Token ids to try, from all over the vocabulary."""
    return tuple(torch.linspace(1, text_config(model).vocab_size - 1, n).long().tolist())


def agree(found: Tensor, alone: Tensor) -> bool | None:
    """Whether rows that end in the same token get the logits of each row alone.

    Args:
        found: float [n, V]; after the last token of each row, read together.
        alone: float [n, V]; of each row read alone.

    Returns:
        None if what is before that token hardly matters: it cannot be seen how it was read.
    """
    if not all(differ(alone[0], other) for other in alone[1:]):
        return None
    close = _CLOSE.get(alone.dtype, _CLOSE_IN_HALF)
    return bool(((found - alone).abs() <= close * _spread(alone)).all())


def differ(one: Tensor, other: Tensor) -> bool:
    """Whether logits tell that something else was read."""
    return bool((one - other).abs().max() > _MATTERS * _spread(one))


def _spread(logits: Tensor) -> Tensor:
    """Their standard deviation, but for tokens that are forbidden (Chameleon's, by -3e38)."""
    logits = logits.float()
    return 1.48 * (logits - logits.median()).abs().median()
