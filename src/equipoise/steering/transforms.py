"""What is done to an activation: h ↦ h at strength 0, the full map at strength 1.

A transform first turns its parameters and the strength into coefficients (``prepare``), which do
not depend on the activation and so can be kept between calls, and then applies them
(``steer``) in one pass over the activation.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from equipoise.errors import SteeringError

Coefficients = tuple[Tensor | None, ...]

# Where 1 + gain would round small gains away, h + gain ⊙ h is computed instead, at the price of a
# second pass over the activation.
_HALF = (torch.float16, torch.bfloat16)


class Transform(nn.Module):
    """Base of all transforms: ĥ = h + ω (a ⊙ h + b), which also can be folded and exported.

    Attributes:
        kind: Its name in an artifact.
        width: Size d of the activations it takes.
    """

    kind: ClassVar[str]
    width: int

    def form(self) -> tuple[Tensor | None, Tensor | None]:
        """The slope a and shift b [d]; None where there is none, never both."""
        raise NotImplementedError

    def prepare(self, strength: Tensor, like: Tensor) -> Coefficients:
        """Coefficients at a strength, in the dtype and on the device of ``like``.

        Args:
            strength: ω; a scalar, or any shape that broadcasts against the activation with a
                last dimension of 1.
            like: An activation.
        """
        slope, bias = self.form()
        gain = None if slope is None else _scaled(strength, slope, like)
        shift = None if bias is None else _scaled(strength, bias, like)
        if gain is not None and shift is not None and like.dtype not in _HALF:
            return 1 + gain, shift
        return gain, shift

    def steer(self, h: Tensor, coefficients: Coefficients) -> Tensor:
        """The steered activation; same shape and dtype as ``h`` [..., d]."""
        gain, shift = coefficients
        if gain is None:
            return h if shift is None else h + shift
        if shift is None:
            return torch.addcmul(h, h, gain)
        if h.dtype not in _HALF:
            return torch.addcmul(shift, h, gain)
        # The sum below is ours alone, so the shift needs no third activation.
        return torch.addcmul(h, h, gain).add_(shift)

    def steer_tokens(self, h: Tensor, strength: Tensor) -> Tensor:
        """``forward`` for a strength of every token; allocates one activation.

        Args:
            h: The activation [..., d]; without autograd.
            strength: ω, in the dtype and on the device of ``h``, [..., 1].
        """
        slope, bias = self.form()
        if slope is None:
            return h if bias is None else torch.addcmul(h, strength, bias.to(h))
        # The strength goes first: where it is 0, nothing can overflow.
        out = (h * strength).mul_(slope.to(h))
        if bias is not None:
            out.addcmul_(strength, bias.to(h))
        return out.add_(h)

    def forward(self, h: Tensor, strength: Tensor) -> Tensor:
        """``steer`` with freshly prepared coefficients."""
        return self.steer(h, self.prepare(strength, h))


def _vector(value: Tensor, name: str) -> nn.Parameter:
    if not isinstance(value, Tensor):
        raise SteeringError(f"{name} must be a tensor, a vector; got a {type(value).__name__}")
    if value.ndim != 1 or value.dtype not in (*_HALF, torch.float32, torch.float64):
        raise SteeringError(
            f"{name} must be a floating-point vector; got {tuple(value.shape)}, {value.dtype}"
        )
    check_finite(value, name)
    return value if isinstance(value, nn.Parameter) else nn.Parameter(value.detach().clone())


def check_finite(value: Tensor, name: str) -> None:
    """Refuse NaN and infinite values; those on the meta device are not known.

    Raises:
        SteeringError: There are some.
    """
    if not value.is_meta and not bool(value.isfinite().all()):
        raise SteeringError(f"{name} holds values that are not finite")


def _wide(vector: Tensor) -> Tensor:
    """In float32 at least, as an artifact holds it: what is read back must act the same."""
    return vector.to(torch.promote_types(vector.dtype, torch.float32))


def _scaled(strength: Tensor, vector: Tensor, like: Tensor) -> Tensor:
    # The product is taken in float32 and rounded once.
    return (strength.to(vector.device) * _wide(vector)).to(device=like.device, dtype=like.dtype)


class Affine(Transform):
    """ĥ = h + ω (a ⊙ h + b), the steering map of DSO (arXiv 2512.15926).

    Args:
        a: Slope [d], or None for a bias-only map.
        b: Bias [d], or None for a slope-only map.
    """

    kind = "affine"

    def __init__(self, a: Tensor | None = None, b: Tensor | None = None) -> None:
        super().__init__()
        given = [v for v in (a, b) if v is not None]
        if not given:
            raise SteeringError("an affine transform needs a slope, a bias, or both")
        self.a = _vector(a, "a") if a is not None else None
        self.b = _vector(b, "b") if b is not None else None
        if len({len(v) for v in given}) > 1:
            raise SteeringError(f"slope and bias differ in size: {[len(v) for v in given]}")
        self.width = len(given[0])

    @override
    def form(self) -> tuple[Tensor | None, Tensor | None]:
        return self.a, self.b


class Additive(Transform):
    """ĥ = h + ω v, a steering vector.

    Args:
        v: The vector [d].
    """

    kind = "additive"

    def __init__(self, v: Tensor) -> None:
        super().__init__()
        self.v = _vector(v, "v")
        self.width = len(v)

    @override
    def form(self) -> tuple[Tensor | None, Tensor | None]:
        return None, self.v


class Scale(Transform):
    """ĥ = (1 + ω (s − 1)) ⊙ h: the activation times s at full strength.

    Args:
        s: Factors [d].
    """

    kind = "scale"

    def __init__(self, s: Tensor) -> None:
        super().__init__()
        self.s = _vector(s, "s")
        self.width = len(s)

    @override
    def form(self) -> tuple[Tensor | None, Tensor | None]:
        return _wide(self.s) - 1, None


class Replace(Transform):
    """ĥ = h + ω (v − h): the activation gives way to v at full strength.

    Args:
        v: What replaces it [d].
    """

    kind = "replace"

    def __init__(self, v: Tensor) -> None:
        super().__init__()
        self.v = _vector(v, "v")
        self.width = len(v)

    @override
    def form(self) -> tuple[Tensor | None, Tensor | None]:
        return -torch.ones_like(self.v), self.v

    @override
    def prepare(self, strength: Tensor, like: Tensor) -> Coefficients:
        return self.v.to(like), strength.to(like)

    @override
    def steer(self, h: Tensor, coefficients: Coefficients) -> Tensor:
        value, strength = coefficients
        assert value is not None
        assert strength is not None
        return torch.lerp(h, value.expand_as(h), strength.expand_as(h))

    @override
    def steer_tokens(self, h: Tensor, strength: Tensor) -> Tensor:
        return self.steer(h, (self.v.to(h), strength))


TRANSFORMS: dict[str, type[Transform]] = {c.kind: c for c in (Affine, Additive, Scale, Replace)}
