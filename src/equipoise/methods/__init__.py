"""Methods: what fits a steering to a model and a task."""

from equipoise.methods.method import Anchors, FitOutcome, FitRequest, Method, MethodConfig
from equipoise.methods.registry import METHODS

__all__ = ["METHODS", "Anchors", "FitOutcome", "FitRequest", "Method", "MethodConfig"]
