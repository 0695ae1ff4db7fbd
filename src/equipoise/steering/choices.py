"""What a pass chooses by its largest scores (experts, tokens of sparse attention), replayed.

Two models that compute the same up to rounding choose differently where two scores tie, and from
there on differ by far more than rounding. So the second is made to choose as the first did, which
leaves rounding alone to explain a difference, and its own scores must call every such choice a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

_MASK = 1e4  # scores beyond it are masks


class Recording(TorchDispatchMode):
    """Notes the choices of all passes within its ``with`` block.

    Attributes:
        choices: Indices of the chosen, in the order in which they were chosen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.choices: list[Tensor] = []

    @override
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.topk.default:
            self.choices.append(result[1])
        return result

    def joined(self, rows: int, tokens: Sequence[int]) -> Recording:
        """What one pass over all tokens would note, where this is of passes over parts of them.

        A choice that is not made for each token is left open: an empty one in its place.

        Args:
            rows: Batch size.
            tokens: Of each pass, in order; of the first, more than one.
        """
        whole = Recording()
        each, over = divmod(len(self.choices), len(tokens))
        passes = [] if over else [self.choices[i * each :][:each] for i in range(len(tokens))]
        for parts in zip(*passes, strict=True):
            lead = 1 if parts[0].shape[0] == rows * tokens[0] else 2  # [rows * tokens, ...]
            wanted = [(rows * n,) if lead == 1 else (rows, n) for n in tokens]
            told = all(p.shape[:lead] == w for p, w in zip(parts, wanted, strict=True))
            if told and len({part.shape[lead:] for part in parts}) == 1:
                rest = parts[0].shape[lead:]
                all_tokens = torch.cat([part.reshape(rows, -1, *rest) for part in parts], 1)
                whole.choices.append(all_tokens if lead == 2 else all_tokens.flatten(0, 1))
            else:
                whole.choices.append(torch.empty(0, dtype=torch.int64))
        return whole


class Replaying(TorchDispatchMode):
    """Makes the passes within its ``with`` block choose as was recorded.

    Args:
        recording: Of the same passes of the other model. Where these do not match it, they choose
            for themselves.

    Attributes:
        ties: How many choices would have been others.
        margin: The largest difference between a score that would have been chosen and one that
            was, as a share of the largest score of that choice; rounding explains a small one.
    """

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self._choices = iter(recording.choices)
        self.ties, self.margin = 0, 0.0

    @override
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is not torch.ops.aten.topk.default:
            return result
        chosen = next(self._choices, None)
        if chosen is None or chosen.shape != result[1].shape:
            return result
        scores, dim = args[0], args[2] if len(args) > 2 else -1
        chosen = chosen.to(scores.device)
        values = scores.gather(dim, chosen)
        self._compare(scores, result, (values, chosen), dim)
        return values, chosen

    def _compare(self, scores: Tensor, own: Any, given: tuple[Tensor, Tensor], dim: int) -> None:
        others = (own[1].sort(dim)[0] != given[1].sort(dim)[0]).any(dim)
        if not bool(others.any()):
            return
        self.ties += int(others.sum())
        size = scores[scores.abs() < _MASK].abs().float()
        gap = (own[0].sort(dim)[0] - given[0].sort(dim)[0]).float()
        gap = gap.nan_to_num(nan=0.0)  # two masked scores
        self.margin = max(self.margin, float(gap.max() / size.max()) if len(size) else 0.0)
