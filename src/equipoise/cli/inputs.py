"""From options to what ``study`` takes: the cheap and likely to be wrong first, the model last."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipoise.cli.options import (
    FitOptions,
    MeasureOptions,
    ModelOptions,
    SteeringOptions,
    TaskOptions,
)
from equipoise.errors import EquipoiseError
from equipoise.wording import did_you_mean

if TYPE_CHECKING:
    from equipoise.cli.terminal import Terminal
    from equipoise.methods import Anchors
    from equipoise.models import Model
    from equipoise.steering import Steering
    from equipoise.study import Settings
    from equipoise.tasks import Capability, Task

_BUILTIN = "builtin:"


def load_model(options: ModelOptions, terminal: Terminal, *, as_stored: bool = False) -> Model:
    """Load the model; ``as_stored``: in its checkpoint's dtype, on a CPU too."""
    from equipoise.models import load

    terminal.note(f"loading {options.model}")
    return load(
        options.model,
        revision=options.revision,
        dtype="stored" if as_stored and options.dtype == "auto" else options.dtype,
        device=options.device,
        device_map=options.device_map,
        chat=options.chat,
        trust_remote_code=options.trust_remote_code,
    )


def load_task(options: TaskOptions, seed: int) -> Task:
    """Load the task."""
    from equipoise.tasks import load_task

    return load_task(
        options.task, data=options.data, seed=seed, limit=options.limit, **options.task_options
    )


def with_defaults(options: TaskOptions, model: ModelOptions) -> TaskOptions:
    """With what was not said: every option of the task, so that the resolved config has them.

    The bundled models come with their own capability, unless others were asked for.
    """
    from equipoise.tasks import task_options

    known = {key: value for key, value in task_options(options.task).items() if value is not None}
    capability = options.capability
    if not capability and model.model.startswith(_BUILTIN):
        capability = ("builtin",)
    return options.model_copy(
        update={"task_options": known | options.task_options, "capability": capability}
    )


def load_capabilities(options: TaskOptions, seed: int) -> list[Capability]:
    """Load the capabilities."""
    from equipoise.tasks import load_capability
    from equipoise.tasks.capability import told_apart

    named: dict[str, dict[str, Any]] = {spec.partition(":")[0]: {} for spec in options.capability}
    for key, value in options.capability_options.items():
        name, dot, option = key.partition(".")
        if not dot:
            raise EquipoiseError(f"capability option {key!r}: expected NAME.KEY, as in mmlu.shots")
        if name not in named:
            raise EquipoiseError(
                f"capability option {key!r}: capability {name!r} is not measured"
                f"{did_you_mean(name, named)}; name it among the capabilities too"
            )
        named[name][option] = value
    found = [
        load_capability(spec, seed=seed, limit=options.limit, **named[spec.partition(":")[0]])
        for spec in options.capability
    ]
    return list(told_apart(found))


def load_anchors(options: FitOptions) -> Anchors | None:
    """Read anchor files: task files give items (of their train split), other files documents."""
    from equipoise.methods import Anchors
    from equipoise.tasks import read_anchors
    from equipoise.tasks.documents import read_documents

    if not options.anchors:
        return None
    items: list[Any] = []
    texts: list[str] = []
    for name in options.anchors:
        path = Path(name).expanduser()
        if path.suffix == ".jsonl":
            items += read_anchors(path)
        else:
            texts += [document.text for document in read_documents(path)]
    return Anchors(tuple(items), tuple(texts))


def resolve_method(options: FitOptions) -> dict[str, Any]:
    """All settings of the method, defaults included, as JSON."""
    from equipoise.methods import METHODS

    settings = METHODS.get(options.method).configure(**options.method_settings)
    return settings.model_dump(mode="json")


def load_steering(options: SteeringOptions) -> Steering:
    """Read the artifact; with ``--allow-mismatch`` it fits any model that has its sites."""
    from equipoise.steering import Steering

    steering = Steering.from_pretrained(options.steering)
    if options.allow_mismatch:
        steering.info = replace(steering.info, fingerprint=None)
    return steering


def measure_settings(options: MeasureOptions, task: TaskOptions, seed: int) -> Settings:
    """How decisions are measured."""
    from equipoise.study import Settings

    return Settings(
        temperature=options.temperature,
        normalise=task.score,
        fair_decoding=options.fair_decoding,
        hash_seed=seed,
        batch_tokens=options.batch_tokens,
        scorer=options.scorer,
        max_new_tokens=options.max_new_tokens,
    )
