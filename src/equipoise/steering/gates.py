"""Gates: whether, or how much, a steering applies to a row (or to a token)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from equipoise.errors import SteeringError

Unit = Literal["row", "token"]
Reads = Literal["last", "mean", "attended"]


class Gate(nn.Module):
    """Base of all gates: a decision in [0, 1] from an *unsteered* activation, times ω.

    A row gate reads the prompt once, its last token or what it pools from all of them; its decision
    holds for the whole row, generated tokens included. A token gate decides for each token from
    that token.

    Args:
        site: Key of the site it reads, e.g. a decoder block for the residual stream after it.
        threshold: A hard gate opens where its probability p ≥ threshold.
        soft: Return p itself instead of 0 or 1.
        unit: Decide per ``row`` or per ``token``.
        reads: Of a row gate: the prompt's ``last`` token, the ``mean`` of its tokens, or a mean
            that a query weighs (``attended``).
        logit_threshold: The threshold as a logit, which tells apart what p rounds to 1; None: p
            itself is compared.

    Attributes:
        kind: Its name in an artifact.

    Raises:
        SteeringError: A threshold outside [0, 1] or not finite, or a unit that there is not.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        site: str,
        *,
        threshold: float,
        soft: bool,
        unit: Unit,
        reads: Reads,
        logit_threshold: float | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= threshold <= 1:
            raise SteeringError(f"gate at {site}: threshold must be in [0, 1]; got {threshold}")
        if logit_threshold is not None and not math.isfinite(logit_threshold):
            raise SteeringError(
                f"gate at {site}: logit_threshold must be finite; got {logit_threshold}"
            )
        if unit not in ("row", "token"):
            raise SteeringError(f"gate at {site}: unit must be 'row' or 'token'; got {unit!r}")
        self.site, self.threshold, self.soft = site, threshold, soft
        self.unit, self.reads, self.logit_threshold = unit, reads, logit_threshold

    @property
    def threshold(self) -> float:
        """Where a hard gate opens, as p; setting it sets aside what was set on the logit."""
        return self._threshold

    @threshold.setter
    def threshold(self, p: float) -> None:
        self._threshold, self.logit_threshold = p, None

    def cut_at(self, logit: float) -> None:
        """Open (a hard gate) where the logit of p is at least this."""
        self.threshold = 1 / (1 + math.exp(min(-logit, 700.0)))
        self.logit_threshold = logit

    def pool(self, h: Tensor, inside: Tensor) -> Tensor:
        """What is read of a row's prompt: the mean over its tokens, float32 [rows, d].

        Args:
            h: Activations [rows, tokens, d].
            inside: Which tokens are the prompt's, bool [rows, tokens], on the device of ``h``.
        """
        return prompt_mean(h, inside)

    def logit(self, h: Tensor) -> Tensor:
        """Logit of p, float32 [...], for what was read [..., d]; computed in float32."""
        raise NotImplementedError

    def probability(self, h: Tensor) -> Tensor:
        """p, float32 [...], for what was read [..., d]."""
        return torch.sigmoid(self.logit(h))

    def decide(self, logit: Tensor) -> Tensor:
        """Decisions, float32 [...], from logits [...]."""
        if not self.soft and self.logit_threshold is not None:
            return (logit >= self.logit_threshold).float()
        p = torch.sigmoid(logit)
        return p if self.soft else (p >= self.threshold).float()

    @override
    def forward(self, h: Tensor) -> Tensor:
        """Decisions, float32 [...], for what was read [..., d]."""
        return self.decide(self.logit(h))

    def settings(self) -> dict[str, Any]:
        """What an artifact needs beside the tensors to build it again."""
        known = {"site": self.site, "threshold": self.threshold, "soft": self.soft}
        if self.logit_threshold is not None:
            known["logit_threshold"] = self.logit_threshold
        return known


def prompt_mean(h: Tensor, inside: Tensor) -> Tensor:
    """Mean over the tokens of each prompt, float32 [rows, d]; arguments as of ``Gate.pool``."""
    return h.float().masked_fill(~inside[..., None], 0.0).sum(1) / inside.sum(1)[:, None]


