"""``equipoise sites``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from equipoise.cli import inputs
from equipoise.cli.options import CommonOptions, ModelOptions, SiteOptions
from equipoise.cli.terminal import Terminal
from equipoise.wording import counted

if TYPE_CHECKING:
    from equipoise.models import Model
    from equipoise.models.backbone import Site
    from equipoise.steering.fold.homes import Homes


def sites(
    terminal: Terminal, model: ModelOptions, site: SiteOptions, common: CommonOptions
) -> None:
    """What can be steered in a model."""
    from equipoise.steering.fold.homes import Homes

    loaded = inputs.load_model(model, terminal)
    homes = Homes(loaded)
    found = [_row(homes, one) for one in _sites(loaded, site.role)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("site", "role", "layer", "width", "heads", "bias folds into"):
        table.add_column(name, justify="right" if name in ("layer", "width", "heads") else "left")
    for row in found:
        values = (row["key"], row["role"], row["layer"], row["width"], row["heads"], _short(row))
        table.add_row(*("" if value is None else str(value) for value in values))
    told = counted(len(found), "site")
    terminal.show({"model": loaded.name, "sites": found}, table, told)


def _sites(model: Model, role: str) -> list[Site]:
    from equipoise.errors import SteeringError
    from equipoise.models import backbone

    kinds = {
        "norm": backbone.norm_sites,
        "residual": backbone.residual_sites,
        "mlp": backbone.mlp_sites,
        "heads": backbone.head_sites,
    }
    if role != "all":
        return kinds[role](model)
    found: list[Site] = []
    for kind in kinds.values():
        try:
            found += kind(model)
        except SteeringError:  # this architecture has none of these
            continue
    return found


def _row(homes: Homes, site: Site) -> dict[str, Any]:
    """A site, and for a norm the modules its bias folds into (none: nowhere)."""
    row: dict[str, Any] = {"key": site.key, **asdict(site)}
    if site.role == "norm":
        home = homes.bias(site)
        row["bias_into"] = [] if home is None else list(home.linears) or [site.path]
    elif site.role == "final_norm":
        row["bias_into"] = []
    return row


def _short(row: dict[str, Any]) -> str | None:
    places = row.get("bias_into")
    if places is None:
        return None
    if places == [row["path"]]:
        return "itself"
    return ", ".join(place.rpartition(".")[2] for place in places) or "nowhere"
