"""A gate for any transform, from two sets of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from equipoise.decisions.activations import Prompt
from equipoise.errors import EquipoiseError
from equipoise.methods.gating.attended import fit_queries
from equipoise.methods.gating.build import GateOptions, build_gate
from equipoise.methods.gating.examples import Examples
from equipoise.methods.gating.report import GateReport
from equipoise.models import Model
from equipoise.steering import Gate


def fit_gate(
    model: Model,
    positive: Sequence[Prompt],
    negative: Mapping[str, Sequence[Prompt]],
    sites: str | Sequence[str],
    *,
    held_out_positive: Sequence[Prompt] = (),
    held_out_negative: Mapping[str, Sequence[Prompt]] | None = None,
    options: GateOptions | None = None,
) -> tuple[Gate, GateReport]:
    """Fit a gate that opens on some prompts and stays shut on others.

    Of several sites, the one whose probe tells best is taken: by balanced accuracy on held-out
    prompts, averaged with that on every kind of negatives left out of the training (accuracy on
    known kinds alone proved worthless as a promise; spec/findings.md, "Gating"). A kernel gate, one
    that attends, is judged on known kinds alone: to all that it does not remember it says one and
    the same, which is no merit of a site. Of equals, the first: an earlier site costs less to read
    ahead. The figures of a site that was chosen by them flatter it a little.

    Args:
        model: The model, with nothing attached.
        positive: Prompts to open on.
        negative: Prompts to stay shut on, by kind; name several.
        sites: Keys of the sites that may be read.
        held_out_positive: More of ``positive``, for the threshold and the figures.
        held_out_negative: More of ``negative``. Of kinds that it lacks, those trained on are judged
            by cross-validation.
        options: How.

    Raises:
        EquipoiseError: A side is missing, no site, a kind called ``positive``, activations that are
            not finite, or scikit-learn is not installed.
    """
    options = options or GateOptions()
    keys = [sites] if isinstance(sites, str) else list(sites)
    if not keys:
        raise EquipoiseError("a gate needs a site to read")
    queries = None
    if options.reads == "attended":
        known = [*positive, *(prompt for kind in negative.values() for prompt in kind)]
        queries = fit_queries(model, known, keys)
    read = partial(Examples.read, model, sites=keys, reads=options.reads, queries=queries)
    train = read(positive, negative)
    held_out = read(held_out_positive, held_out_negative or {})
    found = [
        build_gate(
            key,
            train.at(number),
            held_out.at(number),
            options,
            None if queries is None else queries[number],
            tried=len(keys),
        )
        for number, key in enumerate(keys)
    ]
    others = options.reads != "attended"
    return max(found, key=lambda pair: round(merit(pair[1], others=others), 3))


def merit(report: GateReport, *, others: bool = True) -> float:
    """Mean balanced accuracy of a gate on known kinds and (``others``) on each kind left out."""
    wrong = [report.worst]
    if others:
        ignored = () if report.small_bind else report.small
        wrong += [rate.estimate for kind, rate in report.left_out.items() if kind not in ignored]
    return float(np.mean([(report.opens.estimate + 1 - rate) / 2 for rate in wrong]))
