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


def test_choices_of_several_passes_as_one_pass_makes_them():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 5, 6, generator=generator)
    with Recording() as whole:
        scores.topk(2)
        scores.flatten(0, 1).topk(1)  # as routers are given tokens
    with Recording() as parts:
        for part in (scores[:, :3], scores[:, 3:4], scores[:, 4:]):
            part.topk(2)
            part.flatten(0, 1).topk(1)
    joined = parts.joined(2, [3, 1, 1]).choices
    assert len(joined) == 2
    assert all(torch.equal(one, other) for one, other in zip(joined, whole.choices, strict=True))


def test_choices_that_no_token_makes_stay_open():
    with Recording() as made:
        for tokens in (3, 1):
            torch.randn(7, 8).topk(2)  # neither rows nor tokens
            torch.randn(2, tokens, 2 + tokens).topk(2 + tokens)  # as many as there are
    assert [choice.numel() for choice in made.joined(2, [3, 1]).choices] == [0, 0]
    assert made.joined(2, [3, 1, 1]).choices == []


def test_sparse_attention_is_the_same_cached_where_tokens_tie():
    model = build("glm_moe_dsa", "GlmMoeDsaForCausalLM")
    model.generation_config.pad_token_id = 0
    report = verify(model, random_steering(model, "slope"), strength=0.8, vllm=False)
    (check,) = (c for c in report.checks if c.name == "cached = uncached")
    assert check.ok, check
    assert "top-k choices tie" in check.note
