"""Studies: audit, fit, sweep, choose and run as functions that return results."""

from equipoise.study.results import Result
from equipoise.study.settings import Settings
from equipoise.study.study import STRENGTHS, audit, can_run, fit, fit_outcome, run, sweep

__all__ = [
    "STRENGTHS",
    "Result",
    "Settings",
    "audit",
    "can_run",
    "fit",
    "fit_outcome",
    "run",
    "sweep",
]
