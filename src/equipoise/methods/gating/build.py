"""From labelled activations to a gate and its report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from equipoise.methods.gating.examples import POSITIVE, Examples
from equipoise.methods.gating.kernel import fit_kernel
from equipoise.methods.gating.probe import fit_probe, openings
from equipoise.methods.gating.report import (
    GateReport,
    Rate,
    false_firing,
    opening_rate,
    quality,
)
from equipoise.methods.gating.threshold import threshold_for
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
        eager: Open on all that this rate leaves room for, rather than on no more than the prompts
            at hand need: prompts of other wordings look less sure to it.
        c: Inverse strength of the probe's ℓ2 penalty.
        standardise: Penalise in units of each coordinate's spread.
        balance: Weigh both sides alike, and the kinds of negatives alike.
        hard: Kinds of negatives that get half of the negative side's weight.
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


def build_gate(
    site: str,
    train: Examples,
    held_out: Examples,
    options: GateOptions,
    query: Tensor | None = None,
) -> tuple[Gate, GateReport]:
    """Fit a probe, set its threshold, and find out what it does.

    The probe is fitted on ``train``; the threshold and all figures come from ``held_out`` (from
    ``train``, saying so, where either side is missing there). Figures of a gate whose threshold
    was set on the same prompts are theirs, not a promise; those of a kind left out are neither
    fitted nor set on it.

    Args:
        site: Key of the site.
        train: Of that site, ``h`` [n, d].
        held_out: The same of other prompts; may be empty.
        options: How.
        query: Of a gate that attends, what the examples were read with, float32 [d].

    Raises:
        EquipoiseError: A side is missing from ``train``, or scikit-learn is not installed.
    """
    judged = held_out if held_out.two_sided else train
    gate = _fit(site, train, judged, options, query)
    left_out: dict[str, Rate] = {}
    for kind in train.negative_kinds if len(train.negative_kinds) > 1 else ():
        known = _fit(site, _without(train, kind), _without(judged, kind), options, query)
        unseen = train.only(train.kinds == kind)
        if judged is held_out:
            unseen += held_out.only(held_out.kinds == kind)
        left_out |= false_firing(known, unseen)
    report = GateReport(
        site=site,
        soft=options.soft,
        threshold=gate.threshold,
        wanted_false_firing=None if options.soft else options.false_firing,
        held_out=judged is held_out,
        train=dict(sorted(Counter(train.kinds.tolist()).items())),
        **quality(gate, judged),
        opens=opening_rate(gate, judged),
        false_firing=false_firing(gate, judged),
        left_out=left_out,
    )
    return gate, report


def _fit(
    site: str, train: Examples, judged: Examples, options: GateOptions, query: Tensor | None
) -> Gate:
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
    if not options.soft and options.false_firing is not None and judged.two_sided:
        p = openings(gate, judged)
        kinds = [p[judged.kinds == kind] for kind in judged.negative_kinds]
        needed = p[judged.kinds == POSITIVE] if not options.eager else p[:0]
        gate.threshold = threshold_for(needed, kinds, options.false_firing)
    return gate


def _without(examples: Examples, kind: str) -> Examples:
    return examples.only(np.asarray(examples.kinds != kind))
