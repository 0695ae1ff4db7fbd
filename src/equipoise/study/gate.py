"""How often a row gate opens on what is measured: on the very prompts of the sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.decisions.encode import Encoded, encode_items, encode_text
from equipoise.decisions.openings import openings
from equipoise.fairness.evidence import cluster_index, twin_index
from equipoise.fairness.interval import mean_interval, proportion_interval
from equipoise.methods.method import Report, counting
from equipoise.models import Model
from equipoise.steering import Gate, Steering
from equipoise.tasks.item import Item

if TYPE_CHECKING:
    from equipoise.study.measure import Probe

_Pool = tuple[Sequence[Encoded], np.ndarray]
"""Encoded rows, and the cluster of each: int [n]."""


def gate_rates(
    model: Model, probe: Probe, steering: Steering, batch_tokens: int, report: Report | None = None
) -> dict[str, Any] | None:
    """Of each kind of prompts, the share a hard gate opens on; how far a soft one opens.

    Returns:
        ``ambiguous`` and ``unambiguous`` (of the task) and ``capability`` (by name; of documents,
        their windows), each with ``estimate``, ``low``, ``high`` and ``n``, or null where nothing
        is asked. None without a gate that decides per row.
    """
    gate = steering.gate
    if gate is None or gate.unit != "row":
        return None

    def of_items(items: Sequence[Item]) -> _Pool:
        return encode_items(model, items), twin_index(items)

    def of_texts(texts: Sequence[str]) -> _Pool:
        windows = [(k, row) for k, text in enumerate(texts) for row in encode_text(model, text)]
        return [row for _, row in windows], cluster_index(str(k) for k, _ in windows)

    items = (*probe.items, *probe.unseen)
    pools = [
        of_items([item for item in items if item.ambiguous]),
        of_items([item for item in items if not item.ambiguous]),
        *map(of_items, probe.questions.values()),
        *map(of_texts, probe.texts.values()),
    ]
    rows = [row for encoded, _ in pools for row in encoded]
    opens = openings(model, rows, steering, batch_tokens, counting(report, "gate", len(rows)))
    parts = np.split(opens, np.cumsum([len(encoded) for encoded, _ in pools])[:-1])
    rates = [
        _rate(gate, part, clusters) if len(part) else None
        for part, (_, clusters) in zip(parts, pools, strict=True)
    ]
    capability = dict(zip((*probe.questions, *probe.texts), rates[2:], strict=True))
    capability |= dict.fromkeys(probe.harness)  # lm-eval asks those itself
    return {"ambiguous": rates[0], "unambiguous": rates[1], "capability": capability}


def _rate(gate: Gate, opens: np.ndarray, clusters: np.ndarray) -> dict[str, Any]:
    if gate.soft:
        interval = mean_interval(opens, clusters)
    else:
        interval = proportion_interval(opens > 0, clusters)
    return {**interval.as_dict(), "n": len(opens)}
