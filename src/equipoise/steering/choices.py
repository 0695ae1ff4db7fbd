"""What a pass chooses by its largest scores (experts, tokens of sparse attention), replayed.

Two models that compute the same up to rounding choose differently where two scores tie, and from
there on differ by far more than rounding. So the second is made to choose as the first did, which
leaves rounding alone to explain a difference, and its own scores must call every such choice a tie.
"""

from __future__ import annotations

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
