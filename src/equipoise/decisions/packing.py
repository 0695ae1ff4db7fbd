"""Whether rows may share a sequence: a model that reads trees, a steering that they do not change.

Where they may not, each row is a sequence of its own (:mod:`equipoise.decisions.suffixes`).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from equipoise.decisions.batch import Batch, batches
from equipoise.decisions.encode import Encoded
from equipoise.decisions.forward import forward
from equipoise.decisions.layout import lay_out
from equipoise.decisions.suffixes import keeps_all
from equipoise.models.backbone import text_config, weights_dtype
from equipoise.steering.attach.runtime import Runtime

if TYPE_CHECKING:
    from equipoise.steering.attach.attachment import Attachment

_KNOWN: WeakKeyDictionary[nn.Module, dict[object, bool]] = WeakKeyDictionary()
# Others take a mask for something else, and may not raise: flex_attention crashes on a CPU, flash
# kernels would make lengths of it.
_READ_MASKS = ("eager", "sdpa")
_CLOSE = {torch.float32: 1e-3, torch.float64: 1e-3}
_CLOSE_IN_HALF = 0.1


def packable_kinds(
    model: nn.Module, n: int, attachment: Attachment | None = None, decisions: Tensor | None = None
) -> list[float] | None:
    """Which of n items may share a sequence: those of the same kind; None: none may.

    A steering must treat all tokens of a sequence alike: those of rows that its gate opens for
    alike, if it has a gate that was asked.

    Args:
        model: A causal LM.
        n: How many items.
        attachment: The attached steering that is told of the rows, if any.
        decisions: float32 [n]; what its row gate says of them, if it was asked.
    """
    if n < 2:
        return None
    runtime = Runtime.of(model)
    for other in [] if runtime is None else runtime.attachments:
        gated = other is attachment and other.row_gate is not None and decisions is not None
        alike = other.static or (gated and other.steering.scope.everywhere)
        if not alike or other.strength.ndim:  # given per row, not per sequence
            return None
    if not reads_trees(model):
        return None
    return [0.0] * n if decisions is None else decisions.tolist()


def reads_trees(model: nn.Module) -> bool:
    """Whether a model reads several rows in one sequence as it reads each alone.

    Found by trying, once: a tree of rows, and each of them. A model may take no mask or no
    positions of ours, or make its own of them.
    """
    attention = getattr(text_config(model), "_attn_implementation", None) or "eager"
    if attention not in _READ_MASKS or not keeps_all(model):
        return False
    known = _KNOWN.setdefault(model, {})
    kind = attention, weights_dtype(model), model.training
    if kind not in known:
        runtime = Runtime.of(model)
        with contextlib.nullcontext() if runtime is None else runtime.mute(), torch.no_grad():
            try:
                known[kind] = _agree(model)
            except torch.OutOfMemoryError:
                raise
            except Exception:  # whatever it takes exception to, it reads them row by row
                known[kind] = False
    return known[kind]


def _agree(model: nn.Module) -> bool:
    """Try rows of which one is the stem of the others.

    All its tokens are measured, so they come last in the sequence, after those that follow them:
    a model that also goes by the order of columns (masks or windows of its own) cannot agree.
    """
    config = text_config(model)
    ids = torch.linspace(1, config.vocab_size - 1, 40).long().tolist()
    stem, options = tuple(ids[:6]), ((ids[30], ids[31]), (ids[32],))
    rows = [Encoded(stem, options, tuple(range(len(stem))))]
    for end in (ids[6:16], ids[16:18], ids[18:30]):
        rows.append(Encoded((*stem, *end), options, (len(stem) + len(end) - 1,)))
    (together,) = batches(model, rows, 1 << 16, kinds=[0] * len(rows))
    if together.sequences is None:
        return False
    found = _last(model, together)
    scale = found.std().clamp(min=1e-12)
    limit = _CLOSE.get(found.dtype, _CLOSE_IN_HALF)
    for b, i in enumerate(together.index):
        alone = _last(model, Batch.of([rows[i]]))[0]
        if not bool(((found[b] - alone).abs() <= limit * scale).all()):
            return False
    return True


def _last(model: nn.Module, batch: Batch) -> Tensor:
    """Logits after the last prompt token of each row, [n, V]."""
    layout = lay_out(batch)
    ids, mask, positions, how = layout.inputs(model, None, 1)
    logits = forward(model, ids, mask, positions, use_cache=False, **how).logits
    last = [columns[-1] for columns in layout.columns]
    return logits[layout.sequence, last]
