"""The loop as functions: audit, fit, sweep, run."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.decisions.score import Normalise
from equipoise.errors import EquipoiseError
from equipoise.fairness import choose_strength
from equipoise.fairness.choose import check_budget
from equipoise.methods import METHODS, Anchors, FitOutcome, FitRequest
from equipoise.methods.method import Report, counting, unfit
from equipoise.models import Model, unwrap
from equipoise.models.fingerprint import fingerprint
from equipoise.steering import Steering
from equipoise.steering.attach.runtime import Runtime
from equipoise.study.anchors import allowed, anchors_of
from equipoise.study.arguments import (
    CapabilityLike,
    SteeringLike,
    TaskLike,
    a_model,
    a_normalisation,
    a_split,
    a_steering,
    a_task,
    capabilities,
    some_anchors,
)
from equipoise.study.gate import gate_rates
from equipoise.study.measure import Measurement, Probe, measure
from equipoise.study.results import Result, results
from equipoise.study.settings import Settings
from equipoise.tasks import Capability, Task
from equipoise.tasks.item import Split

STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
WORST_ITEMS = 12


def audit(
    model: Model,
    task: TaskLike,
    *,
    capability: CapabilityLike = (),
    split: Split | None = None,
    settings: Settings | None = None,
    report: Report | None = None,
) -> Result:
    """Measure a model as it is.

    Args:
        model: The model.
        task: The task, or its name.
        capability: Measured beside it, on their test questions and all their documents; their
            names do.
        split: Measure one split only; None takes every item, since nothing is fitted or chosen.
        settings: How decisions are measured.
        report: Told of progress.

    Returns:
        A result with one row, at strength 0.

    Raises:
        EquipoiseError: No such split, or one without items.
    """
    started = time.perf_counter()
    model, task, capability = a_model(model), a_task(task), capabilities(capability)
    if Runtime.of(unwrap(model)) is not None:
        warnings.warn(
            f"{model.name} has a steering attached: the audit is of the steered model", stacklevel=2
        )
    if split is None:
        probe = Probe.everything(task, capability)
    else:
        probe = Probe.of(task, a_split(split), capability)
    found = measure(
        model, probe, settings=settings, progress=counting(report, "audit", len(probe), strengths=1)
    )
    return Result(
        results(
            model,
            task,
            found.rows,
            method="none",
            wall_seconds={"audit": time.perf_counter() - started},
            worst_items=worst_items(found, 0.0),
            split=split or "all",
        )
    )


def can_run(task: Task, capability: Sequence[Capability]) -> bool:
    """Whether :func:`run` has what it needs: items to fit on and to measure, and anchors."""
    anchors = anchors_of(task, capability, "train")
    return bool(task.split("test")) and unfit(task, anchors) is None


def fit(model: Model, task: TaskLike, method: str = "dso", **options: Any) -> Steering:
    """Fit a steering; takes what :func:`fit_outcome` takes, which also tells how the fit went."""
    return fit_outcome(model, task, method, **options).steering


def fit_outcome(
    model: Model,
    task: TaskLike,
    method: str = "dso",
    *,
    capability: CapabilityLike = (),
    anchors: Anchors | None = None,
    seed: int = 0,
    normalise: Normalise = "sum",
    checkpoint: str | Path | None = None,
    report: Report | None = None,
    **config: Any,
) -> FitOutcome:
    """Fit a steering on the ``train`` split; ``validation`` verifies, ``test`` is never seen.

    Args:
        model: The frozen model.
        task: The task, or its name.
        method: Name of a registered method.
        capability: Their train parts are anchors; their names do.
        anchors: More of them; what is held out, or ambiguous in the task, is left out of them,
            with a warning.
        seed: Every random choice follows from it.
        normalise: Sum or mean of an option's token log-probabilities, as it will be measured.
        checkpoint: Folder for what an interrupted fit resumes from.
        report: Told of progress.
        **config: Settings of the method.

    Raises:
        EquipoiseError: Unknown method or setting; a task the method cannot be fitted on; a
            capability that is given twice; anchors or a ``normalise`` that are none.
    """
    chosen = METHODS.get(method)
    model, task, capability = a_model(model), a_task(task), capabilities(capability)
    given = allowed(some_anchors(anchors) or Anchors(), task, capability)
    data = {one.name: one.digest for one in capability if one.items or one.documents}
    request = FitRequest(
        model,
        task,
        anchors_of(task, capability, "train", given),
        anchors_of(task, capability, "validation"),
        seed,
        report,
        Path(checkpoint) if checkpoint else None,
        a_normalisation(normalise),
    )
    settings = chosen.configure(**config)
    outcome = chosen.fit(request, settings)
    info = replace(
        outcome.steering.info,
        method=method,
        base_model_name_or_path=model.name,
        revision=model.revision,
        fingerprint=fingerprint(model),
        task_digest=task.digest,
        data_digests=data | ({"anchors": given.digest} if given else {}),
        extra=outcome.steering.info.extra
        | {
            "task": task.name,
            "seed": seed,
            "config": settings.model_dump(mode="json"),
            "notes": list(outcome.notes),
        },
    )
    outcome.steering.info = info
    return outcome


def sweep(
    model: Model,
    task: TaskLike,
    steering: SteeringLike,
    strengths: Sequence[float] = STRENGTHS,
    *,
    capability: CapabilityLike = (),
    max_capability_drop: float | None = None,
    interpolate: bool = False,
    settings: Settings | None = None,
    report: Report | None = None,
) -> Result:
    """Measure a steering at several strengths, on ``validation`` to choose by, then on ``test``.

    Strength 0 is among the rows whether it was asked for or not: a choice has to beat it.

    Args:
        model: The model.
        task: The task, or its name.
        steering: The steering, or the folder it was saved in.
        strengths: What to measure.
        capability: Measured beside the task; their names do.
        max_capability_drop: Also choose a strength, within this budget; None leaves that to
            :meth:`Result.choose`.
        interpolate: Also measure the strength between two others at which the budget seems to be
            spent best, and choose among all that were measured.
        settings: How decisions are measured.
        report: Told of progress.

    Raises:
        EquipoiseError: No strengths, one that is no finite number, a budget that is no share, or
            a task without a test split.
    """
    started = time.perf_counter()
    ladder = _ladder(strengths)
    model, task, capability = a_model(model), a_task(task), capabilities(capability)
    steering = a_steering(steering)
    if max_capability_drop is not None:
        check_budget(max_capability_drop)
    elif interpolate:
        raise EquipoiseError("interpolate needs a budget: give max_capability_drop")
    judging = Probe.of(task, "test", capability)
    judging.refuse_empty()

    def measured(probe: Probe, at: Sequence[float], phase: str) -> Measurement:
        return measure(
            model,
            probe,
            steering=steering,
            strengths=at,
            settings=settings,
            progress=counting(report, phase, len(probe), strengths=len(at)),
        )

    rows: list[dict[str, Any]] = []
    choosing = Probe.of(task, "validation", capability)
    if any(item.ambiguous for item in choosing.items):
        rows = measured(choosing, ladder, "choose").rows
        if max_capability_drop is not None and interpolate:
            guess = choose_strength(rows, max_capability_drop, interpolate=True)
            between = round(guess.strength, 3)  # as it is shown, and typed in the next command
            if guess.interpolated and between not in ladder:
                ladder = sorted([*ladder, between])
                rows += measured(choosing, [between], "between").rows
                rows.sort(key=lambda row: float(row["strength"]))
    found = measured(judging, ladder, "sweep")
    batch_tokens = (settings or Settings()).batch_tokens
    rates = gate_rates(model, judging, steering, batch_tokens, report)
    data = results(
        model,
        task,
        found.rows,
        method=steering.info.method or "unknown",
        steering=steering,
        wall_seconds={"sweep": time.perf_counter() - started},
        split="test",
        notes=list(steering.info.extra.get("notes") or ()),
        gate=rates,
    )
    result = Result(data, rows)
    chosen = 0.0 if max_capability_drop is None else result.choose(max_capability_drop).strength
    data["worst_items"] = worst_items(found, chosen or ladder[-1])
    return result


def run(
    model: Model,
    task: TaskLike,
    method: str = "dso",
    *,
    strengths: Sequence[float] = STRENGTHS,
    capability: CapabilityLike = (),
    anchors: Anchors | None = None,
    max_capability_drop: float = 0.05,
    interpolate: bool = False,
    seed: int = 0,
    settings: Settings | None = None,
    checkpoint: str | Path | None = None,
    report: Report | None = None,
    **config: Any,
) -> tuple[Result, Steering]:
    """The whole loop: fit, sweep (strength 0 is the audit), choose."""
    started = time.perf_counter()
    ladder = _ladder(strengths)  # a mistake is said before the fit
    check_budget(max_capability_drop)
    model, task, capability = a_model(model), a_task(task), capabilities(capability)
    Probe.of(task, "test").refuse_empty()
    outcome = fit_outcome(
        model,
        task,
        method,
        capability=capability,
        anchors=anchors,
        seed=seed,
        normalise=(settings or Settings()).normalise,
        checkpoint=checkpoint,
        report=report,
        **config,
    )
    fitted = time.perf_counter() - started
    result = sweep(
        model,
        task,
        outcome.steering,
        ladder,
        capability=capability,
        max_capability_drop=max_capability_drop,
        interpolate=interpolate,
        settings=settings,
        report=report,
    )
    result.data["wall_seconds"]["fit"] = fitted
    result.data["fit"] = {"history": outcome.history}
    measured = [row["strength"] for row in result.rows]
    outcome.steering.info = replace(
        outcome.steering.info,
        recommended_strength=result.data["chosen"]["strength"],
        verified_strengths=(min(measured), max(measured)),
    )
    return result, outcome.steering


def _ladder(strengths: Sequence[float]) -> list[float]:
    """The strengths in ascending order, 0 among them: what every other is compared with."""
    try:
        asked = {float(w) for w in strengths}
    except (TypeError, ValueError):
        raise EquipoiseError(
            f"strengths must be numbers, as in [0, 0.5, 1]; got {strengths!r}"
        ) from None
    if not asked:
        raise EquipoiseError("no strengths to sweep; give some, as in 0,0.5,1")
    if not all(map(math.isfinite, asked)):
        raise EquipoiseError(f"strengths must be finite; got {strengths!r}")
    return sorted({0.0, *asked})


def worst_items(found: Measurement, at: float) -> list[dict[str, Any]]:
    """The ambiguous items decided most one-sidedly at a strength, with their probabilities."""
    at_index = min(range(len(found.ambiguous)), key=lambda k: abs(found.ambiguous[k].strength - at))
    decisions = found.ambiguous[at_index]
    tables = [d.probabilities() for d in found.ambiguous]
    lean = np.zeros(len(decisions))
    for i, item in enumerate(decisions.items):
        marks = item.sides or item.groups or ()
        shares: dict[str, float] = {}
        for k, mark in enumerate(marks):
            if mark not in (None, "abstain"):
                shares[str(mark)] = shares.get(str(mark), 0.0) + tables[at_index][i, k]
        if shares:
            lean[i] = max(shares.values()) - min(shares.values())
    worst = np.argsort(-lean, kind="stable")[:WORST_ITEMS]
    return [
        {
            "id": decisions.items[i].id,
            "prompt": decisions.items[i].prompt,
            "options": list(decisions.items[i].options),
            "sides": list(decisions.items[i].sides or decisions.items[i].groups or ()),
            "context": list(decisions.items[i].contexts),
            "strengths": {
                f"{d.strength:g}": [float(p) for p in table[i, : len(decisions.items[i].options)]]
                for d, table in zip(found.ambiguous, tables, strict=True)
            },
        }
        for i in worst
    ]
