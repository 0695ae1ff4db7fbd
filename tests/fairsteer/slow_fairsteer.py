"""FairSteer read off the paper, slowly: one prompt at a time, no batch, no cache, no hooks.

A block is looked into, or steered, by replacing its ``forward``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from equipoise.models import Model
from equipoise.models.backbone import decoder_blocks
from equipoise.tasks.item import Item


@dataclass
class Slow:
    """The fitted parts at one layer."""

    layer: int
    w: np.ndarray
    c: float
    v: np.ndarray
    accuracy: float


@contextmanager
def watched(model: Model, see: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """``see(layer, h [1, T, d])`` gets every block's output and returns what goes on."""
    blocks = [block for _, block in decoder_blocks(model)]

    def replace(layer: int, original: Callable) -> Callable:
        def forward(*args, **kwargs):
            out = original(*args, **kwargs)
            if isinstance(out, tuple):
                return (see(layer, out[0]), *out[1:])
            return see(layer, out)

        return forward

    for layer, block in enumerate(blocks):
        block.forward = replace(layer, block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def ask(model: Model, text: str, see: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Next-token logits [V] after a text."""
    ids = model.tokenizer.encode(text, return_tensors="pt")
    with watched(model, see), torch.no_grad():
        return model.hf(ids, use_cache=False).logits[0, -1]


def last_token(model: Model, text: str) -> tuple[np.ndarray, Tensor]:
    """a^l at the last token, [layers, d], and the next-token logits [V]."""
    seen: dict[int, np.ndarray] = {}

    def see(layer: int, h: Tensor) -> Tensor:
        seen[layer] = h[0, -1].double().numpy()
        return h

    logits = ask(model, text, see)
    return np.stack([seen[layer] for layer in sorted(seen)]), logits


def letter_ids(model: Model, item: Item) -> list[int]:
    return [model.tokenizer.encode(f"{item.prompt} {letter}")[-1] for letter in item.options]


def gold(item: Item) -> int:
    """The right letter; of an ambiguous item, that of "unknown"."""
    return item.sides.index("abstain") if item.answer is None else item.answer


def label(item: Item, prediction: int) -> int | None:
    """y: 1 unbiased, 0 biased, None dropped."""
    if item.sides is None or prediction == gold(item):
        return 1
    return 0 if item.sides[prediction] == "pro" else None


def slow_fit(
    model: Model,
    train: Sequence[Item],
    anchors: Sequence[Item],
    held_out: Sequence[Item],
    contrast: Sequence[Item],
    alpha: float,
) -> list[Slow]:
    """The three steps at every layer."""
    features, labels = [], []
    for item in [*train, *anchors]:
        a, logits = last_token(model, item.prompt)
        y = label(item, int(logits[letter_ids(model, item)].argmax()))
        if y is not None:
            features.append(a)
            labels.append(y)
    fair = [last_token(model, f"{i.prompt} {i.options[gold(i)]}")[0] for i in contrast]
    biased = [
        last_token(model, f"{i.prompt} {i.options[i.sides.index('pro')]}")[0] for i in contrast
    ]
    found = []
    for layer in range(len(features[0])):
        probe = LogisticRegression(C=1.0, tol=1e-7, max_iter=5000)
        probe.fit(np.stack([a[layer] for a in features]), labels)
        v = np.mean([a[layer] for a in fair], axis=0) - np.mean([a[layer] for a in biased], axis=0)
        slow = Slow(layer, probe.coef_[0], float(probe.intercept_[0]), v, 0.0)
        answers = [int(steered_letters(model, item, slow, alpha).argmax()) for item in held_out]
        right = [answer == gold(item) for item, answer in zip(held_out, answers, strict=True)]
        slow.accuracy = float(np.mean(right))
        found.append(slow)
    return found


def steered_letters(model: Model, item: Item, slow: Slow, alpha: float) -> np.ndarray:
    """Log-probabilities of the letters: αv added at the last token if ŷ < ½ there."""

    def see(layer: int, h: Tensor) -> Tensor:
        if layer != slow.layer:
            return h
        unbiased = 1 / (1 + np.exp(-(slow.w @ h[0, -1].double().numpy() + slow.c)))
        if unbiased >= 0.5:
            return h
        h = h.clone()
        h[0, -1] += alpha * torch.from_numpy(slow.v).to(h)
        return h

    logits = ask(model, item.prompt, see)
    return logits.double().log_softmax(-1)[letter_ids(model, item)].numpy()
