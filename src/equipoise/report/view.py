"""Reading results.json: rows, metrics and what is missing, in one form for every output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from equipoise.errors import EquipoiseError

Aim = Literal["lower", "higher", "same"]


@dataclass(frozen=True)
class Measure:
    """One reported quantity: where it lies in a sweep row and how it is called.

    Attributes:
        key: Short name, also used for CSS classes and by the page's script.
        path: Keys from the sweep row down to the metric's dict.
        label: What a reader sees.
        aim: Which way is better; ``same`` is "as the unsteered model".
    """

    key: str
    path: tuple[str, ...]
    label: str
    aim: Aim = "lower"


BIAS = Measure("bias", ("per_occupation_bias",), "Bias, by probability")
GREEDY = Measure("greedy", ("per_occupation_bias_greedy",), "Bias, greedy decoding")
HELD_OUT = Measure("held-out", ("held_out", "per_occupation_bias"), "Bias, held-out occupations")
HELD_OUT_GREEDY = Measure(
    "held-out-greedy",
    ("held_out", "per_occupation_bias_greedy"),
    "Bias, held-out occupations, greedy",
)
FAIR = Measure("fair", ("seeded_hash", "per_occupation_bias"), "Bias, fair decoding")
ANSWERED = Measure("answered", ("per_occupation_bias_answered",), "Bias, answered only")
GAP = Measure("gap", ("stereotype_gap",), "Stereotype gap, pooled")
UNAMBIGUOUS = Measure(
    "unambiguous", ("unambiguous_accuracy",), "Unambiguous accuracy", aim="higher"
)
HELD_OUT_UNAMBIGUOUS = Measure(
    "held-out-unambiguous",
    ("held_out", "unambiguous_accuracy"),
    "Unambiguous accuracy, held-out occupations",
    aim="higher",
)
FAIR_UNAMBIGUOUS = Measure(
    "fair-unambiguous",
    ("seeded_hash", "unambiguous_accuracy"),
    "Unambiguous accuracy, fair decoding",
    aim="higher",
)
ABSTENTION = Measure("abstention", ("abstention",), "Abstention", aim="same")
MASS = Measure("mass", ("option_mass",), "Probability the options hold", aim="same")

BIAS_MEASURES = (BIAS, GREEDY, FAIR, HELD_OUT, HELD_OUT_GREEDY, ANSWERED, GAP)
KEPT_MEASURES = (UNAMBIGUOUS, FAIR_UNAMBIGUOUS, HELD_OUT_UNAMBIGUOUS, ABSTENTION)


def capability(name: str) -> Measure:
    """The measure of one capability task."""
    return Measure(f"capability-{name}", ("capability", name), f"Capability: {name}", aim="higher")


def finite(value: Any) -> float | None:
    """A finite number as a float; None for null, NaN, infinities and anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _table(value: Any) -> Mapping[str, Any]:
    """A mapping as it is; an empty one for null."""
    return value if isinstance(value, Mapping) else {}


@dataclass(frozen=True)
class Metric:
    """An estimate with its interval, and whatever else the results say about it.

    Attributes:
        estimate: The point estimate.
        low: Lower end of the interval, None where there is none.
        high: Upper end of the interval, None where there is none.
        extra: The dict it was read from (``n``, ``parity``, ``drop``, ``unit``, ...).
    """

    estimate: float
    low: float | None
    high: float | None
    extra: Mapping[str, Any]

    @classmethod
    def read(cls, value: Any) -> Metric | None:
        """The metric in a results dict; None where it is absent or its estimate is null."""
        table = _table(value)
        estimate = finite(table.get("estimate"))
        if estimate is None:
            return None
        return cls(estimate, finite(table.get("low")), finite(table.get("high")), table)

    def number(self, key: str) -> float | None:
        """A further number of the metric (``parity``, ``plug_in``, ``n``, ...), None if absent."""
        return finite(self.extra.get(key))

    @property
    def n(self) -> int | None:
        """How many items the estimate rests on."""
        n = self.number("n")
        return None if n is None else int(n)

    @property
    def drop(self) -> Metric | None:
        """The loss against strength 0 (positive is worse), where the study measured one."""
        return Metric.read(self.extra.get("drop"))

    @property
    def perplexity(self) -> bool:
        """Whether the number is a perplexity (no share, and lower is better)."""
        return self.extra.get("unit") == "perplexity"


@dataclass(frozen=True)
class Row:
    """One swept strength.

    Attributes:
        values: The sweep row.
        alone: Whether no other strength was measured, so that there is no drop to speak of.
    """

    values: Mapping[str, Any]
    alone: bool = False

    @property
    def strength(self) -> float:
        """ω of this row."""
        return float(self.values["strength"])

    def at(self, *path: str) -> Any:
        """The value at a path of keys, None as soon as one is missing or null."""
        value: Any = self.values
        for key in path:
            value = _table(value).get(key)
        return value

    def number(self, *path: str) -> float | None:
        """The finite number at a path of keys, None otherwise."""
        return finite(self.at(*path))

    def metric(self, measure: Measure) -> Metric | None:
        """A measure's metric in this row, None where it was not measured or is undefined."""
        found = Metric.read(self.at(*measure.path))
        return (
            replace(found, extra={**found.extra, "drop": None}) if found and self.alone else found
        )

    def classes(self, kind: str = "classes") -> dict[str, float]:
        """Share of the answers in each declared option class.

        ``classes_greedy``: of greedy answers; ``classes_balance``: of answers spread evenly.
        """
        shares = {str(k): finite(v) for k, v in _table(self.at("shares", kind)).items()}
        return {name: share for name, share in shares.items() if share is not None}

    @property
    def occupations(self) -> Mapping[str, Mapping[str, Any]]:
        """Occupation -> its shares."""
        return _table(self.at("by_occupation"))

    @property
    def held_out(self) -> Mapping[str, Mapping[str, Any]]:
        """Occupation never seen in the fit -> its shares."""
        return _table(self.at("held_out", "by_occupation"))

    @property
    def all_occupations(self) -> Mapping[str, Mapping[str, Any]]:
        """Every occupation, seen in the fit or not -> its shares."""
        return {**self.occupations, **self.held_out}


