"""Results: the contract's dictionary, with the questions one asks of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from equipoise.errors import EquipoiseError
from equipoise.fairness import Choice, assert_finite, choose_strength
from equipoise.files import write_json
from equipoise.models import Model
from equipoise.models.fingerprint import fingerprint
from equipoise.steering import Steering
from equipoise.study.environment import environment
from equipoise.tasks import Task

SCHEMA = "equipoise/results/1"


@dataclass
class Result:
    """One model, one task, one steering (or none) at several strengths.

    Attributes:
        data: ``results.json`` (schema ``equipoise/results/1``): rows of the ``test`` split.
        validation: The same rows on the ``validation`` split; ω is chosen by these.
    """

    data: dict[str, Any]
    validation: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row per strength, on the split that is reported."""
        return list(self.data["sweep"])

    def row(self, strength: float) -> dict[str, Any]:
        """The row of a measured strength.

        Raises:
            EquipoiseError: Not measured.
        """
        for row in self.rows:
            if abs(row["strength"] - strength) < 1e-9:
                return dict(row)
        measured = ", ".join(f"{row['strength']:g}" for row in self.rows)
        raise EquipoiseError(f"strength {strength:g} was not measured; there is {measured}")

    def choose(self, max_capability_drop: float = 0.05, *, interpolate: bool = False) -> Choice:
        """Choose ω by the validation rows and note the choice in the results.

        The lowest bias among strengths whose capability and unambiguous-accuracy drops have an
        upper 95 % limit within the budget; 0 if none has.

        Args:
            max_capability_drop: The budget, as a share.
            interpolate: Also consider the strengths between two rows. What is chosen there is not
                measured, and the rule says so: :func:`sweep` measures it when told to interpolate.
        """
        if self.validation:
            choice = choose_strength(self.validation, max_capability_drop, interpolate=interpolate)
        else:
            why = "no validation items to choose by (never by the test split)"
            choice = Choice(0.0, f"{why}; strength 0 recommended", None, {})
        self.data["chosen"] = choice.as_dict() | {"split": "validation"}
        return choice

    def to_dict(self) -> dict[str, Any]:
        """The contract's dictionary, JSON-safe."""
        return self.data | {"validation": self.validation}

    def save(self, path: str | PathLike[str]) -> None:
        """Write ``results.json``."""
        file = Path(path)
        write_json(file, assert_finite(self.to_dict(), file.name))

    def __repr__(self) -> str:
        """One line: the rows are for :meth:`row` and :attr:`rows`."""
        names = [(self.data.get(part) or {}).get("name") or "?" for part in ("model", "task")]
        strengths = ", ".join(f"{row['strength']:g}" for row in self.rows)
        chosen = self.data.get("chosen")
        told = f", chosen ω = {chosen['strength']:g}" if chosen else ""
        method = self.data.get("method") or "none"
        return f"Result(model {names[0]}, task {names[1]}, method {method}, ω {strengths}{told})"


def results(
    model: Model,
    task: Task,
    rows: Sequence[dict[str, Any]],
    *,
    method: str,
    steering: Steering | None = None,
    wall_seconds: Mapping[str, float] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """Assemble a results dictionary of the contract; what was not timed is null."""
    ambiguous = sum(item.ambiguous for item in task.items)
    return {
        "schema": SCHEMA,
        "model": {
            "name": model.name,
            "revision": model.revision,
            "fingerprint": fingerprint(model),
            "dtype": str(model.hf.dtype).removeprefix("torch."),
        },
        "task": {
            "name": task.name,
            "digest": task.digest,
            "items": {"ambiguous": ambiguous, "unambiguous": len(task.items) - ambiguous},
            "target": task.target,
            "splits": {name: len(task.split(name)) for name in _used_splits(task)},
            "notes": list(task.notes),
        },
        "method": method,
        "steering": None
        if steering is None
        else {
            "digest": steering.digest,
            "sites": len(steering.transforms),
            "parameters": steering.n_parameters,
            "nonzero": steering.n_nonzero,
            # How its fit found the gate to work.
            **{key: value for key, value in steering.info.extra.items() if key == "gate"},
        },
        "sweep": list(rows),
        "chosen": None,
        "wall_seconds": dict.fromkeys(("audit", "fit", "sweep")) | dict(wall_seconds or {}),
        "environment": environment(),
        **extra,
    }


def _used_splits(task: Task) -> list[Any]:
    return sorted({item.split for item in task.items})
