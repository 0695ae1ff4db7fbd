"""Caches of keys and values, or of states: what they hold, and what they were filled under."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from equipoise.steering.attach.forward import Generation

_STAMP = "_equipoise_stamp"
# What transformers calls a cache, among a model's arguments and in its output.
CACHES = ("past_key_values", "cache_params", "past_buckets_states", "mems", "state")


@dataclass
class Stamp:
    """What a cache was filled under; travels with the cache object, copies included.

    Attributes:
        tokens: Columns held (prompt and generated, padding included).
        prompt: int64 [rows]; real tokens of each row's prompt.
        strengths: Per steering, by :attr:`Steering.uid`: the strengths its tokens were run at.
        decisions: Per steering with a row gate: float32 [rows].
        generation: The ``generate`` call it was filled in, if any.
    """

    tokens: int
    prompt: Tensor | None = None
    strengths: dict[str, tuple[float, ...]] = field(default_factory=dict)
    decisions: dict[str, Tensor] = field(default_factory=dict)
    generation: Generation | None = None


def stamp_of(cache: Any) -> Stamp | None:
    """The stamp of a cache, if a steered model filled it."""
    return getattr(cache, _STAMP, None)


def put_stamp(cache: Any, stamp: Stamp) -> None:
    """Mark a cache; legacy caches (tuples) cannot be marked and are left alone."""
    if can_be_marked(cache):
        setattr(cache, _STAMP, stamp)


def can_be_marked(cache: Any) -> bool:
    """Whether a steered model leaves its stamp on such a cache."""
    return hasattr(cache, "__dict__")


def cache_of(values: Any) -> Any:
    """The cache among a forward pass's arguments, or in its output; None if there is none."""
    if isinstance(values, tuple):
        return next((v for v in values if hasattr(v, "get_seq_length")), None)
    for name in CACHES:
        cache = values.get(name) if isinstance(values, Mapping) else getattr(values, name, None)
        if cache is not None:
            return cache
    return None


def tokens_in(cache: Any) -> int | None:
    """Columns a cache holds; None if it holds some and does not tell how many."""
    if cache is None:
        return 0
    try:
        return int(cache.get_seq_length())
    except (AttributeError, TypeError, ValueError):
        # State-space caches do not count their tokens, nor does Reformer's.
        stamp = stamp_of(cache)
        if stamp is not None:
            return stamp.tokens
        return None if _is_filled(cache) else 0


def grew(cache: Any, past: int) -> bool:
    """Whether a pass filled the cache it was given, which it may have left aside.

    Args:
        cache: The cache, after the pass.
        past: Columns it held before.
    """
    try:
        return int(cache.get_seq_length()) != past
    except (AttributeError, TypeError, ValueError):
        return _is_filled(cache)


def _is_filled(cache: Any) -> bool:
    if hasattr(cache, "has_previous_state"):
        try:
            return bool(cache.has_previous_state())
        except ValueError:  # it has no layers yet
            return False
    return hasattr(cache, "__len__") and len(cache) > 0


def select_rows(cache: Any, index: Tensor) -> None:
    """Keep (or repeat) rows of a cache in place: row i of the result is row ``index[i]``.

    A steered model remembers in its cache at which strength and under which gate decisions every
    row was computed; these follow their rows.

    Args:
        cache: A transformers cache.
        index: int64 [new rows].
    """
    cache.batch_select_indices(index)
    stamp = stamp_of(cache)
    if stamp is None:
        return
    rows = index.tolist()
    put_stamp(
        cache,
        replace(
            stamp,
            prompt=None if stamp.prompt is None else stamp.prompt[index.to(stamp.prompt.device)],
            strengths={
                uid: values if len(values) == 1 else tuple(values[i] for i in rows)
                for uid, values in stamp.strengths.items()
            },
            decisions={uid: d[index.to(d.device)] for uid, d in stamp.decisions.items()},
            generation=None,  # its rows are others
        ),
    )