class Study:
    """The results of one model, task and method, with rows in order of strength.

    Args:
        results: One results dict.
        compared: Whether it stands beside other methods, each at the strength recommended for it.

    Raises:
        EquipoiseError: If there is not a single sweep row.
    """

    def __init__(self, results: Mapping[str, Any], *, compared: bool = False) -> None:
        sweep = results.get("sweep")
        if not sweep:
            raise EquipoiseError("these results have no sweep rows, so there is nothing to report")
        self.results = results
        self.compared = compared
        rows = (Row(row, alone=len(sweep) == 1) for row in sweep)
        self.rows = sorted(rows, key=lambda row: row.strength)

    def row(self, strength: float) -> Row | None:
        """The row measured at a strength, None where that strength was not swept."""
        return next((r for r in self.rows if math.isclose(r.strength, strength)), None)

    @cached_property
    def base(self) -> Row | None:
        """The unsteered model."""
        return self.row(0.0)

    @property
    def audit(self) -> bool:
        """Whether only one strength was measured, so that nothing can be compared."""
        return len(self.rows) == 1

    @cached_property
    def chosen(self) -> float | None:
        """The recommended strength, None where none was chosen."""
        return finite(_table(self.results.get("chosen")).get("strength"))

    @property
    def rule(self) -> str:
        """In words, how the strength was chosen."""
        rule = str(_table(self.results.get("chosen")).get("rule") or "")
        return rule.replace(BIAS.path[0], "per-occupation bias")

    @cached_property
    def shown(self) -> Row:
        """The row to show first.

        The chosen strength; the nearest steered one where that was interpolated and not measured;
        the largest where nothing, or 0, was chosen (what it would have cost). In a
        comparison a method for which 0 is recommended counts as unsteered.
        """
        if self.compared and self.base and self.chosen == 0:
            return self.base
        if not self.chosen:
            return max(self.rows, key=lambda row: (abs(row.strength), row.strength))
        wanted = self.chosen
        steered = [row for row in self.rows if row.strength] or self.rows
        return min(steered, key=lambda row: abs(row.strength - wanted))

    @property
    def unmeasured(self) -> float | None:
        """The chosen strength, where it was interpolated and has no row."""
        return self.chosen if self.chosen and self.row(self.chosen) is None else None

    @cached_property
    def capabilities(self) -> tuple[str, ...]:
        """Names of the capability tasks of any row, in order of appearance."""
        return tuple(dict.fromkeys(n for row in self.rows for n in _table(row.at("capability"))))

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """The measures that at least one row can tell: biases first, then what must stay."""
        known = (*BIAS_MEASURES, *KEPT_MEASURES, *map(capability, self.capabilities))
        return tuple(m for m in known if any(row.metric(m) for row in self.rows))

    @cached_property
    def gate(self) -> dict[str, Metric]:
        """Kind of prompts measured -> how often the gate opens on them; empty without one."""
        rates = _table(self.results.get("gate"))
        kinds = {f"{kind} prompts": rates.get(kind) for kind in ("ambiguous", "unambiguous")}
        kinds |= _table(rates.get("capability"))
        return {name: rate for name, value in kinds.items() if (rate := Metric.read(value))}

    @property
    def firing_limit(self) -> float | None:
        """The rate of false firing that the gate's threshold was set by, None where by none."""
        steering = _table(self.results.get("steering"))
        return finite(_table(steering.get("gate")).get("wanted_false_firing"))

    @property
    def model(self) -> str:
        """Name of the model."""
        return str(_table(self.results.get("model")).get("name") or "the model")

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(_table(self.results.get("task")).get("name") or "the task")

    @property
    def ambiguous(self) -> bool:
        """Whether the task has ambiguous items, so that there is a bias to measure."""
        items = _table(_table(self.results.get("task")).get("items"))
        return items.get("ambiguous") != 0

    @property
    def target(self) -> Mapping[str, float]:
        """Wanted share of each group; empty where equal shares are wanted."""
        return _table(_table(self.results.get("task")).get("target"))

    @property
    def method(self) -> str:
        """Name of the method; "unsteered" where nothing was fitted."""
        return str(self.results.get("method") or "unsteered")

    def left_out(self, row: Row) -> dict[str, str]:
        """Occupations without an estimate in a row, and why."""
        named = _table(row.at(*BIAS.path, "left_out"))
        if named:
            return {str(name): str(reason) for name, reason in named.items()}
        return dict.fromkeys(map(str, self.listed("left_out")), "a single twin: no variance")

    def listed(self, key: str) -> list[Any]:
        """A top-level list of the results (``notes``, ``left_out``, ...), empty where absent."""
        return list(self.results.get(key) or ())


def studies(results: Mapping[str, Any]) -> list[Study]:
    """The studies of a results dict: one, or all methods of a comparison."""
    if "results" not in results:
        return [Study(results)]
    many: Sequence[Mapping[str, Any]] = results["results"] or ()
    if not many:
        raise EquipoiseError("this comparison holds no results, so there is nothing to report")
    return [Study(one, compared=len(many) > 1) for one in many]
