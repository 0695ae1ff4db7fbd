"""What rows begin with, read once: solved examples, a shared context.

A cached beginning belongs to the strengths it was read at, which its stamp says and the runtime
checks; a steering for which the beginning would depend on the row is not offered any.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from equipoise.decisions.batch import Batch
from equipoise.decisions.encode import Encoded
from equipoise.decisions.forward import forward, last_logits, left_pad, told
from equipoise.decisions.layout import lay_out
from equipoise.decisions.suffixes import keeps_all
from equipoise.decisions.tokens import common_length
from equipoise.decisions.trials import agree, passes, probe
from equipoise.models.model import input_device
from equipoise.steering.attach.cache import select_rows

if TYPE_CHECKING:
    from equipoise.steering.attach.attachment import Attachment


def may_share(model: nn.Module, attachment: Attachment | None) -> bool:
    """Whether rows may go on from a beginning that was read before, and for other rows too.

    Not with caches that forget (sliding windows, recurrent states): they count padding. Nor with
    models that count the padding between a beginning and what follows it, or return no cache,
    which is found by trying, once.
    """
    if attachment is not None and not attachment.prompt_may_be_parted:
        return False
    return keeps_all(model) and passes(model, _goes_on)


def _goes_on(model: nn.Module) -> bool | None:
    """Try rows with their beginnings cached: padding lies before some of these, and after some."""
    ids = probe(model, 30)
    parts = ((ids[:6], ids[6:16]), (ids[:6], ids[16:18]), (ids[18:21], ids[21:25]))
    rows = []
    for beginning, end in parts:
        prompt = (*beginning, *end, ids[-1])
        rows.append(Encoded(prompt, (), (len(prompt) - 1,)))
    together = Batch(list(range(len(rows))), rows, [len(beginning) for beginning, _ in parts])
    cached = Prefixes(model, None, [0.0]).read(together.beginnings)
    alone = torch.cat([last_logits(model, lay_out(Batch.of([row]))) for row in rows])
    return agree(last_logits(model, lay_out(together), cached), alone)


def sharable_lengths(
    model: nn.Module,
    attachment: Attachment | None,
    rows: Sequence[Encoded],
    ends: Sequence[int] | None = None,
) -> list[int]:
    """How many leading tokens of each row are read once for several: :func:`shared_lengths`.

    None of any, where the model or the steering may not share; a model is tried only if need be.
    """
    lengths = shared_lengths(rows, ends)
    return lengths if any(lengths) and may_share(model, attachment) else [0] * len(rows)


def shared_lengths(rows: Sequence[Encoded], ends: Sequence[int] | None = None) -> list[int]:
    """How many leading tokens of each row are worth reading once for several rows, n ints.

    Rows are grouped along the tree of their beginnings, from its root down: a group stays whole
    where that saves more tokens than its branches would, each on its own. It shares its beginning
    if that halves its tokens: a pass of its own, and a copy of the cache for every row, are not
    free.

    Args:
        rows: The rows.
        ends: How many tokens of each may be shared; None: those of the prompt but the last.
    """
    shared = [0] * len(rows)
    if ends is None:
        ends = [0 if row.is_text else row.positions[0] for row in rows]
    keys = [row.prefix[:end] for row, end in zip(rows, ends, strict=True)]
    order = sorted(range(len(rows)), key=keys.__getitem__)
    common = [0, *(common_length(keys[a], keys[b]) for a, b in pairwise(order)), 0]
    waiting = [(0, len(rows))]
    while waiting:
        low, high = waiting.pop()
        if high - low < 2:
            continue
        length = min(common[low + 1 : high])
        cuts = [low, *(k for k in range(low + 1, high) if common[k] == length), high]
        branches = [(a, b, min(common[a + 1 : b])) for a, b in pairwise(cuts) if b - a > 1]
        if (high - low - 1) * length >= sum((b - a - 1) * n for a, b, n in branches):
            whole = sum(rows[i].cost for i in order[low:high])
            if 2 * (high - low - 1) * length >= whole:
                for i in order[low:high]:
                    shared[i] = length
        else:
            waiting += [(a, b) for a, b, _ in branches]
    return shared


@dataclass(frozen=True)
class Cached:
    """Beginnings of B sequences, in a cache.

    Attributes:
        cache: A transformers cache of B sequences.
        mask: int64 [B, columns of the cache]; 1 on real tokens.
    """

    cache: Any
    mask: Tensor


class Prefixes:
    """Reads beginnings at every strength of a ladder; the last one read alone is kept.

    Args:
        model: A causal LM (steered or not).
        attachment: The attached steering, if any; its strength is set for each reading.
        ladder: The strengths.
    """

    def __init__(
        self, model: nn.Module, attachment: Attachment | None, ladder: Sequence[float]
    ) -> None:
        self._model, self._attachment, self._ladder = model, attachment, list(ladder)
        self._kept: tuple[list[tuple[int, ...]], Any, Tensor] | None = None

    def read(self, beginnings: Sequence[tuple[int, ...]]) -> Cached | None:
        """The cache on which a batch goes on.

        Args:
            beginnings: Of each of its n sequences; all empty where nothing is shared.

        Returns:
            For each, at each strength side by side: n × strengths sequences.
        """
        if not any(beginnings):
            return None
        distinct = list(dict.fromkeys(beginnings))
        if self._kept is None or self._kept[0] != distinct:
            self._kept = (distinct, *self._pass(distinct))
        _, cache, mask = self._kept
        if len(distinct) == 1:
            cache = copy.deepcopy(cache)  # the next batch may go on from it too
        else:
            self._kept = None
        copies = len(self._ladder)
        at = {beginning: k * copies for k, beginning in enumerate(distinct)}
        rows = [at[beginning] + k for beginning in beginnings for k in range(copies)]
        index = torch.tensor(rows)
        select_rows(cache, index)
        return Cached(cache, mask[index.to(mask.device)])

    def _pass(self, distinct: Sequence[tuple[int, ...]]) -> tuple[Any, Tensor]:
        attachment, copies = self._attachment, len(self._ladder)
        device = input_device(self._model)
        rows = [beginning for beginning in distinct for _ in range(copies)]
        ids, mask = left_pad(rows, 0, device)
        if attachment is not None:
            attachment.strength = torch.tensor(self._ladder * len(distinct), device=device)
        # One token more is to come, at least: the prompt's last is never among these.
        ends = torch.tensor([len(row) + 1 for row in rows])
        last = torch.tensor([ids.shape[1] - 1], device=device)
        with told(attachment, ends, None):
            output = forward(
                self._model,
                ids,
                mask,
                (mask.cumsum(1) - 1).clamp(min=0),
                logits_to_keep=last,
                use_cache=True,
            )
        return output.past_key_values, mask
