"""What the functions of a study take: loaded things, or the names they are loaded by."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TypeVar, get_args

from equipoise.decisions.score import Normalise
from equipoise.errors import EquipoiseError
from equipoise.methods import Anchors
from equipoise.models import Model
from equipoise.steering import Steering
from equipoise.tasks import SPLITS, Capability, Item, Split, Task, load_capability, load_task
from equipoise.tasks.capability import told_apart
from equipoise.wording import did_you_mean

TaskLike = Task | str | Path
SteeringLike = Steering | str | PathLike[str]
CapabilityLike = Capability | str | Sequence[Capability | str]
Named = TypeVar("Named", bound=str)


def a_model(model: Model) -> Model:
    """The model.

    Raises:
        EquipoiseError: Not one that ``equipoise.load`` returned: a bare one has no tokenizer.
    """
    if isinstance(model, Model):
        return model
    raise EquipoiseError(
        f"expected a model that equipoise.load(NAME_OR_FOLDER) returned; {_got(model)}"
    )


def a_task(task: TaskLike) -> Task:
    """The task; a name or a task file is loaded.

    Raises:
        EquipoiseError: Neither, or it cannot be loaded.
    """
    if isinstance(task, Task):
        return task
    if isinstance(task, str | Path):
        return load_task(task)
    raise EquipoiseError(f"expected a task or its name, as in equipoise.task(NAME); {_got(task)}")


def a_steering(steering: SteeringLike) -> Steering:
    """The steering; a folder or a hub id is read.

    Raises:
        EquipoiseError: Neither, or it cannot be read.
    """
    if isinstance(steering, Steering):
        return steering
    if isinstance(steering, str | PathLike):
        return Steering.from_pretrained(steering)
    raise EquipoiseError(f"expected a steering or the folder it was saved in; {_got(steering)}")


def capabilities(given: CapabilityLike) -> tuple[Capability, ...]:
    """The capabilities, each under a name of its own; one stands for a list of one.

    Raises:
        EquipoiseError: Neither capabilities nor their names, one that cannot be loaded, or one
            that is given twice.
    """
    several = [given] if isinstance(given, Capability | str) else given
    if not isinstance(several, Sequence):
        raise EquipoiseError(f"expected capabilities or their names; {_got(several)}")
    return told_apart([_a_capability(one) for one in several])


def some_anchors(anchors: Anchors | None) -> Anchors | None:
    """The anchors given by hand, if any.

    Raises:
        EquipoiseError: Not :class:`Anchors`, or of something else than items and texts.
    """
    if anchors is None:
        return None
    how = "expected equipoise.methods.Anchors(items=ITEMS, texts=TEXTS)"
    if not isinstance(anchors, Anchors):
        raise EquipoiseError(f"{how}; {_got(anchors)}")
    for kind, values in ((Item, anchors.items), (str, anchors.texts)):
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise EquipoiseError(f"{how}, each a tuple; {_got(values)}")
        for value in values:
            if not isinstance(value, kind):
                raise EquipoiseError(f"{how}; {_got(value)} among the {kind.__name__}s")
    return anchors


def a_split(split: Split) -> Split:
    """The split.

    Raises:
        EquipoiseError: None of its names.
    """
    return _one_of("split", split, SPLITS)


def a_normalisation(normalise: Normalise) -> Normalise:
    """How an option's score is taken.

    Raises:
        EquipoiseError: Neither sum nor mean.
    """
    return _one_of("normalise", normalise, get_args(Normalise))


def _one_of(name: str, value: Named, known: Sequence[Named]) -> Named:
    if value in known:
        return value
    hint = did_you_mean(str(value), known)
    raise EquipoiseError(f"{name} {value!r} is none of {', '.join(known)}{hint}")


def _a_capability(one: Capability | str) -> Capability:
    if isinstance(one, Capability):
        return one
    if isinstance(one, str):
        return load_capability(one)
    raise EquipoiseError(
        f"expected a capability or its name, as in equipoise.capability(NAME); {_got(one)}"
    )


def _got(value: object) -> str:
    return f"got {type(value).__name__}"
