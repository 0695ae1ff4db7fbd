"""Metrics, estimators, intervals and certificates; reads decisions only (numpy, no model)."""

from equipoise.fairness.accuracy import accuracy, accuracy_of, perplexity, unambiguous_accuracy
from equipoise.fairness.behaviour import (
    abstention,
    by_context,
    option_mass,
    shares,
    stereotype_gap,
    twin_metrics,
)
from equipoise.fairness.bias import BiasEstimate, per_occupation_bias
from equipoise.fairness.certificate import drop_bound
from equipoise.fairness.choose import Choice, choose_strength
from equipoise.fairness.finite import assert_finite
from equipoise.fairness.interval import Interval, paired_drop
from equipoise.fairness.summary import summarise

__all__ = [
    "BiasEstimate",
    "Choice",
    "Interval",
    "abstention",
    "accuracy",
    "accuracy_of",
    "assert_finite",
    "by_context",
    "choose_strength",
    "drop_bound",
    "option_mass",
    "paired_drop",
    "per_occupation_bias",
    "perplexity",
    "shares",
    "stereotype_gap",
    "summarise",
    "twin_metrics",
    "unambiguous_accuracy",
]
