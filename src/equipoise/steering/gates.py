"""Gates: whether, or how much, a steering applies to a row (or to a token)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from equipoise.errors import SteeringError

Unit = Literal["row", "token"]
Reads = Literal["last", "mean"]


class Gate(nn.Module):
    """Base of all gates: a decision in [0, 1] from an *unsteered* activation, times ω.

    A row gate reads the prompt once, its last token or the mean over its tokens; its decision holds
    for the whole row, generated tokens included. A token gate decides for each token from that
    token.

    Attributes:
        kind: Its name in an artifact.
        site: Key of the site it reads.
        unit: ``row`` or ``token``.
        reads: Of a row gate: the prompt's ``last`` token, or the ``mean`` of its tokens.
    """

    kind: ClassVar[str]
    site: str
    unit: Unit
    reads: Reads

    def forward(self, h: Tensor) -> Tensor:
        """Decisions, float32 [...], for activations [..., d]."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """What an artifact needs beside the tensors to build it again."""
        raise NotImplementedError


class ProbeGate(Gate):
    """A linear probe: p = σ(wᵀh + c) is the probability that steering should apply.

    Args:
        site: Key of the site it reads, e.g. a decoder block for the residual stream after it.
        weight: w [d].
        bias: c, a scalar.
        threshold: A hard gate opens where p ≥ threshold.
        soft: Return p itself instead of 0 or 1.
        unit: Decide per ``row`` or per ``token``.
        reads: The activation h of a row: of the prompt's ``last`` token, or the ``mean`` over it.

    Raises:
        SteeringError: A weight that is no vector, values that are not finite, a threshold outside
            [0, 1], or a token gate that is to read a mean.
    """

    kind = "probe"
    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        site: str,
        weight: Tensor,
        bias: Tensor | float = 0.0,
        *,
        threshold: float = 0.5,
        soft: bool = False,
        unit: Unit = "row",
        reads: Reads = "last",
    ) -> None:
        super().__init__()
        weight, bias = weight.detach().float(), torch.as_tensor(bias).detach().float().reshape(())
        if weight.ndim != 1 or not bool(weight.isfinite().all() and bias.isfinite()):
            raise SteeringError(f"gate at {site}: the probe must be a finite vector and a bias")
        if not 0 <= threshold <= 1:
            raise SteeringError(f"gate at {site}: threshold must be in [0, 1]; got {threshold}")
        if unit not in ("row", "token"):
            raise SteeringError(f"gate at {site}: unit must be 'row' or 'token'; got {unit!r}")
        if reads != "last" and (reads != "mean" or unit == "token"):
            raise SteeringError(
                f"gate at {site}: reads must be 'last', or 'mean' for unit 'row'; got {reads!r} "
                f"for unit {unit!r}"
            )
        self.site, self.threshold, self.soft = site, threshold, soft
        self.unit, self.reads = unit, reads
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def probability(self, h: Tensor) -> Tensor:
        """p, float32 [...], for activations [..., d]; computed in float32."""
        # A product and a sum, not a matrix product: its result for a row must not depend on the
        # batch the row came in.
        weight, bias = self.weight.to(h.device), self.bias.to(h.device)
        return torch.sigmoid((h.float() * weight).sum(-1) + bias)

    @override
    def forward(self, h: Tensor) -> Tensor:
        p = self.probability(h)
        return p if self.soft else (p >= self.threshold).float()

    @override
    def settings(self) -> dict[str, Any]:
        return {
            "site": self.site,
            "threshold": self.threshold,
            "soft": self.soft,
            "unit": self.unit,
            "reads": self.reads,
        }


GATES: dict[str, type[ProbeGate]] = {ProbeGate.kind: ProbeGate}
