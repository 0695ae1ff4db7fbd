"""What a method is, what it is given, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from equipoise.decisions.score import Normalise
from equipoise.errors import EquipoiseError
from equipoise.models import Model
from equipoise.steering import Steering
from equipoise.tasks.item import Item, Task, digest_items, digest_texts
from equipoise.validation import check_field
from equipoise.wording import did_you_mean

Report = Callable[[str, int, int, dict[str, float]], None]
"""Called as ``report(phase, done, of, figures)`` while work goes on."""


def counting(
    report: Report | None, phase: str, of: int, **figures: float
) -> Callable[[int], None] | None:
    """What is told of pieces just done, and reports how many of a phase's pieces are done."""
    if report is None:
        return None
    done = 0

    def count(pieces: int) -> None:
        nonlocal done
        done += pieces
        report(phase, done, of, figures)

    return count


class MethodConfig(BaseModel):
    """Base of every method's settings: unknown names are errors, values are checked and finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    _numbers_are_numbers = field_validator("*", mode="before")(classmethod(check_field))


@dataclass(frozen=True)
class Anchors:
    """What the model should go on doing as before.

    Attributes:
        items: Prompts with options (unambiguous items, capability questions).
        texts: Plain documents.
        sources: Of those that are from a capability, its name.
    """

    items: tuple[Item, ...] = ()
    texts: tuple[str, ...] = ()
    sources: Mapping[Item | str, str] = field(default_factory=dict, compare=False, repr=False)

    def __bool__(self) -> bool:
        return bool(self.items or self.texts)

    @property
    def digest(self) -> str:
        """SHA-256 of the items and texts."""
        return digest_texts([digest_items(self.items), *self.texts])


def evenly(values: Sequence[str], most: int) -> tuple[str, ...]:
    """At most so many of the values, evenly spaced over them."""
    if len(values) <= most:
        return tuple(values)
    return tuple(values[i * len(values) // most] for i in range(most))


def some_items(items: Sequence[Item], most: int) -> tuple[Item, ...]:
    """At most about so many of the items: whole twins, evenly spaced over them."""
    twins = list(dict.fromkeys(item.twin for item in items))
    kept = set(evenly(twins, max(1, most * len(twins) // max(1, len(items)))))
    return tuple(item for item in items if item.twin in kept)


def unfit(task: Task, anchors: Anchors) -> str | None:
    """Why a method that needs ambiguous items and anchors cannot be fitted; None if it can."""
    if not any(i.ambiguous and (i.sides or i.groups) for i in task.split("train")):
        return f"task {task.name!r} has no ambiguous items in its train split to fit on"
    if not anchors:
        return (
            f"task {task.name!r} has no anchors, which tell a fit what must not change: its train "
            "split has no unambiguous items, nor is there a capability with a train part or a file "
            "of anchors; pass --capability or --anchors FILE"
        )
    return None


@dataclass(frozen=True)
class FitRequest:
    """What a method is given.

    Attributes:
        model: The frozen model.
        task: Fit on its ``train`` split, choose on ``validation``; never look at the others.
        anchors: Prompts of the train split on which the model should not change.
        held_out_anchors: The same of the validation split, to verify on.
        seed: Every random choice follows from it.
        report: Told of progress: of every step in the phase ``fit``, and of what comes before and
            after. A method that resumes has a phase ``base`` right before its steps.
        checkpoint: Where to keep what a resumed fit needs; None keeps nothing.
        normalise: How an option is scored, as it will be measured.
    """

    model: Model
    task: Task
    anchors: Anchors
    held_out_anchors: Anchors
    seed: int = 0
    report: Report | None = None
    checkpoint: Path | None = None
    normalise: Normalise = "sum"


@dataclass(frozen=True)
class FitOutcome:
    """What a method returns: the steering, how the fit went, and remarks for the report."""

    steering: Steering
    history: list[dict[str, float]] = field(default_factory=list)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Method:
    """A named way to fit a steering.

    Attributes:
        name: As on the command line.
        summary: One line for ``equipoise methods``.
        config: Its settings.
        fit: Does it.
    """

    name: str
    summary: str
    config: type[MethodConfig]
    fit: Callable[[FitRequest, Any], FitOutcome]

    def configure(self, **settings: Any) -> MethodConfig:
        """Checked settings.

        Raises:
            EquipoiseError: An unknown setting or a value out of range; names it.
        """
        try:
            return self.config(**settings)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            where = f"{name}: " if name else ""
            if first["type"] == "extra_forbidden":
                known = self.config.model_fields
                hint = did_you_mean(name, known) or f"; it has: {', '.join(known)}"
                raise EquipoiseError(f"{self.name} has no setting {name!r}{hint}") from error
            said = first["msg"].removeprefix("Value error, ")
            said = said[:1].lower() + said[1:]
            raise EquipoiseError(f"{self.name}: {where}{said}") from error
