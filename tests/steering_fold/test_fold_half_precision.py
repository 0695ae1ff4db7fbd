"""Folding in half precision: rounding hides no checkpoint that does not steer."""

import copy

import pytest
import torch
from fold_zoo import build, random_steering

import equipoise.steering.fold.checkpoint as module
from equipoise.errors import SteeringError
from equipoise.steering import Affine, Steering
from equipoise.steering.fold.checkpoint import fold_checkpoint

HALF = [torch.bfloat16, torch.float16]
WEAK = {torch.bfloat16: 0.2, torch.float16: 0.04}  # ω: an effect of a few roundings
UNSTEERED = r"% of the effect is missing|differs from the steered"
FAMILIES = {
    "llama": "LlamaForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("family", FAMILIES)
def test_healthy_folds_pass(family, dtype, tmp_path):
    model = build(family, FAMILIES[family]).to(dtype)
    for strength in (0.6, WEAK[dtype], 0.6 * WEAK[dtype]):
        report = fold_checkpoint(
            model, random_steering(model), strength, tmp_path / "out", overwrite=True
        )
        assert report.max_logit_difference <= report.tolerance
        assert report.effect_lost < 0.15


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_unsteered_checkpoint_is_not_written(family, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "fold", lambda root, *_, **__: copy.deepcopy(root))
    model = build(family, FAMILIES[family]).to(dtype)
    steering = random_steering(model)
    for strength in (0.6, WEAK[dtype], 0.6 * WEAK[dtype]):
        with pytest.raises(SteeringError, match=UNSTEERED):
            fold_checkpoint(model, steering, strength, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["a", "b"])
def test_a_fold_without_slopes_or_biases_is_not_written(part, tmp_path, monkeypatch):
    fold = module.fold

    def forgetful(root, steering, strength, **settings):
        kept = {
            k: Affine(**{part: getattr(t, part)})
            for k, t in steering.transforms.items()
            if getattr(t, part) is not None
        }
        return fold(root, Steering(kept), strength, **settings)

    monkeypatch.setattr(module, "fold", forgetful)
    model = build("llama", "LlamaForCausalLM").bfloat16()
    with pytest.raises(SteeringError, match=UNSTEERED):
        fold_checkpoint(model, random_steering(model), WEAK[torch.bfloat16], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_effect_that_rounding_swallows_is_said_to_be_undecided(tmp_path):
    model = build("llama", "LlamaForCausalLM").bfloat16()
    with pytest.raises(SteeringError, match=r"undecided: .* take float32"):
        fold_checkpoint(model, random_steering(model), 0.002, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_replayed_experts_are_no_effect_of_the_fold(tmp_path, monkeypatch):
    """What the steering does by choosing other experts is replayed in an unsteered fold too."""
    monkeypatch.setattr(module, "fold", lambda root, *_, **__: copy.deepcopy(root))
    model = build("mixtral", "MixtralForCausalLM").bfloat16()
    with pytest.raises(SteeringError, match=UNSTEERED):
        fold_checkpoint(model, random_steering(model), WEAK[torch.bfloat16], tmp_path / "out")
