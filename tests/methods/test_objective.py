"""Policy gradients against a slow reading, against each other, and over many rollouts."""

import math

import pytest
import torch
from torch import Tensor

from equipoise.methods.dso import objective
from equipoise.methods.dso.policy import Rollout

INF = float("inf")


def slow_exact(options: Tensor, reward: Tensor) -> tuple[float, Tensor]:
    """−E[r] and its gradient, dπ_y/ds_k = π_y (1[y = k] − π_k), one option at a time."""
    n, width = options.shape
    value, gradient = 0.0, torch.zeros(n, width, dtype=torch.double)
    for i in range(n):
        weights = [math.exp(s) for s in options[i].tolist()]
        policy = [w / sum(weights) for w in weights]
        for y in range(width):
            value -= policy[y] * reward[i, y].item() / n
            for k in range(width):
                change = policy[y] * ((y == k) - policy[k])
                gradient[i, k] -= change * reward[i, y].item() / n
    return value, gradient


def test_exact_gradient_is_the_sum_over_the_options() -> None:
    torch.manual_seed(0)
    options = torch.randn(5, 4, dtype=torch.double)
    options[1, 3] = options[2, 2:] = -INF
    reward = torch.randn(5, 4, dtype=torch.double)
    options.requires_grad_()
    loss = objective.exact(options, reward).mean()
    loss.backward()
    value, gradient = slow_exact(options.detach(), reward)
    assert loss.item() == pytest.approx(value)
    torch.testing.assert_close(options.grad, gradient)


def rollouts(n: int, r: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Scores [n, 3], all rows alike, with gradient; rewards; drawn answers [n, r]."""
    options = torch.tensor([[0.5, -1.0, 0.2]]).repeat(n, 1).requires_grad_()
    reward = torch.tensor([[1.0, -0.5, 0.25]]).repeat(n, 1)
    drawn = objective.sample_options(options, r, torch.Generator().manual_seed(1))
    return options, reward, drawn


@pytest.mark.parametrize("estimator", ["reinforce", "ppo"])
def test_sampled_gradients_are_unbiased(estimator: str) -> None:
    n = 20_000
    options, reward, drawn = rollouts(n)
    log_probs = options.log_softmax(-1).gather(1, drawn)
    advantage = objective.leave_one_out(reward.gather(1, drawn))
    if estimator == "reinforce":
        objective.reinforce(log_probs, advantage).mean().backward()
    else:  # before the first step the policy is the one that drew
        objective.clipped_ppo(log_probs, log_probs.detach(), advantage, 0.2).mean().backward()
    found = options.grad * n  # of each row on its own
    _, exact = slow_exact(options.detach()[:1], reward[:1])
    error = found.std(0) / math.sqrt(n)
    assert ((found.mean(0) - exact[0]).abs() < 4 * error).all()
    assert (error < 0.01).all()


def test_baseline_takes_noise_away() -> None:
    options, reward, drawn = rollouts(5_000)
    reward = reward + 10.0  # a constant tells nothing, and is not noise either
    noise = {}
    for name, advantage in {
        "with": objective.leave_one_out(reward.gather(1, drawn)),
        "without": reward.gather(1, drawn),
    }.items():
        options.grad = None
        log_probs = options.log_softmax(-1).gather(1, drawn)
        objective.reinforce(log_probs, advantage).mean().backward()
        noise[name] = options.grad.std().item()
    assert noise["with"] < noise["without"] / 10


def test_leave_one_out_is_the_mean_of_the_others() -> None:
    reward = torch.tensor([[1.0, 4.0, -2.0]])
    expected = [[1 - (4 - 2) / 2, 4 - (1 - 2) / 2, -2 - (1 + 4) / 2]]
    torch.testing.assert_close(objective.leave_one_out(reward), torch.tensor(expected))


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "moves"),
    [
        (1.5, 1.0, 1.2, False),
        (0.5, -1.0, -0.8, False),
        (0.5, 1.0, 0.5, True),
        (1.5, -1.0, -1.5, True),
        (1.1, 2.0, 2.2, True),
    ],
)
def test_ppo_clips(ratio: float, advantage: float, value: float, moves: bool) -> None:
    log_prob = torch.tensor([[math.log(0.2 * ratio)]], requires_grad=True)
    old = torch.tensor([[math.log(0.2)]])
    loss = objective.clipped_ppo(log_prob, old, torch.tensor([[advantage]]), 0.2)
    loss.backward()
    assert -loss.item() == pytest.approx(value)
    assert bool(log_prob.grad != 0) == moves


def test_draws_follow_the_scores_and_their_generator() -> None:
    options = torch.tensor([[0.0, math.log(3), -INF], [-INF, 1.0, 1.0]])
    drawn = objective.sample_options(options, 4000, torch.Generator().manual_seed(0))
    shares = torch.nn.functional.one_hot(drawn, 3).float().mean(1)
    torch.testing.assert_close(
        shares, torch.tensor([[0.25, 0.75, 0], [0, 0.5, 0.5]]), atol=0.03, rtol=0
    )
    again = objective.sample_options(options, 4000, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)


def test_answer_that_names_nothing_earns_its_own_reward() -> None:
    rollout = Rollout(torch.tensor([[0, -1, 1]]), torch.zeros(1, 3))
    reward = torch.tensor([[-1.0, 1.0, 0.0]])
    for neither in (0.0, 1.0):
        expected = objective.leave_one_out(torch.tensor([[-1.0, neither, 1.0]]))
        torch.testing.assert_close(rollout.advantage(reward, neither), expected)
    torch.testing.assert_close(rollout.frequencies(3), torch.tensor([[1 / 3, 1 / 3, 0]]))


def test_twin_gap_and_decision_kl() -> None:
    torch.manual_seed(0)
    options = torch.randn(4, 3, dtype=torch.double)
    options[2:, 2] = -INF  # the second pair has two options, swapped
    align = torch.tensor([[0, 1, 2], [0, 1, 2], [1, 0, 0], [1, 0, 0]])
    partner = torch.tensor([1, 0, 3, 2])
    policy, logs = options.softmax(-1), options.log_softmax(-1)
    total = 0.0
    for i in range(4):
        for k in range(3 if i < 2 else 2):
            j, m = partner[i], align[i, k]
            weight = (policy[i, k] + policy[j, m]) / 2
            total += (weight * (logs[i, k] - logs[j, m]) ** 2).item() / 4
    assert objective.twin_gap(options, align, partner).mean().item() == pytest.approx(total)
    alone = torch.tensor([1, 0, -1, -1])
    assert objective.twin_gap(options, align, alone)[2:].tolist() == [0, 0]

    base = torch.randn(4, 3, dtype=torch.double)
    base[2:, 2] = -INF
    options.requires_grad_()
    kl = objective.decision_kl(options, base)
    for i in range(4):
        width = 3 if i < 2 else 2
        theirs = base[i, :width].log_softmax(-1)
        expected = (policy[i, :width] * (logs[i, :width] - theirs)).sum()
        assert kl[i].item() == pytest.approx(expected.item())
    kl.sum().backward()
    assert options.grad.isfinite().all()
