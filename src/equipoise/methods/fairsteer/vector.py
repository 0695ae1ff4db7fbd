"""The steering vector: what a fair answer leaves in the residual stream, less a pro one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from equipoise.decisions.activations import answer_activations
from equipoise.decisions.decide import Progress
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
        EquipoiseError: None offers both a stereotyped and a fair answer, or no twin is as small
            as ``per_context`` allows.
    """
    usable = [i for i in items if i.ambiguous and i.sides and pro_options(i) and fair_options(i)]
    if not usable:
        raise EquipoiseError(
            "fairsteer: no ambiguous item of the split it is fitted on offers both a stereotyped "
            "and a fair answer"
        )
    contexts = {context for item in usable for context in item.contexts}
    quota = per_context * max(1, len(contexts))
    chosen = take_evenly(usable, quota, seed=seed)
    if not chosen:
        raise EquipoiseError(
            f"fairsteer: per_context={per_context} leaves no item for the vector: twins stay "
            f"whole, and none has {quota} items or less; raise per_context"
        )
    return [each for item in chosen for each in (rotations(item) if permute else (item,))]


def contrast_vectors(
    model: Model, items: Sequence[Item], sites: Sequence[str], progress: Progress | None = None
) -> Tensor:
    """The vectors v = mean a(prompt + fair answer) − mean a(prompt + stereotyped answer).

    At the answer's token (or the mean of its tokens). Raw, not normalised [C].

    Args:
        model: The model, with nothing attached.
        items: Ambiguous items that offer both answers (the first of each is taken).
        sites: Keys of S sites of width d.
        progress: Called with the number of answers just read.

    Returns:
        float32 [S, d].
    """

    def mean(options: Callable[[Item], tuple[int, ...]]) -> Tensor:
        answers = [(item, options(item)[0]) for item in items]
        h = answer_activations(model, answers, sites)
        if progress is not None:
            progress(len(answers))
        return h.double().mean(0)

    return (mean(fair_options) - mean(pro_options)).to(torch.float32)


def refuse_useless(v: Tensor, alpha: float, site: str) -> None:
    """Stop where there is no direction to steer in, or no number for the length of it.

    Raises:
        EquipoiseError: The vector [d] has no length, or it or α times it is not finite.
    """
    if useless := why_useless(v, alpha):
        raise EquipoiseError(f"fairsteer: the vector at {site} {useless}")


def why_useless(v: Tensor, alpha: float) -> str | None:
    """What is wrong with a vector [d] to steer along, α times; None if nothing is."""
    norm = float(v.norm())
    if norm == 0:
        return "has norm 0: fair and stereotyped answers look alike there; choose another layer"
    if not bool(v.isfinite().all()):
        return (
            "is not finite: neither are the model's activations there; choose another layer, or "
            "load the model in a wider dtype"
        )
    if not bool((alpha * v).isfinite().all()):
        return f"(norm {norm:g}), times alpha={alpha:g}, is too large for float32; lower alpha"
    return None