def attended(h: Tensor, inside: Tensor, query: Tensor) -> Tensor:
    """Where a query looks, beside the whole prompt: float32 [rows, 2d].

    Σₜ softmaxₜ(qᵀhₜ) hₜ over the prompt's tokens, then their mean.

    Args:
        h: Activations [rows, tokens, d].
        inside: Which tokens are the prompt's, bool [rows, tokens].
        query: q [d], on the device of ``h``.
    """
    h = h.float()
    weights = (h * query).sum(-1).masked_fill(~inside, float("-inf")).softmax(-1)
    # What lies outside may be anything, infinities included.
    found = (weights[..., None] * h).masked_fill(~inside[..., None], 0.0).sum(1)
    return torch.cat([found, prompt_mean(h, inside)], -1)


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
        logit_threshold: The threshold on wᵀh + c, where it was set there.

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
        logit_threshold: float | None = None,
    ) -> None:
        super().__init__(
            site,
            threshold=threshold,
            soft=soft,
            unit=unit,
            reads=reads,
            logit_threshold=logit_threshold,
        )
        weight, bias = weight.detach().float(), torch.as_tensor(bias).detach().float().reshape(())
        if weight.ndim != 1 or not bool(weight.isfinite().all() and bias.isfinite()):
            raise SteeringError(f"gate at {site}: the probe must be a finite vector and a bias")
        if reads != "last" and (reads != "mean" or unit == "token"):
            raise SteeringError(
                f"gate at {site}: reads must be 'last', or 'mean' for unit 'row'; got {reads!r} "
                f"for unit {unit!r}"
            )
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    @override
    def logit(self, h: Tensor) -> Tensor:
        # A product and a sum, not a matrix product: its result for a row must not depend on the
        # batch the row came in.
        weight, bias = self.weight.to(h.device), self.bias.to(h.device)
        return (h.float() * weight).sum(-1) + bias

    @override
    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "unit": self.unit, "reads": self.reads}


class KernelGate(Gate):
    """A kernel machine that compares a prompt with prompts it remembers, for whole rows.

    p = σ(Σⱼ wⱼ exp(−‖s ⊙ x − zⱼ‖²) + c), where x is what a query finds in the prompt beside the
    prompt's mean (:func:`attended`). It can tell word from word where no direction does, and near
    none of its centres it says σ(c).

    Args:
        site: Key of the site it reads.
        query: q [d].
        scale: s [2d], which makes distances of one.
        centres: z [m, 2d], in the scaled units.
        weight: w [m].
        bias: c, a scalar.
        threshold: A hard gate opens where p ≥ threshold.
        soft: Return p itself instead of 0 or 1.
        logit_threshold: The threshold on p's logit, where it was set there.

    Raises:
        SteeringError: Shapes that do not belong together, values that are not finite, or a
            threshold outside [0, 1].
    """

    kind = "kernel"
    query: Tensor
    scale: Tensor
    centres: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        site: str,
        query: Tensor,
        scale: Tensor,
        centres: Tensor,
        weight: Tensor,
        bias: Tensor | float = 0.0,
        *,
        threshold: float = 0.5,
        soft: bool = False,
        logit_threshold: float | None = None,
    ) -> None:
        super().__init__(
            site,
            threshold=threshold,
            soft=soft,
            unit="row",
            reads="attended",
            logit_threshold=logit_threshold,
        )
        bias = torch.as_tensor(bias).reshape(())
        tensors = {
            "query": query,
            "scale": scale,
            "centres": centres,
            "weight": weight,
            "bias": bias,
        }
        shapes = [(len(query),), (2 * len(query),), (len(weight), 2 * len(query)), (len(weight),)]
        if [tuple(t.shape) for t in (query, scale, centres, weight)] != shapes:
            raise SteeringError(f"gate at {site}: the kernel's tensors do not fit each other")
        for name, value in tensors.items():
            value = value.detach().float()
            if not bool(value.isfinite().all()):
                raise SteeringError(f"gate at {site}: {name} holds values that are not finite")
            self.register_buffer(name, value)

    @override
    def pool(self, h: Tensor, inside: Tensor) -> Tensor:
        return attended(h, inside, self.query.to(h.device))

    @override
    def logit(self, h: Tensor) -> Tensor:
        scale, centres = self.scale.to(h.device), self.centres.to(h.device)
        weight, bias = self.weight.to(h.device), self.bias.to(h.device)
        rows = (h.float() * scale).reshape(-1, h.shape[-1])
        # Row by row: memory stays that of the centres, and no result depends on the batch.
        found = [(weight * (-(row - centres).square().sum(-1)).exp()).sum() for row in rows]
        total = torch.stack(found) if found else rows.new_zeros(0)
        return (total + bias).reshape(h.shape[:-1])


GATES: dict[str, type[ProbeGate] | type[KernelGate]] = {
    gate.kind: gate for gate in (ProbeGate, KernelGate)
}
