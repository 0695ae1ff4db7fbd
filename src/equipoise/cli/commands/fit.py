"""``equipoise fit``."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from equipoise.cli import config_file, inputs
from equipoise.cli.folder import OutputFolder
from equipoise.cli.options import (
    CommonOptions,
    FitOptions,
    ModelOptions,
    OutputOptions,
    TaskOptions,
)
from equipoise.cli.terminal import Terminal
from equipoise.files import write_atomically
from equipoise.wording import counted


def fit(
    terminal: Terminal,
    model: ModelOptions,
    task: TaskOptions,
    fit: FitOptions,
    output: OutputOptions,
    common: CommonOptions,
) -> None:
    """Learn a steering; --out becomes the artifact."""
    with OutputFolder.claimed(output) as folder:
        from equipoise import study

        method_settings = inputs.resolve_method(fit)
        asked = [*task.words(), *common.words()]
        task = inputs.with_defaults(task, model)
        data = inputs.load_task(task, common.seed)
        capability = inputs.load_capabilities(task, common.seed)
        anchors = inputs.load_anchors(fit)
        loaded = inputs.load_model(model, terminal)
        started = time.perf_counter()
        with terminal.progress(resuming=folder.resumable) as report:
            found = study.fit_outcome(
                loaded,
                data,
                fit.method,
                capability=capability,
                anchors=anchors,
                seed=common.seed,
                normalise=task.score,
                checkpoint=folder.checkpoint,
                report=report,
                **method_settings,
            )
        seconds = time.perf_counter() - started
        steering = found.steering
        config = config_file.resolved(model, task, fit, common, method_settings=method_settings)

        def write(stage: Path) -> None:
            write_atomically(stage / config_file.NAME, config_file.to_yaml("fit", config))
            steering.save_pretrained(stage)

        folder.fill(write)
    counts = {
        "digest": steering.digest,
        "sites": len(steering.transforms),
        "parameters": steering.n_parameters,
        "nonzero": steering.n_nonzero,
    }
    terminal.show(
        {
            "steering": counts,
            "out": str(folder.path),
            "config": config,
            "notes": list(found.notes),
            "history": found.history,
            "wall_seconds": {"fit": seconds},
        },
        f"{fit.method} · {loaded.name} · {data.name}: {counted(len(steering.transforms), 'site')}, "
        f"{counted(steering.n_parameters, 'parameter')}, {steering.n_nonzero:,} of them not zero, "
        f"{seconds:.1f} s",
        *found.notes,
    )
    terminal.tell("wrote", f"{folder.path}/: the artifact and {config_file.NAME}")
    named = ["equipoise", "sweep", *model.words(), "--steering", str(folder.path)]
    terminal.tell("next", shlex.join([*named, *asked]))
