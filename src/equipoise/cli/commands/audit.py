"""``equipoise audit``."""

from __future__ import annotations

from equipoise.cli import inputs, outcome
from equipoise.cli.config_file import resolved
from equipoise.cli.folder import OutputFolder
from equipoise.cli.options import (
    CommonOptions,
    MeasureOptions,
    ModelOptions,
    OutputOptions,
    TaskOptions,
)
from equipoise.cli.terminal import Terminal


def audit(
    terminal: Terminal,
    model: ModelOptions,
    task: TaskOptions,
    measure: MeasureOptions,
    output: OutputOptions,
    common: CommonOptions,
) -> None:
    """Measure a model as it is."""
    with OutputFolder.claimed(output) as folder:
        from equipoise import study

        next_words = ["run", *model.words(), *task.words(), *measure.words(), *common.words()]
        task = inputs.with_defaults(task, model)
        data = inputs.load_task(task, common.seed)
        capability = inputs.load_capabilities(task, common.seed)
        settings = inputs.measure_settings(measure, task, common.seed)
        loaded = inputs.load_model(model, terminal)
        with terminal.progress() as report:
            result = study.audit(
                loaded,
                data,
                capability=capability,
                settings=settings,
                report=report,
            )
        config = resolved(model, task, measure, common)
        outcome.leave(folder, "audit", config, result)
    outcome.show(terminal, folder, result, next_words if study.can_run(data, capability) else [])
