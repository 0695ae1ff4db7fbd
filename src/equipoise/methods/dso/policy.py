"""Loss of one step on the ambiguous pool: option answers or sampled free text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from equipoise.decisions.sample import Samples, sample_answers, sample_log_probs
from equipoise.methods.dso import objective
from equipoise.methods.dso.config import DSOConfig
from equipoise.models import Model
from equipoise.steering import Attachment
from equipoise.tasks.item import Item


@dataclass
class Rollout:
    """Sampled answers of a step: option indices and, for free text, the tokens.

    ``answers`` int64 [n, R], −1 where a text names no option; ``log_probs`` float32 [n, R] under
    the policy that drew them; ``samples`` None when options were drawn.
    """

    answers: Tensor
    log_probs: Tensor
    samples: Samples | None = None

    def advantage(self, reward: Tensor, neither: float) -> Tensor:
        """Leave-one-out advantages, [n, R]; an answer that names no option earns ``neither``."""
        earned = reward.gather(1, self.answers.clamp(min=0))
        earned = torch.where(self.answers < 0, torch.full_like(earned, neither), earned)
        return objective.leave_one_out(earned)

    def frequencies(self, options: int) -> Tensor:
        """Share of each option among the sampled answers, float32 [n, options]."""
        named = torch.nn.functional.one_hot(self.answers + 1, options + 1)[..., 1:]
        return named.float().mean(1)


def draw(
    attachment: Attachment,
    model: Model,
    items: Sequence[Item],
    options: Tensor,
    config: DSOConfig,
    generator: torch.Generator,
    opens: Tensor | None,
) -> Rollout:
    """Sample answers from the attached policy; ``opens`` is what its gate says of the items."""
    if config.answers == "options":
        answers = objective.sample_options(options, config.rollouts, generator)
        return Rollout(answers, options.detach().log_softmax(-1).gather(1, answers))
    samples = sample_answers(
        model,
        items,
        rollouts=config.rollouts,
        max_new_tokens=config.max_new_tokens,
        seed=int(torch.randint(2**31, (), generator=generator)),
        attachment=attachment,
        decisions=opens,
    )
    with torch.no_grad():
        log_probs = sample_log_probs(model, samples, attachment)
    return Rollout(samples.answers.to(options.device), log_probs, samples)


def policy_loss(
    attachment: Attachment,
    model: Model,
    options: Tensor,
    reward: Tensor,
    rollout: Rollout | None,
    config: DSOConfig,
) -> Tensor:
    """−E[r] of each row with the configured estimator, [n], differentiable in the steering.

    Args:
        attachment: The steering on the model.
        model: The model.
        options: float32 [n, K]; option scores under the current steering, with gradient.
        reward: float32 [n, K].
        rollout: None for the exact gradient.
        config: DSO settings.
    """
    if rollout is None:
        return objective.exact(options, reward)
    advantage = rollout.advantage(reward, neither=1.0 if config.reward == "paper" else 0.0)
    if rollout.samples is None:
        log_probs = options.log_softmax(-1).gather(1, rollout.answers)
    else:
        log_probs = sample_log_probs(model, rollout.samples, attachment)
    if config.estimator == "reinforce":
        return objective.reinforce(log_probs, advantage)
    return objective.clipped_ppo(log_probs, rollout.log_probs, advantage, config.ppo_clip)
