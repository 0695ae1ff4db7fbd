"""From labelled activations to a gate and its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from torch import Tensor

from equipoise.errors import EquipoiseError
from equipoise.methods.gating.attended import refuse_infinite
from equipoise.methods.gating.examples import Examples
from equipoise.methods.gating.judged import Judged, judge
from equipoise.methods.gating.probe import fit_kernel, fit_probe
from equipoise.methods.gating.report import (
    GateReport,
    Rate,
    false_firing,
    opening_rate,
    quality,
)
from equipoise.steering import Gate, ProbeGate
from equipoise.steering.gates import Reads, Unit


@dataclass(frozen=True)
class GateOptions:
    """How a gate is fitted.

    Attributes:
        soft: Open by p itself instead of 0 or 1.
        unit: Decide per ``row`` or per ``token``.
        reads: The prompt's ``last`` token, the ``mean`` over its tokens, or what a query finds
            (``attended``): then the gate is a kernel machine, for rows, and ``c``, ``standardise``
            and ``balance`` do not concern it.
        false_firing: Rate that the threshold allows on each kind of negatives; None: p ≥ 1/2.
            Kinds of fewer than 1/rate twins, by which no such rate can be told, keep it together
            if they have so many together or there is no larger kind; else they do not bind.
        eager: Open on all that this rate leaves room for, rather than on no more than the prompts
            at hand need: prompts of other wordings look less sure to it.
        c: Inverse strength of the probe's ℓ2 penalty.
        standardise: Penalise in units of each coordinate's spread.
        balance: Weigh both sides alike, and the kinds of negatives alike.
        hard: Kinds of negatives that get half of the negative side's weight.

    Raises:
        EquipoiseError: ``false_firing`` outside [0, 1), or ``c`` that is no penalty.
    """

    soft: bool = False
    unit: Unit = "row"
    reads: Reads = "last"
    false_firing: float | None = 0.02
    eager: bool = False
    c: float = 1.0
    standardise: bool = True
    balance: bool = True
    hard: frozenset[str] = field(default=frozenset())

    def __post_init__(self) -> None:
        if self.false_firing is not None and not 0 <= self.false_firing < 1:
            raise EquipoiseError(f"a gate's false_firing is in [0, 1); got {self.false_firing}")
        if not 0 < self.c < np.inf:
            raise EquipoiseError(f"a probe's penalty c is above 0 and finite; got {self.c}")


def build_gate(
    site: str,
    train: Examples,
    held_out: Examples,
    options: GateOptions,
    query: Tensor | None = None,
    *,
    tried: int = 1,
) -> tuple[Gate, GateReport]:
    """Fit a probe, set its threshold, and find out what it does.

    The probe is fitted on ``train``; the threshold and all figures come from ``held_out`` (where
    either side is missing there, from ``train`` by cross-validation over whole twins, saying so;
    where a kind of negatives is missing, from those of ``train`` likewise).
    Figures of a gate whose threshold was set on the same prompts are theirs, not a promise; those
    of a kind left out are neither fitted nor set on it.

    Args:
        site: Key of the site.
        train: Of that site, ``h`` [n, d].
        held_out: The same of other prompts; may be empty.
        options: How.
        query: Of a gate that attends, what the examples were read with, float32 [d].
        tried: Sites among which the gate's is chosen: each is a chance of beating chance.

    Raises:
        EquipoiseError: A side is missing from ``train``, activations that are not finite, or
            scikit-learn is not installed.
    """
    for examples in (train, held_out):
        refuse_infinite(examples.h, site)
    gate, judged = _fit(site, train, held_out, options, query)
    small, small_bind = judged.small_kinds(None if options.soft else options.false_firing)
    left_out: dict[str, Rate] = {}
    for kind in train.negative_kinds if len(train.negative_kinds) > 1 else ():
        known, _ = _fit(site, _without(train, kind), _without(held_out, kind), options, query)
        unseen = train.only(train.kinds == kind) + held_out.only(held_out.kinds == kind)
        left_out |= false_firing(known, unseen)
    report = GateReport(
        site=site,
        soft=options.soft,
        threshold=gate.threshold,
        wanted_false_firing=None if options.soft else options.false_firing,
        judged_on=judged.on,
        crossed=judged.crossed,
        small=small,
        small_bind=small_bind,
        tried=tried,
        train=dict(sorted(Counter(train.kinds.tolist()).items())),
        **quality(gate, judged.examples, judged.logits),
        opens=opening_rate(gate, judged.examples, judged.logits),
        false_firing=false_firing(gate, judged.examples, judged.logits),
        left_out=left_out,
    )
    return gate, report


def _fit(
    site: str, train: Examples, held_out: Examples, options: GateOptions, query: Tensor | None
) -> tuple[Gate, Judged]:
    """A gate with its threshold, and the prompts that this was set on."""
    fit = partial(_probe, site, options, query)
    gate = fit(train)
    judged = judge(gate, fit, train, held_out)
    if not options.soft and options.false_firing is not None:
        needed = judged.logits[judged.examples.opens] if not options.eager else judged.logits[:0]
        rate = options.false_firing
        gate.cut_at(threshold_for(needed, judged.limits(rate), rate))
    return gate, judged


def _probe(site: str, options: GateOptions, query: Tensor | None, train: Examples) -> Gate:
    gate: Gate
    if query is not None:
        gate = fit_kernel(train, site, query, hard=options.hard)
    else:
        probe = fit_probe(
            train,
            site,
            c=options.c,
            standardise=options.standardise,
            balance=options.balance,
            hard=options.hard,
        )
        gate = ProbeGate(site, probe.weight, probe.bias, unit=options.unit, reads=options.reads)
    gate.soft = options.soft
    return gate


def _without(examples: Examples, kind: str) -> Examples:
    return examples.only(np.asarray(examples.kinds != kind))


def threshold_for(positive: np.ndarray, negative: Sequence[np.ndarray], rate: float) -> float:
    """The threshold that lets most positives through while no kind of negatives exceeds a rate.

    It lies midway, in p, between the lowest positive above the limit and the highest negative
    below that one, so that a clear gap is cut in its middle; without such a positive, midway
    between the limit and the next negative above it: a prompt's logit differs by rounding from
    batch to batch, and may not decide. It is set on logits, since p itself is 1 to rounding from a
    logit of 17 on, and then no threshold could keep the rate.

    Args:
        positive: float32 [n]; the probe's logits on prompts it should open on; empty: the
            lowest threshold that keeps the rate.
        negative: For each kind of prompts it should stay shut on: logits, float32 [m], m ≥ 1.
        rate: Share of each kind that may fire at most, in [0, 1).

    Returns:
        t, a logit exact in float32: a gate opens where its logit is t or more.
    """
    from scipy.special import expit, logit

    kinds = [np.sort(z.astype(np.float32))[::-1] for z in negative]
    # One more than may fire must stay below; the product may fall short of a whole number.
    limit = max(z[min(int(rate * len(z) + 1e-9), len(z) - 1)] for z in kinds)
    above = positive[positive > limit]
    if len(above) == 0:
        beyond = min((z[z > limit].min() for z in kinds if (z > limit).any()), default=np.inf)
        room = min(float(beyond) - float(limit), max(1.0, abs(float(limit))))
        middle = np.float32(limit + room / 2)
        return float(middle if limit < middle < beyond else np.nextafter(limit, np.float32(np.inf)))
    lowest = np.float32(above.min())
    below = max(z[z < lowest].max() for z in kinds if (z < lowest).any())
    middle = np.float32(logit(expit(np.array([lowest, below], np.float64)).mean()))
    return float(middle if below < middle < lowest else lowest)
