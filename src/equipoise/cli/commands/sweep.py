"""``equipoise sweep``."""

from __future__ import annotations

from equipoise.cli import inputs, outcome
from equipoise.cli.config_file import resolved
from equipoise.cli.folder import OutputFolder
from equipoise.cli.options import (
    CommonOptions,
    MeasureOptions,
    ModelOptions,
    OutputOptions,
    SteeringOptions,
    SweepOptions,
    TaskOptions,
)
from equipoise.cli.terminal import Terminal


def sweep(
    terminal: Terminal,
    model: ModelOptions,
    steering: SteeringOptions,
    task: TaskOptions,
    sweep: SweepOptions,
    measure: MeasureOptions,
    output: OutputOptions,
    common: CommonOptions,
) -> None:
    """Measure a steering at several strengths and choose one."""
    with OutputFolder.claimed(output) as folder:
        from equipoise import study

        artifact = inputs.load_steering(steering)
        task = inputs.with_defaults(task, model)
        data = inputs.load_task(task, common.seed)
        capability = inputs.load_capabilities(task, common.seed)
        settings = inputs.measure_settings(measure, task, common.seed)
        loaded = inputs.load_model(model, terminal)
        with terminal.progress() as report:
            result = study.sweep(
                loaded,
                data,
                artifact,
                sweep.strengths,
                capability=capability,
                max_capability_drop=sweep.max_capability_drop,
                interpolate=sweep.interpolate,
                settings=settings,
                report=report,
            )
        config = resolved(model, steering, task, sweep, measure, common)
        outcome.leave(folder, "sweep", config, result)
    named = [*model.words(), *steering.words()]
    outcome.show(terminal, folder, result, outcome.following(result, artifact, named))
