"""How many tokens a model can read at once."""

from __future__ import annotations

import warnings

from equipoise.errors import EquipoiseError
from equipoise.models.backbone import text_config
from equipoise.models.model import Model


def longest_input(model: Model) -> int | None:
    """Tokens that a model's positions reach, as its config says; None where nothing limits them.

    Recurrent models (Mamba) have no positions and ALiBi has no last one. A scaled rotary embedding
    reaches its factor further; where the config counts that in already, this is too many, never
    too few.
    """
    config = text_config(model)
    if getattr(config, "alibi", False):
        return None
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    rotary = getattr(config, "rope_parameters", None) or {}
    factor = rotary.get("factor")
    if not isinstance(factor, (int, float)) or factor <= 1:
        return limit
    trained = rotary.get("original_max_position_embeddings") or limit
    return max(limit, round(factor * trained))


def too_long(model: Model, said: str) -> None:
    """Say that something has more tokens than the model reads.

    Warns of rotary positions, which go on beyond what was trained: in the same words each time, so
    that it is heard once.

    Raises:
        EquipoiseError: Positions from a table: the model would fail.
    """
    if not getattr(text_config(model), "rope_parameters", None):
        raise EquipoiseError(said)
    warnings.warn(
        f"some prompts have more tokens than the {longest_input(model)} of the model's context; "
        "what it answers beyond them means little; shorten them, leave them out, or choose a model "
        "with a longer context",
        stacklevel=3,
    )
