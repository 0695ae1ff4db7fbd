"""Do two ways to the same steered logits agree?

A difference must be one that rounding explains, and hardly any of the steering's own effect may
be in it: where rounding is as large as the effect, a steering that got lost differs by no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equipoise.models.backbone import weights_dtype
from equipoise.steering.choices import Recording, Replaying
from equipoise.steering.steering import Steering
from equipoise.steering.transforms import Affine

# Largest difference of two logits, as a share of the largest logit, that rounding explains: the
# same numbers are summed in another order, or a weight is rounded instead of an activation.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
# In half precision it depends on the model, so it is measured, in a few draws. Folds of 480 tiny
# random Llamas, Gemmas, GPT-2s and Mixtrals were off by up to 2.1 times what was measured, once;
# tests/steering_fold/test_fold_half_precision.py has a few of them.
ROUNDINGS, _DRAWS = 4.0, 3
# Of the effect, what may be missing or too much.
LOST = 0.25
_MASK = 1e4  # logits beyond it forbid a token


@dataclass(frozen=True)
class FoldAgreement:
    """How far a folded model is from the steered one, with the steered one's choice of experts.

    Attributes:
        difference: The largest, of a logit.
        tolerance: Of a difference, as a share of the largest logit.
        largest: The largest logit.
        effect: The largest change of a logit by the steering.
        lost: Share of the effect that is missing or too much.
        ties: Choices of experts that the folded model alone would have made otherwise.
        margin: How far from a tie they were, see :class:`Replaying`.
    """

    difference: float
    tolerance: float
    largest: float
    effect: float
    lost: float
    ties: int
    margin: float


@contextmanager
def at_rest(root: nn.Module) -> Iterator[None]:
    """In eval mode, for no two passes agree under dropout; then as it was."""
    training = [module for module in root.modules() if module.training]
    root.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def fold_agreement(
    root: nn.Module,
    folded: nn.Module,
    steering: Steering,
    strength: float,
    logits: Callable[[nn.Module], Tensor],
    largest: float | None = None,
) -> FoldAgreement:
    """Compare a folded model with the steered one.

    The base model, too, is made to choose the experts of the steered one: or else the choices,
    replayed in the folded model, would pass for an effect that it has.

    Args:
        root: The base model, with nothing attached.
        folded: The folded one.
        steering: Without a gate, for all tokens.
        strength: ω.
        logits: Of a model, on some prompts.
        largest: The largest logit; None: that of the steered model.
    """
    plain = Steering(steering.transforms)  # what it was made for was checked on folding

    def choosing_so() -> Tensor:
        with Replaying(made):
            return logits(root)

    with plain.applied(root, strength):
        with Recording() as made:
            wanted = logits(root)
        largest = largest or scale(wanted)
        share = tolerance(root, plain, wanted, choosing_so, largest)
    base = choosing_so()
    with Replaying(made) as replay:
        found = logits(folded)
    return FoldAgreement(
        difference=difference(wanted, found),
        tolerance=share,
        largest=largest,
        effect=difference(wanted, base),
        # A fold is the same for every token: one part.
        lost=lost((found.float() - wanted.float())[None], (wanted.float() - base.float())[None]),
        ties=replay.ties,
        margin=replay.margin,
    )


def tolerance(
    model: nn.Module,
    steering: Steering,
    steered: Tensor,
    logits: Callable[[], Tensor],
    largest: float,
) -> float:
    """Largest difference of two logits that rounding explains, as a share of the largest logit.

    In half precision, ``ROUNDINGS`` times what the logits move by when every channel of the
    steered activations is off by up to one rounding.

    Args:
        model: With the steering attached.
        steering: Its sites are where roundings differ.
        steered: The model's logits.
        logits: Computes them again.
        largest: The largest logit.
    """
    dtype = coarsest(model, steered)
    if dtype in _TOLERANCE:
        return _TOLERANCE[dtype]
    generator = torch.Generator().manual_seed(0)

    def roundings(width: int) -> Tensor:
        return (2 * torch.rand(width, generator=generator) - 1) * torch.finfo(dtype).eps

    moved = []
    for _ in range(_DRAWS):
        off = Steering({key: Affine(roundings(t.width)) for key, t in steering.transforms.items()})
        with off.applied(model):
            moved.append(difference(logits(), steered))
    return ROUNDINGS * max(moved) / largest


def coarsest(model: nn.Module, logits: Tensor) -> torch.dtype:
    """The dtype that a model's logits are rounded by: its own, or that of its weights."""
    return max(weights_dtype(model), logits.dtype, key=lambda kind: torch.finfo(kind).eps)


def is_half(model: nn.Module, logits: Tensor) -> bool:
    """Whether rounding may be as large as a steering's effect."""
    return coarsest(model, logits) not in _TOLERANCE


def difference(one: Tensor, other: Tensor) -> float:
    """Largest difference of a logit."""
    return (one.float() - other.float()).abs().max().item()


def scale(logits: Tensor) -> float:
    """The largest logit that is no mask (some models forbid tokens by huge negative logits)."""
    sizes = logits.float().abs()
    return max(sizes.where(sizes < _MASK, 0).max().item(), 1e-12)


def lost(off: Tensor, effect: Tensor) -> float:
    """Share of a steering's effect that is missing or too much, in the part where it is worst.

    The projection on the effect averages rounding out over all logits.

    Args:
        off: Difference of the logits from what they should be, [parts, ...]; a part is what may
            lose the steering as a whole.
        effect: What the steering does to them, of the same shape.
    """
    off, effect = off.float().flatten(1), effect.float().flatten(1)
    sizes = effect.norm(dim=1)
    if not sizes.any():
        return 0.0
    along = (off * effect).sum(1).abs() / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)
    return (along.max() / sizes.mean()).item()


def blame(share: float, effect: float, tolerance: float) -> str:
    """What to say of a share lost; an effect that stands out of rounding is not lost to it."""
    said = f"{share:.0%} of the effect is missing or too much"
    if effect > tolerance:
        return said
    return f"undecided: {said}, which may be rounding; take float32 or a larger strength"
