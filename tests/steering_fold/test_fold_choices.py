"""Mixtures of experts: a fold is compared on all tokens, with the steered model's own choices."""

import pytest
import torch
from fold_zoo import STRENGTH, build, random_steering

from equipoise.errors import SteeringError
from equipoise.steering.choices import Recording, Replaying
from equipoise.steering.fold.checkpoint import fold_checkpoint
from equipoise.steering.verify import verify


def tied():
    """A mixture whose routers cannot tell two of the four experts apart but by rounding."""
    model = build("mixtral", "MixtralForCausalLM")
    for block in model.model.layers:
        router = block.mlp.gate.weight
        router[1:] = router[0] * (1 + 1e-7 * torch.arange(1, 4)[:, None])
    return model


def test_tied_experts_are_chosen_as_the_steered_model_chose(tmp_path):
    model = tied()
    report = fold_checkpoint(model, random_steering(model), STRENGTH, tmp_path / "out")
    assert report.ties > 0
    assert report.max_logit_difference <= report.tolerance
    (check,) = (c for c in verify(model, random_steering(model)).checks if "folded" in c.name)
    assert check.ok
    assert "tie" in check.note


def test_without_ties_nothing_is_excused(tmp_path):
    model = build("mixtral", "MixtralForCausalLM")
    report = fold_checkpoint(model, random_steering(model), STRENGTH, tmp_path / "out")
    assert report.ties == 0


def test_a_wrong_router_is_no_tie(tmp_path, monkeypatch):
    """Even where it shows in no logit: with identical experts the choice does not matter."""
    model = build("mixtral", "MixtralForCausalLM")
    for block in model.model.layers:
        for weight in (block.mlp.experts.gate_up_proj, block.mlp.experts.down_proj):
            weight[:] = weight[0]
    from equipoise.steering.fold import checkpoint as module

    reload = module._reload

    def misrouted(folded, folder):
        loaded = reload(folded, folder)
        with torch.no_grad():
            for block in loaded.model.layers:
                block.mlp.gate.weight.neg_()
        return loaded

    monkeypatch.setattr(module, "_reload", misrouted)
    with pytest.raises(SteeringError, match="choice of experts by a score"):
        fold_checkpoint(model, random_steering(model), STRENGTH, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_replayed_choices_and_their_margin():
    scores = torch.tensor([[0.1, 0.5, 0.4, 0.0], [0.3, 0.2, 0.3, 0.2]])
    with Recording() as made:
        wanted = scores.topk(2, dim=-1)
    other = scores + torch.tensor([[0.0, 0.0, 0.0, 0.45], [0.0, 0.0, 0.0, 0.0]])
    with Replaying(made) as replay:
        values, indices = other.topk(2, dim=-1)
        again = other.topk(2, dim=-1)  # one more than was recorded: its own choice
    assert torch.equal(indices, wanted.indices)
    assert torch.equal(values, other.gather(1, wanted.indices))
    assert torch.equal(again.indices, other.topk(2, dim=-1).indices)
    assert replay.ties == 1
    assert replay.margin == pytest.approx(0.05 / 0.5)


def test_masked_scores_are_no_margin():
    scores = torch.tensor([[1.0, -torch.inf, -torch.inf, -torch.inf]])
    with Recording() as made:
        scores.topk(2, dim=-1)
    made.choices = [torch.tensor([[0, 3]])]
    with Replaying(made) as replay:
        scores.topk(2, dim=-1)
    assert replay.margin == 0
