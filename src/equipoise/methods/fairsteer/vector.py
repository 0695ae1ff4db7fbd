"""The steering vector: what a fair answer leaves in the residual stream, less a pro one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from equipoise.decisions.activations import answer_activations
from equipoise.errors import EquipoiseError
from equipoise.methods.fairsteer.labels import fair_options, pro_options
from equipoise.methods.fairsteer.lettering import rotations
from equipoise.models import Model
from equipoise.tasks.item import Item
from equipoise.tasks.subset import take_evenly


def contrast_items(
    items: Sequence[Item], per_context: int, *, seed: int, permute: bool
) -> list[Item]:
    """The ambiguous items a vector is the mean of: whole twins, evenly over their contexts.

    Args:
        items: Where they come from.
        per_context: Items per context, about.
        seed: Which of them.
        permute: Take each under every lettering.

    Raises:
        EquipoiseError: None offers both a stereotyped and a fair answer.
    """
    usable = [i for i in items if i.ambiguous and i.sides and pro_options(i) and fair_options(i)]
    if not usable:
        raise EquipoiseError(
            "fairsteer: no ambiguous item of the split it is fitted on offers both a stereotyped "
            "and a fair answer"
        )
    contexts = {context for item in usable for context in item.contexts}
    chosen = take_evenly(usable, per_context * max(1, len(contexts)), seed=seed)
    return [each for item in chosen for each in (rotations(item) if permute else (item,))]


def contrast_vectors(model: Model, items: Sequence[Item], sites: Sequence[str]) -> Tensor:
    """The vectors v = mean a(prompt + fair answer) − mean a(prompt + stereotyped answer).

    At the answer's token (or the mean of its tokens). Raw, not normalised [C].

    Args:
        model: The model, with nothing attached.
        items: Ambiguous items that offer both answers (the first of each is taken).
        sites: Keys of S sites of width d.

    Returns:
        float32 [S, d].
    """
    fair = answer_activations(model, [(item, fair_options(item)[0]) for item in items], sites)
    stereotyped = answer_activations(model, [(item, pro_options(item)[0]) for item in items], sites)
    return (fair.double().mean(0) - stereotyped.double().mean(0)).to(torch.float32)


def refuse_useless(v: Tensor, alpha: float, site: str) -> None:
    """Stop where there is no direction to steer in, or no number for the length of it.

    Raises:
        EquipoiseError: The vector [d] has no length, or it or α times it is not finite.
    """
    norm = float(v.norm())
    if norm == 0:
        raise EquipoiseError(
            f"fairsteer: the vector at {site} has norm 0: fair and stereotyped answers "
            "look alike there; choose another layer"
        )
    if not bool(v.isfinite().all()):
        raise EquipoiseError(
            f"fairsteer: the vector at {site} is not finite: neither are the model's activations "
            "there; choose another layer"
        )
    if not bool((alpha * v).isfinite().all()):
        raise EquipoiseError(
            f"fairsteer: alpha={alpha:g} times the vector at {site} (norm {norm:g}) is too large "
            "for float32; lower alpha"
        )
