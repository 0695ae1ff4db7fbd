"""A direct, slow reading of the steering map: one row, one token, one entry of ω at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from equipoise.steering import Affine, Steering


def steered_logits(
    model: PreTrainedModel, steering: Steering, ids: Sequence[int], omega: Sequence[float]
) -> Tensor:
    """Logits [tokens, vocabulary] of one unpadded row, recomputed from scratch.

    ``omega[t]`` is the strength at token t: ĥ_t = h_t + ω_t (a ⊙ h_t + b) at every site.
    """
    handles = []
    for key, transform in steering.transforms.items():
        assert isinstance(transform, Affine)

        def steer(_module, _args, output, transform=transform):
            new = output.clone()
            for t, w in enumerate(omega):
                h = output[0, t]
                new[0, t] = h + w * (transform.a * h + transform.b)
            return new

        handles.append(model.get_submodule(key).register_forward_hook(steer))
    try:
        with torch.no_grad():
            return model(torch.tensor([list(ids)]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()


def chosen(scope: str, tokens: int, prompt: int) -> list[bool]:
    """Which of a row's tokens a scope means, read off its definition."""
    means = {
        "all": lambda t: True,
        "prompt": lambda t: t < prompt,
        "last_prompt": lambda t: t == prompt - 1,
        "generated": lambda t: t >= prompt,
        "positions:1:4": lambda t: 1 <= t < 4,
    }
    return [any(means[word](t) for word in scope.split("+")) for t in range(tokens)]


def greedy(
    model: PreTrainedModel,
    steering: Steering,
    prompt: Sequence[int],
    strength: float,
    scope: str,
    new: int,
) -> tuple[list[int], Tensor]:
    """Greedy continuation of a prompt, everything recomputed at each step.

    Returns:
        The new tokens, and the logits [new, vocabulary] they were picked from.
    """
    ids, logits = list(prompt), []
    for _ in range(new):
        omega = [strength * on for on in chosen(scope, len(ids), len(prompt))]
        logits.append(steered_logits(model, steering, ids, omega)[-1])
        ids.append(int(logits[-1].argmax()))
    return ids[len(prompt) :], torch.stack(logits)
