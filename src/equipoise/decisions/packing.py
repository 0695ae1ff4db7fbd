"""Whether rows may share a sequence: a model that reads trees, a steering that they do not change.

Where they may not, each row is a sequence of its own (:mod:`equipoise.decisions.suffixes`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from equipoise.decisions.batch import Batch, batches
from equipoise.decisions.encode import Encoded
from equipoise.decisions.forward import last_logits
from equipoise.decisions.layout import lay_out
from equipoise.decisions.suffixes import keeps_all
from equipoise.decisions.trials import agree, attention, passes, probe
from equipoise.steering.attach.runtime import Runtime

if TYPE_CHECKING:
    from equipoise.steering.attach.attachment import Attachment

# Others take a mask for something else, and may not raise: flex_attention crashes on a CPU, flash
# kernels would make lengths of it.
_READ_MASKS = ("eager", "sdpa")


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
    if attention(model) not in _READ_MASKS or not keeps_all(model):
        return False
    return passes(model, _reads_one)


def _reads_one(model: nn.Module) -> bool | None:
    """Try rows of which one is the stem of the others.

    All its tokens are measured, so they come last in the sequence, after those that follow them:
    a model that also goes by the order of columns (masks or windows of its own) cannot agree.
    """
    ids = probe(model, 40)
    stem, options = ids[:6], ((ids[30], ids[31]), (ids[32],))
    rows = [Encoded(stem, options, tuple(range(len(stem))))]
    for end in (ids[6:16], ids[16:18], ids[18:30]):
        prompt = (*stem, *end, stem[-1])
        rows.append(Encoded(prompt, options, (len(prompt) - 1,)))
    (together,) = batches(model, rows, 1 << 16, kinds=[0] * len(rows))
    if together.sequences is None:
        return False
    alone = [last_logits(model, lay_out(Batch.of([rows[i]]))) for i in together.index]
    return agree(last_logits(model, lay_out(together)), torch.cat(alone))
