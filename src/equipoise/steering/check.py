"""A check of :func:`equipoise.steering.verify.verify`, and how a difference is judged."""

from __future__ import annotations

from dataclasses import dataclass, replace

from equipoise.steering import agreement


@dataclass(frozen=True)
class Check:
    """One thing that must hold.

    Attributes:
        name: What was checked.
        ok: Whether it holds; None: it could not be checked, and ``note`` says why.
        measured: What was measured: a difference as a share of the largest logit, or a count.
        tolerance: The largest (for ``effect``: the smallest) value that is fine. In half precision
            it is measured on the model; and a quarter of the effect lost fails in any precision.
        note: More, for people. "undecided" in a failed check: rounding may be the reason.
    """

    name: str
    ok: bool | None
    measured: float | None = None
    tolerance: float | None = None
    note: str = ""


def judged(
    name: str, off: float, tolerance: float, lost: float, effect: float, note: str = ""
) -> Check:
    """Whether a difference is within rounding, and the effect not lost in it."""
    if lost > agreement.LOST:
        note = "; ".join(filter(None, (agreement.blame(lost, effect, tolerance), note)))
    # Written so that NaN fails.
    return Check(name, off <= tolerance and lost <= agreement.LOST, off, tolerance, note)


def with_ties(check: Check, tolerance: float, ties: int, margin: float) -> Check:
    """Choices that the other side alone would have made otherwise must have been ties."""
    if not ties:
        return check
    note = f"{ties} top-k choices tie, by {margin:.2g} of the largest score"
    note = "; ".join(filter(None, (check.note, note)))
    return replace(check, ok=check.ok and margin <= tolerance, note=note)
