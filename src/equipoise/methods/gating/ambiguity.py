"""The gate of a task: open on its ambiguous prompts, shut on its anchors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from equipoise.errors import EquipoiseError
from equipoise.methods.gating.build import GateOptions
from equipoise.methods.gating.fit import fit_gate
from equipoise.methods.gating.kinds import UNAMBIGUOUS, Kinds
from equipoise.methods.gating.report import GateReport
from equipoise.methods.method import Anchors, FitRequest
from equipoise.models import Model
from equipoise.models.backbone import residual_sites
from equipoise.steering import Gate
from equipoise.steering.gates import Reads
from equipoise.tasks.item import Item
from equipoise.tasks.subset import take_evenly

_MAX_PROMPTS = 1024


def ambiguity_gate(
    request: FitRequest,
    *,
    soft: bool,
    layer: int | None = None,
    reads: Reads = "mean",
    false_firing: float = 0.05,
    force: bool = False,
) -> tuple[Gate, GateReport]:
    """Fit a gate that detects ambiguous prompts, from the unsteered activation of the prompt.

    It learns from the train split and is judged on validation. Its hard negatives are the task's
    own unambiguous items, all of them: the same people and words, with evidence. A gate on "the
    model answers with the stereotype" was worse everywhere (spec/findings.md, "Gating").

    It reads the mean over the prompt. On wordings that neither the bundled model nor the gate had
    been trained on, the last token told less (docs/fairsteer.md), though on validation, whose
    wordings the model knows, nothing tells the two apart.

    The site is a decoder block's output. It may lie after sites that are steered: a row gate then
    reads the prompt ahead, in an unsteered pass that ends at its block, and its decision is kept
    in the cache.

    Args:
        request: Model, task and anchors.
        soft: Open by degrees.
        layer: Block to read; None: the best, by held-out and left-out kinds.
        reads: The prompt's ``last`` token, the ``mean`` over its tokens, or what a query finds
            that looks for the word the prompt is about (``attended``).
        false_firing: Rate that a hard gate's threshold allows on each kind of anchors.
        force: Take a probe that cannot beat chance.

    Raises:
        EquipoiseError: No ambiguous items or no anchors in the train split, no such block, or a
            probe that cannot beat chance.
    """
    task = request.task
    shut = _with_unambiguous(request.anchors, task.split("train"), request.seed)
    held_out = _with_unambiguous(request.held_out_anchors, task.split("validation"), request.seed)
    kinds = Kinds.of(task, shut)
    negative = kinds.sort(shut)
    gate, report = fit_gate(
        request.model,
        ambiguous_items(task.split("train"), request.seed),
        negative,
        block_sites(request.model, layer),
        held_out_positive=ambiguous_items(task.split("validation"), request.seed),
        held_out_negative=kinds.sort(held_out),
        options=GateOptions(
            soft=soft,
            reads=reads,
            false_firing=false_firing,
            eager=True,
            hard=frozenset(kind for kind in negative if kind.startswith(UNAMBIGUOUS)),
        ),
    )
    refuse_chance(report, force=force)
    return gate, report


def block_sites(model: Model, layer: int | None) -> list[str]:
    """Keys of the residual stream after each decoder block, or after one of them.

    Raises:
        EquipoiseError: The model has no such block.
    """
    sites = residual_sites(model)
    if layer is None:
        return [site.key for site in sites]
    if layer >= len(sites):
        raise EquipoiseError(f"layer {layer}: the model has blocks 0 to {len(sites) - 1}")
    return [sites[layer].key]


def refuse_chance(report: GateReport, *, force: bool) -> None:
    """Stop where a gate would be arbitrary.

    Raises:
        EquipoiseError: The probe does not rank better than chance, and it is not forced.
    """
    if not report.beats_chance and not force:
        sites = f" at the best of {report.tried} sites" if report.tried > 1 else ""
        if report.judged_on == "training":
            sites += ", of the prompts it was fitted on"
        raise EquipoiseError(
            f"the probe at {report.site} does not beat chance (AUROC {report.auroc:.3f}, "
            f"p = {report.p_value:.2g}{sites}): gating on it would be arbitrary; fit without a "
            "gate, with more items, or set force_gate=true"
        )


def _with_unambiguous(anchors: Anchors, items: Sequence[Item], seed: int) -> Anchors:
    """Anchors with all of a split's unambiguous items (a thousand at most) among them."""
    own = [item for item in items if not item.ambiguous]
    own = take_evenly(own, _MAX_PROMPTS, seed=seed) if own else []
    return replace(anchors, items=tuple(dict.fromkeys((*anchors.items, *own))))


def ambiguous_items(items: Sequence[Item], seed: int) -> list[Item]:
    """The ambiguous ones, at most a thousand, evenly over their contexts."""
    chosen = [item for item in items if item.ambiguous]
    return take_evenly(chosen, _MAX_PROMPTS, seed=seed) if chosen else []
