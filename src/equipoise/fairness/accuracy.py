"""Accuracy, its drop against the base paired by item, and perplexity paired by document."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from equipoise.decisions.decision import Decisions
from equipoise.errors import EquipoiseError
from equipoise.fairness.certificate import drop_bound
from equipoise.fairness.evidence import option_probabilities, twin_index
from equipoise.fairness.interval import (
    ONE_SIDED_95,
    TWO_SIDED_95,
    Interval,
    clustered_ratio,
    paired_drop,
    paired_upper_limit,
    proportion_interval,
    student_quantile,
)

ROUNDING = 1e-5
"""Change of a loss, in nats per token, that says nothing: the same text was read in another row."""


def accuracy(decisions: Decisions, base: Decisions | None = None) -> dict[str, Any] | None:
    """Share of items whose greedy answer is the right one.

    Args:
        decisions: Items; those without an ``answer`` are passed over.
        base: The decisions of the unsteered model on the same items, for the drop.

    Returns:
        ``estimate`` with Wilson's interval at the effective number of items (``low``, ``high``),
        ``n``, and ``drop``: estimate and one-sided 95 % limits of the accuracy lost against the
        base (None without a base; 0 without any width for the base itself: its very scores, at
        its strength. A gate that stayed shut on every item leaves the same scores, and a limit.)
        With KL at hand also ``kl``, its mean, and ``certificate``, the bound of Theorem 2 on the
        change of the chance that a *sampled* answer is right (greedy ones have none). None if no
        item has an answer.

    Raises:
        EquipoiseError: The base's items differ, or scores are not log-probabilities.
    """
    answered = decisions.subset(lambda item: item.answer is not None)
    if not len(answered):
        return None
    result = _share(_right(answered), twin_index(answered.items))
    if base is not None:
        result["drop"] = _drop(decisions, base).as_dict()
    if answered.kl is not None:
        kl = float(np.mean(answered.kl))
        result |= {"kl": kl, "certificate": drop_bound(kl)}
    return result


def accuracy_of(right: np.ndarray, base: np.ndarray | None = None) -> dict[str, Any]:
    """What :func:`accuracy` returns, of answers that somebody else has judged.

    Args:
        right: bool [n], independent of each other.
        base: bool [n], of the unsteered model; the very array ``right``: there is no drop, and no
            doubt.
    """
    alone = np.arange(len(right))
    result = _share(right, alone)
    if base is not None:
        drop = Interval(0.0, 0.0, 0.0) if right is base else paired_drop(base, right, alone)
        result["drop"] = drop.as_dict()
    return result


def _share(right: np.ndarray, twins: np.ndarray) -> dict[str, Any]:
    return {**proportion_interval(right, twins).as_dict(), "n": len(right), "drop": None}


def unambiguous_accuracy(
    decisions: Decisions, base: Decisions | None = None
) -> dict[str, Any] | None:
    """Accuracy over all unambiguous items, with the share that is answered at all.

    Returns:
        What :func:`accuracy` returns, ``coverage`` (share of greedy answers that do not abstain)
        and ``answered_only`` (accuracy over those; None if there are none).
    """
    result = accuracy(decisions, base)
    if result is None:
        return None
    answered = decisions.subset(lambda item: item.answer is not None)
    picks = answered.scores.argmax(axis=1)
    spoke = np.array(
        [not item.abstains[pick] for item, pick in zip(answered.items, picks, strict=True)]
    )
    right = _right(answered)
    return result | {
        "answered_only": float(right[spoke].mean()) if spoke.any() else None,
        "coverage": float(spoke.mean()),
    }


def _right(decisions: Decisions) -> np.ndarray:
    """Is the greedy answer the right one? bool [n]."""
    greedy = option_probabilities(decisions, 0).argmax(axis=1)
    return greedy == np.array([item.answer for item in decisions.items])


def _drop(decisions: Decisions, base: Decisions) -> Interval:
    if [item.id for item in decisions.items] != [item.id for item in base.items]:
        raise EquipoiseError(
            "the drop is paired by item: the base's decisions must be on the same items, in order"
        )
    keep = [row for row, item in enumerate(decisions.items) if item.answer is not None]
    now, before = decisions.subset(keep), base.subset(keep)
    same = decisions.strength == base.strength and np.array_equal(decisions.scores, base.scores)
    if same:  # The base itself: no drop, and no doubt.
        return Interval(0.0, 0.0, 0.0)
    return paired_drop(_right(before), _right(now), twin_index(now.items))


def perplexity(
    nll: np.ndarray, tokens: np.ndarray, base_nll: np.ndarray | None = None
) -> dict[str, Any]:
    """Perplexity over documents, and its relative rise against the base.

    Args:
        nll: float [d], summed negative log-likelihood of each document's scored tokens, in nats.
        tokens: int [d], number of those tokens.
        base_nll: float [d], the same of the unsteered model; the very array ``nll``: there is no
            rise, and no doubt.

    Returns:
        ``estimate``, ``low``, ``high``: exp(Σ nll / Σ tokens) with a Student interval on the log
        scale, documents being the independent units; ``n`` (documents with tokens to score),
        ``tokens``; ``drop``: the relative rise exp(Σ (nll − base) / Σ tokens) − 1 with one-sided
        95 % limits, so that .01 reads "1 % worse" as for accuracies (None without a base). Where
        no document changes (a gate stayed shut), the limits are those of an accuracy that does
        not change. Limits are None for a single document.

    Raises:
        EquipoiseError: No tokens, or losses that are not finite (or perplexities beyond 1e300).
    """
    same, tokens = base_nll is nll, np.asarray(tokens, dtype=float)
    read = tokens > 0  # a document of a single token says nothing, and is no unit
    if not read.any():
        raise EquipoiseError("perplexity: the documents hold no token to score")
    tokens, nll = tokens[read], np.asarray(nll, dtype=float)[read]
    result: dict[str, Any] = {
        **_exp_ratio(nll, tokens, TWO_SIDED_95).as_dict(),
        "n": len(nll),
        "tokens": int(tokens.sum()),
        "drop": None,
    }
    if base_nll is not None:
        change = nll - np.asarray(base_nll, dtype=float)[read]
        rise = Interval(0.0, 0.0, 0.0) if same else _rise(change, tokens)
        result["drop"] = rise.as_dict()
    return result


def _rise(change: np.ndarray, tokens: np.ndarray) -> Interval:
    """Relative rise of the perplexity, from documents' losses, with one-sided 95 % limits."""
    if len(change) > 1 and (np.abs(change) <= ROUNDING * tokens).all():
        # How much a document that changes would lose was not seen: it counts as doubled, as a
        # wrong answer counts as one. A share p of doubled ones is a rise of 2^p − 1 < p.
        high = paired_upper_limit(0, 0, len(change))
        return Interval(math.expm1(change.sum() / tokens.sum()), -high, high)
    ratio = _exp_ratio(change, tokens, ONE_SIDED_95)
    limits = (None if limit is None else limit - 1 for limit in (ratio.low, ratio.high))
    return Interval(ratio.estimate - 1, *limits)


def _exp_ratio(nll: np.ndarray, tokens: np.ndarray, z: float) -> Interval:
    """Exponential of a ratio of sums over documents, with limits at a normal quantile."""
    if not np.isfinite(nll).all():
        raise EquipoiseError("perplexity: a document's loss is NaN or infinite; lower the strength")
    mean, error, count = clustered_ratio(nll, tokens, np.arange(len(nll)))
    half = student_quantile(z, count - 1) * error if count > 1 else 0.0
    if abs(mean) + half > math.log(1e300):
        raise EquipoiseError(
            f"perplexity: {mean:g} (± {half:g}) nat per token is no language model's loss; "
            "lower the strength"
        )
    if count < 2:
        return Interval(math.exp(mean), None, None)
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half))
