"""The application: its commands, in the order of the loop."""

from __future__ import annotations

from typing import Annotated

import typer

from equipoise.cli.command import command
from equipoise.cli.commands.audit import audit
from equipoise.cli.commands.env import env
from equipoise.cli.commands.fit import fit
from equipoise.cli.commands.fold import fold
from equipoise.cli.commands.methods import methods
from equipoise.cli.commands.run import run
from equipoise.cli.commands.sites import sites
from equipoise.cli.commands.sweep import sweep
from equipoise.cli.commands.tasks import tasks
from equipoise.cli.commands.verify import verify

app = typer.Typer(
    name="equipoise",
    help="Audit a language model for stereotype-driven decisions, learn a tiny steering that "
    "removes them, and slide one knob between fairness and capability.",
    epilog="Start with `equipoise run`: the whole loop on a small bundled model.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from equipoise import __version__

        print(f"equipoise {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _equipoise(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


command(app, "run", model="builtin:", out="equipoise-out")(run)
command(app, "audit", out="equipoise-audit")(audit)
command(app, "fit")(fit)
command(app, "sweep", out="equipoise-sweep")(sweep)
command(app, "fold")(fold)
command(app, "verify")(verify)
command(app, "sites")(sites)
command(app, "tasks")(tasks)
command(app, "methods")(methods)
command(app, "env")(env)
