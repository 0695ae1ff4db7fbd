"""Policy gradients for answers that are one of a few options.

Each estimator returns every row's loss, whose gradient is that of −E[r]: exactly, by REINFORCE with
a leave-one-out baseline, or by clipped PPO. All take log-probabilities of *sampled or all* answers,
so that sampled free text goes through the same two estimators.
"""

from __future__ import annotations

import torch
from torch import Tensor


def exact(options: Tensor, reward: Tensor) -> Tensor:
    """−E[r] with the expectation taken over the options, no sampling noise; float32 [n].

    Args:
        options: float32 [n, K]; option scores, ``-inf`` where there is none.
        reward: float32 [n, K].
    """
    return -(options.softmax(-1) * reward).sum(-1)


def sample_options(options: Tensor, rollouts: int, generator: torch.Generator) -> Tensor:
    """int64 [n, rollouts]: answers drawn from the softmax of the scores."""
    probabilities = options.detach().softmax(-1).cpu()
    drawn = torch.multinomial(probabilities, rollouts, replacement=True, generator=generator)
    return drawn.to(options.device)


def leave_one_out(reward: Tensor) -> Tensor:
    """Advantage of each rollout over the mean of the others, [n, rollouts] -> same."""
    n = reward.shape[1]
    return (reward - reward.mean(1, keepdim=True)) * n / (n - 1)


def reinforce(log_probs: Tensor, advantage: Tensor) -> Tensor:
    """−mean(A · log π(y)) over the rollouts, [n]; both [n, rollouts]."""
    return -(advantage * log_probs).mean(-1)


def clipped_ppo(log_probs: Tensor, old_log_probs: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """PPO's clipped surrogate (arXiv 1707.06347, eq. 7), negated, [n]; all [n, rollouts]."""
    ratio = (log_probs - old_log_probs).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantage, clipped * advantage).mean(-1)


def decision_kl(options: Tensor, base: Tensor) -> Tensor:
    """KL between the softmaxes of option scores, in nats, float32 [n].

    Args:
        options: float32 [n, K]; option scores, ``-inf`` where there is none.
        base: float32 [n, K]; the base model's.
    """
    ours, theirs = options.log_softmax(-1), base.log_softmax(-1)
    present = ours.isfinite() & theirs.isfinite()
    gap = torch.where(present, ours, 0.0) - torch.where(present, theirs, 0.0)
    return (ours.exp() * gap).sum(-1)


def twin_gap(options: Tensor, align: Tensor, partner: Tensor) -> Tensor:
    """Squared gap between the option log-odds of twins, float32 [n]; 0 where there is no partner.

    Zero exactly when an answer does not depend on what twins differ in; then neither the
    probabilities nor the greedy answers can follow it (counterfactual logit pairing,
    arXiv 1809.10610, on option scores).

    Args:
        options: float32 [n, K]; option scores, ``-inf`` where there is none.
        align: int64 [n, K]; for each option its place among the partner's options.
        partner: int64 [n]; row of the twin, −1 where there is none.
    """
    mine = options.log_softmax(-1)
    theirs = mine[partner].gather(1, align)
    present = mine.isfinite() & theirs.isfinite() & (partner >= 0)[:, None]
    gap = torch.where(present, mine, 0.0) - torch.where(present, theirs, 0.0)
    weight = torch.where(present, (mine.exp() + theirs.exp()) / 2, 0.0).detach()
    return (weight * gap.square()).sum(-1)
