"""Reorder the rows of a key-value cache together with what it was filled under."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from equipoise.steering.context import put_stamp, stamp_of


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
