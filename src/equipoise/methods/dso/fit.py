"""Fit a DSO steering: train, prune, and hold the KL budgets on held-out prompts."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from equipoise.decisions.decide import decide, score_texts
from equipoise.methods.dso.config import DSOConfig
from equipoise.methods.dso.projection import SMALLEST, Budget, largest_within, rescale
from equipoise.methods.dso.sparsity import keep_top_share
from equipoise.methods.dso.train import Trainer
from equipoise.methods.method import Anchors, FitOutcome, FitRequest, counting, evenly, some_items


def fit(request: FitRequest, config: DSOConfig) -> FitOutcome:
    """Fit DSO to a task.

    Trains on the task's ambiguous ``train`` items and the anchors; the KL budgets are checked on
    the ``validation`` items and the held-out anchors.

    Warns where nothing of the trained map keeps the budgets: the steering is then empty.

    Raises:
        EquipoiseError: No ambiguous training items, no anchors, or a loss or a map that is not
            finite.
    """
    trainer = Trainer(request, config)
    steering = trainer.run().steering
    if config.keep_share < 1:
        keep_top_share(steering, config.keep_share, trainer.scale)
    held_out = [i for i in request.task.split("validation") if i.ambiguous]
    ambiguous = some_items(held_out or trainer.items, config.checked)
    kept = request.held_out_anchors or request.anchors
    n = config.checked_anchors
    anchors = Anchors(some_items(kept.items, n), evenly(kept.texts, n))
    on_what = "held-out" if held_out and request.held_out_anchors else "training (none held out)"

    items = (*ambiguous, *anchors.items)

    def measure(strengths: list[float]) -> list[tuple[float, float]]:
        told = counting(request.report, "hold", len(items) + len(anchors.texts))
        how: dict[str, Any] = {"steering": steering, "strengths": strengths, "progress": told}
        decided = decide(request.model, items, **how)
        read = score_texts(request.model, anchors.texts, **how)
        assert read.kl is not None
        both = [np.concatenate([d.kl, kl]) for d, kl in zip(decided, read.kl, strict=True)]
        end = len(ambiguous)
        return [(float(kl[:end].mean()), float(kl[end:].mean())) for kl in both]

    budget = Budget(config.kl_ambiguous, config.kl_anchor)
    if config.kl_control == "projection":
        strength, kl = largest_within(budget, measure)
        rescale(steering, strength)
        if strength == 0:
            warnings.warn(
                f"dso: not even {SMALLEST:.1g} of the trained map keeps the KL budgets, so the "
                "steering is empty and changes nothing (raise kl_anchor or kl_ambiguous, or lower "
                "learning_rate)",
                stacklevel=2,
            )
        how = "held" if strength == 1 else f"ω = 1 is {strength:.3g} of the trained map"
    else:
        (kl,) = measure([1.0])
        how = "held by dual ascent" if budget.holds(kl) else "NOT held by dual ascent"
    note = (
        f"KL at ω = 1 on {on_what} prompts: {kl[0]:.3f} nat ambiguous (budget {budget.ambiguous}), "
        f"{kl[1]:.4f} nat anchors (budget {budget.anchor}); {how}"
    )
    gate = trainer.gate_report
    if gate is not None:
        steering.info.extra["gate"] = gate.as_dict()
    return FitOutcome(
        steering, trainer.state.history, (note, *(gate.notes() if gate is not None else ()))
    )
