"""The model card of a folded checkpoint."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import nn

from equipoise.models.model import Model

if TYPE_CHECKING:
    from equipoise.steering.fold.checkpoint import FoldReport
    from equipoise.steering.steering import Steering

# What the hub accepts as base_model; a built-in name or a folder would fail its validation.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def card(model: Model | nn.Module, steering: Steering, report: FoldReport) -> str:
    """README.md: what was folded into what, and how exactly."""
    info = steering.info
    named = model.name if isinstance(model, Model) else ""
    base = info.base_model_name_or_path or named
    front = ["---", "library_name: transformers"]
    if _HUB_ID.fullmatch(base):
        front.append(f"base_model: {base}")
    front += ["tags:", "- equipoise", "- activation-steering", "---"]
    rows = {
        "base model": f"{base or 'not recorded'}{f' ({info.revision})' if info.revision else ''}",
        "method": info.method or "not recorded",
        "strength ω": f"{report.strength:g}",
        "steering (SHA-256)": f"`{report.steering}`",
        "sites": str(report.sites),
        "dtype": report.dtype,
        "largest logit difference to the steered model": f"{report.max_logit_difference:.2g} "
        f"(tolerance {report.tolerance:.2g}, {report.prompts} prompts)",
        "largest change of a logit by the steering": f"{report.max_logit_effect:.2g}",
    }
    return "\n".join(
        [
            *front,
            f"# {base or report.architecture}, steered at ω = {report.strength:g} and folded",
            "",
            "An ordinary checkpoint: a steering fitted with equipoise was baked into the weights "
            "of the base model at one strength. It needs neither equipoise nor hooks, and the "
            "strength can no longer be changed. The base model's licence and limits apply.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows.items()),
            "",
        ]
    )
