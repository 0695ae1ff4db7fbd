"""The proximal step, pruning, and the projection onto the KL budgets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.methods.dso.projection import Budget, largest_within, rescale
from equipoise.methods.dso.sparsity import keep_top_share, proximal_l1, site_scale
from equipoise.models import Model
from equipoise.steering import Affine, Steering


@settings(max_examples=40, deadline=None)
@given(st.floats(-3, 3), st.floats(0, 2))
def test_soft_threshold_is_the_proximal_map(x: float, step: float) -> None:
    grid = np.linspace(-4, 4, 80_001)
    best = grid[np.argmin((grid - x) ** 2 / 2 + step * np.abs(grid))]
    found = torch.tensor([x], dtype=torch.double)
    proximal_l1(found, step)
    assert found.item() == pytest.approx(best, abs=2e-4)


def test_zeros_are_exact() -> None:
    value = torch.tensor([0.3, -0.1, 0.0, 0.1, -2.0])
    proximal_l1(value, 0.1)
    torch.testing.assert_close(value, torch.tensor([0.2, 0.0, 0.0, 0.0, -1.9]))
    assert int(value.count_nonzero()) == 2


def steering() -> Steering:
    torch.manual_seed(0)
    return Steering(
        {
            "x": Affine(torch.randn(40), torch.randn(40)),
            "y": Affine(torch.randn(20), None),
        }
    )


@pytest.mark.parametrize("share", [0.01, 0.25, 0.6, 1.0])
def test_pruning_keeps_the_largest_effects(share: float) -> None:
    one = steering()
    before = {name: value.detach().clone() for name, value in one.named_parameters()}
    scale = {"x": torch.rand(40) + 0.1, "y": 5 * torch.rand(20) + 0.1}
    effect = {
        name: value.abs() * (scale[name[0]] if name.endswith("a") else 1)
        for name, value in before.items()
    }
    keep_top_share(one, share, scale)
    assert one.n_nonzero == round(share * 100)
    kept = torch.cat([e[p != 0] for e, p in _pairs(effect, one)])
    dropped = torch.cat([e[p == 0] for e, p in _pairs(effect, one)])
    assert len(dropped) == 0 or kept.min() > dropped.max()
    for name, value in one.named_parameters():
        assert torch.equal(value[value != 0], before[name][value != 0])


def _pairs(effect: dict[str, torch.Tensor], one: Steering) -> list[tuple[torch.Tensor, ...]]:
    return [(effect[name], value.detach()) for name, value in one.named_parameters()]


def test_pruning_leaves_zeros_alone() -> None:
    one = steering()
    with torch.no_grad():
        for value in one.parameters():
            value[10:] = 0.0
    keep_top_share(one, 0.9, {"x": torch.ones(40), "y": torch.ones(20)})
    assert one.n_nonzero == 30


def test_scale_is_the_root_mean_square_of_each_unit(tiny: Model) -> None:
    from equipoise.decisions.encode import encode_text

    row = encode_text(tiny, "The nurse said that she left the office.")[0]
    path = "model.layers.1.input_layernorm"
    seen: list[torch.Tensor] = []
    hook = tiny.hf.get_submodule(path).register_forward_hook(lambda _m, _a, out: seen.append(out))
    scale = site_scale(tiny, [path], [row, row])
    hook.remove()
    expected = seen[0].flatten(0, 1).double().square().mean(0).sqrt()
    torch.testing.assert_close(scale[path].double(), expected, rtol=1e-4, atol=1e-5)
    assert not tiny.hf.get_submodule(path)._forward_hooks


@pytest.mark.parametrize("crossing", [0.03, 0.1, 0.437, 0.95])
@pytest.mark.parametrize("pool", [0, 1])
def test_projection_finds_the_crossing(crossing: float, pool: int) -> None:
    budget = Budget(0.3, 0.02)
    asked: list[float] = []

    def measure(strengths: list[float]) -> list[tuple[float, float]]:
        asked.extend(strengths)
        limit = (budget.ambiguous, budget.anchor)[pool]
        found = []
        for w in strengths:
            kl = [0.0, 0.0]
            kl[pool] = limit * (w / crossing) ** 2
            found.append((kl[0], kl[1]))
        return found

    strength, kl = largest_within(budget, measure)
    assert budget.holds(kl)
    assert (kl,) == tuple(measure([strength]))
    assert strength <= crossing + 1e-9
    assert strength == pytest.approx(crossing, abs=0.02)


def test_projection_stops_at_the_first_break() -> None:
    def measure(strengths: list[float]) -> list[tuple[float, float]]:
        return [(1.0 if 0.35 < w < 0.65 else 0.1, 0.0) for w in strengths]

    strength, _ = largest_within(Budget(0.3, 0.02), measure)
    assert 0.33 < strength <= 0.35  # .7 and above hold too, but not all the way there


@pytest.mark.parametrize("overshot", [3.0, 40.0, 500.0])
def test_a_map_that_overshot_far_is_shrunk_no_more_than_it_must(overshot: float) -> None:
    """KL grows with the square of the strength: the budget is met at 1 / overshot."""
    budget = Budget(0.5, 0.07)
    strength, kl = largest_within(
        budget, lambda ws: [(0.0, 0.07 * (w * overshot) ** 2) for w in ws]
    )
    assert 0.95 / overshot <= strength <= 1 / overshot
    assert budget.holds(kl)


@pytest.mark.parametrize(("kl", "expected"), [(0.0, 1.0), (float("nan"), 0.0)])
def test_projection_at_the_ends(kl: float, expected: float) -> None:
    found, _ = largest_within(Budget(0.3, 0.02), lambda ws: [(kl, 0.0)] * len(ws))
    assert found == expected


def test_rescaled_at_1_is_the_original_at_s(tiny: Model) -> None:
    ids = torch.tensor([tiny.tokenizer.encode("The nurse said that she left.")])
    one = Steering.identity(tiny, foldable=False)
    torch.manual_seed(0)
    with torch.no_grad():
        for value in one.parameters():
            value.normal_(std=0.1)
        with one.applied(tiny, 0.3):
            before = tiny.hf(ids).logits
        rescale(one, 0.3)
        with one.applied(tiny, 1.0):
            torch.testing.assert_close(tiny.hf(ids).logits, before, atol=1e-4, rtol=1e-5)
