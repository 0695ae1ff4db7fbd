"""Decisions: what a model answers, with what probability."""

from equipoise.decisions.decision import Decisions

__all__ = ["Decisions"]
