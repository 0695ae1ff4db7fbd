"""``equipoise fold``."""

from __future__ import annotations

from equipoise.cli import config_file, inputs
from equipoise.cli.folder import OutputFolder
from equipoise.cli.options import (
    CommonOptions,
    FoldOptions,
    ModelOptions,
    OutputOptions,
    SteeringOptions,
    StrengthOptions,
)
from equipoise.cli.terminal import Terminal
from equipoise.errors import EquipoiseError
from equipoise.files import write_atomically
from equipoise.wording import counted


def fold(
    terminal: Terminal,
    model: ModelOptions,
    steering: SteeringOptions,
    strength: StrengthOptions,
    fold: FoldOptions,
    output: OutputOptions,
    common: CommonOptions,
) -> None:
    """Bake a steering at one strength into an ordinary checkpoint."""
    from equipoise.steering.fold.checkpoint import check_target, fold_checkpoint

    folder = output.out.expanduser()
    check_target(folder, model.model, overwrite=output.overwrite)
    with OutputFolder.claimed(output):
        pass  # it can be written: that is known before the model is loaded
    artifact = inputs.load_steering(steering)
    chosen = artifact.info.recommended_strength
    omega = chosen if strength.strength is None else strength.strength
    if omega is None:
        raise EquipoiseError(
            "no strength was chosen for this steering: name one with --strength; "
            "equipoise sweep tells what each costs"
        )
    if omega == 0:
        raise EquipoiseError(
            "folding at strength 0 gives the base model; name another with --strength"
        )
    loaded = inputs.load_model(model, terminal, as_stored=True)
    report = fold_checkpoint(
        loaded,
        artifact,
        omega,
        folder,
        max_shard_size=fold.max_shard_size,
        overwrite=output.overwrite,
        as_llama=fold.as_llama,
    )
    config = config_file.resolved(model, steering, fold, common, strength=omega)
    write_atomically(folder / config_file.NAME, config_file.to_yaml("fold", config))
    terminal.show(
        report.to_dict(),
        f"{counted(report.sites, 'site')} folded at ω = {omega:g} into {report.architecture} "
        f"({report.dtype}, {counted(report.shards, 'weight file')})",
        f"largest logit difference to the steered model {report.max_logit_difference:.2g}, "
        f"tolerance {report.tolerance:.2g}",
    )
    terminal.tell("wrote", f"{folder}/: an ordinary transformers checkpoint")
