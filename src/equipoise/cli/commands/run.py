"""``equipoise run``."""

from __future__ import annotations

from equipoise.cli import inputs, outcome
from equipoise.cli.config_file import resolved
from equipoise.cli.folder import OutputFolder
from equipoise.cli.options import (
    CommonOptions,
    FitOptions,
    MeasureOptions,
    ModelOptions,
    OutputOptions,
    SweepOptions,
    TaskOptions,
)
from equipoise.cli.terminal import Terminal


def run(
    terminal: Terminal,
    model: ModelOptions,
    task: TaskOptions,
    fit: FitOptions,
    sweep: SweepOptions,
    measure: MeasureOptions,
    output: OutputOptions,
    common: CommonOptions,
) -> None:
    """The whole loop: audit, fit, sweep, choose a strength, report."""
    with OutputFolder.claimed(output) as folder:
        from equipoise import study

        method_settings = inputs.resolve_method(fit)
        task = inputs.with_defaults(task, model)
        data = inputs.load_task(task, common.seed)
        capability = inputs.load_capabilities(task, common.seed)
        anchors = inputs.load_anchors(fit)
        settings = inputs.measure_settings(measure, task, common.seed)
        loaded = inputs.load_model(model, terminal)
        with terminal.progress(resuming=folder.resumable) as report:
            result, steering = study.run(
                loaded,
                data,
                fit.method,
                strengths=sweep.strengths,
                capability=capability,
                anchors=anchors,
                max_capability_drop=sweep.max_capability_drop,
                interpolate=sweep.interpolate,
                seed=common.seed,
                settings=settings,
                checkpoint=folder.checkpoint,
                report=report,
                **method_settings,
            )
        config = resolved(model, task, fit, sweep, measure, common, method_settings=method_settings)
        outcome.leave(folder, "run", config, result, steering)
    named = [*model.words(), "--steering", str(folder.path / outcome.STEERING)]
    outcome.show(terminal, folder, result, outcome.following(result, steering, named))
