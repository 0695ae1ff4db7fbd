"""Studies: audit, fit, sweep, choose and run as functions that return results."""

from equipoise.study.measure import Settings
from equipoise.study.results import Result
from equipoise.study.study import STRENGTHS, audit, fit, fit_outcome, run, sweep

__all__ = ["STRENGTHS", "Result", "Settings", "audit", "fit", "fit_outcome", "run", "sweep"]
