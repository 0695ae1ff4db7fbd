"""Queries that find the word a prompt is about, and what gates with them read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from equipoise.decisions.activations import Prompt, check_reached, encode_prompt, listening
from equipoise.decisions.batch import batches
from equipoise.decisions.decide import BATCH_TOKENS
from equipoise.decisions.encode import Encoded, prompt_text
from equipoise.decisions.forward import forward
from equipoise.decisions.layout import lay_out
from equipoise.errors import EquipoiseError
from equipoise.methods.method import some_items
from equipoise.models import Model
from equipoise.steering.gates import attended
from equipoise.tasks.item import Item

_QUERY_PROMPTS = 512
_QUERY_C = 0.1
_SHARPNESS = 1.5
"""A query is the probe times this: a softmax over tokens needs larger gaps than a yes or no."""


def fit_queries(model: Model, prompts: Sequence[Prompt], sites: Sequence[str]) -> Tensor:
    """For each site a query q whose softmax over a prompt's tokens finds what the prompt is about.

    That is the last token of its first context (an occupation, say). The query is a logistic
    probe, at that token against all others of its prompt.

    Args:
        model: The model, with nothing attached.
        prompts: Prompts; those that name their context are used, some hundreds at most.
        sites: Keys of S sites of one width d.

    Returns:
        float32 [S, d], on the CPU.

    Raises:
        EquipoiseError: No prompt names its context, or activations that are not finite.
    """
    place = {p: context_token(model, p) for p in prompts if isinstance(p, Item)}
    named = some_items([item for item, token in place.items() if token is not None], _QUERY_PROMPTS)
    if not named:
        raise EquipoiseError("an attending gate needs items whose prompts name their contexts")
    tokens: list[list[Tensor]] = [[] for _ in sites]
    wanted: list[bool] = []
    for index, h, inside in _activations(model, named, sites):
        for row, i in enumerate(index):
            here = inside[row]
            wanted += [place[named[i]] == t for t in range(int(here.sum()))]
            for site, values in enumerate(h):
                tokens[site].append(values[row, here].cpu())
    read = [torch.cat(found).numpy() for found in tokens]
    for key, inside_prompts in zip(sites, read, strict=True):
        refuse_infinite(inside_prompts, key)
    return torch.stack([_query(one, np.array(wanted)) for one in read])


def refuse_infinite(h: np.ndarray, site: str) -> None:
    """Raise if a site's activations cannot be learnt from.

    Raises:
        EquipoiseError: They are not all finite.
    """
    if not np.isfinite(h).all():
        raise EquipoiseError(
            f"the model's activations at {site} are not finite: no gate can read them; read "
            "another layer, or load the model in a wider dtype"
        )


def context_token(model: Model, item: Item) -> int | None:
    """Number of the last token of an item's first context; None if the prompt does not name it."""
    text = prompt_text(model, item.prompt)
    start = text.find(item.contexts[0]) if item.contexts else -1
    if start < 0 or not model.tokenizer.is_fast:
        return None
    stop = start + len(item.contexts[0])
    told = model.tokenizer(text, add_special_tokens=not model.chat, return_offsets_mapping=True)[
        "offset_mapping"
    ]
    inside = [i for i, (a, b) in enumerate(told) if a < stop and b > start and b > a]
    return inside[-1] if inside else None


def attended_activations(
    model: Model, prompts: Sequence[Prompt], sites: Sequence[str], queries: Tensor
) -> Tensor:
    """What each site's query finds in each prompt, beside the prompt's mean.

    Args:
        model: The model, with nothing attached.
        prompts: n prompts; may be empty.
        sites: Keys of S sites of one width d.
        queries: float32 [S, d].

    Returns:
        float32 [n, S, 2d], on the CPU.
    """
    values = torch.zeros(len(prompts), len(sites), 2 * queries.shape[1])
    for index, h, inside in _activations(model, prompts, sites):
        for site, (found, query) in enumerate(zip(h, queries, strict=True)):
            values[index, site] = attended(found, inside, query.to(found.device)).cpu()
    return values


def _activations(
    model: Model, prompts: Sequence[Prompt], sites: Sequence[str]
) -> Iterator[tuple[list[int], list[Tensor], Tensor]]:
    """Batches: numbers of prompts, each site's activations [rows, tokens, d], prompt tokens."""
    whole = [encode_prompt(model, prompt) for prompt in prompts]
    rows = [Encoded(row.prefix[: row.prompt_length], (), ()) for row in whole]
    read: dict[int, Tensor] = {}
    with listening(model, sites, read.__setitem__):
        for batch in batches(model.hf, rows, BATCH_TOKENS):
            read.clear()
            ids, mask, positions, _ = lay_out(batch).inputs(model.hf, None, 1)
            last = torch.tensor([ids.shape[1] - 1], device=model.device)
            with torch.inference_mode():
                forward(model.hf, ids, mask, positions, logits_to_keep=last, use_cache=False)
            check_reached(sites, set(range(len(sites))) - set(read))
            yield batch.index, [read[number].float() for number in range(len(sites))], mask.bool()


def _query(h: np.ndarray, wanted: np.ndarray) -> Tensor:
    """From activations [tokens, d] and whether each is the token to find."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    spread = h.std(0).clip(min=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe = LogisticRegression(C=_QUERY_C, max_iter=500)
        probe.fit((h - h.mean(0)) / spread, wanted)
    return torch.from_numpy(_SHARPNESS * probe.coef_[0] / spread).float()
