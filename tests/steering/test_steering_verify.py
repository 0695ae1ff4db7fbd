"""verify: passes where all is well, and says what is wrong where it is not."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from steering_zoo import FAMILIES, build, random_steering

from equipoise.errors import SteeringError
from equipoise.steering import Affine, ProbeGate, Steering
from equipoise.steering import verify as verifying

verify = partial(verifying.verify, vllm=False)  # see test_steering_vllm.py


def by_name(report):
    return {check.name: check for check in report.checks}


@pytest.mark.parametrize("family", [*FAMILIES, "opt", "mamba"])
def test_all_is_well(family):
    model = build(family)
    steering = Steering.identity(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in steering.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    report = verify(model, steering, strength=0.7)
    assert report.ok, report
    assert all(check.ok for check in report.checks if check.name != "vllm"), report
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_bfloat16_within_its_tolerance():
    model = build("llama")
    steering = random_steering(model, scale=0.1)
    report = verify(model.bfloat16(), steering)
    assert report.ok, report
    assert report.dtype == "bfloat16"


@pytest.mark.parametrize("scope", ["prompt", "last_prompt", "generated", "mask", "positions:0:2"])
def test_scopes_and_gates(scope):
    model = build("llama")
    gate = ProbeGate("model.layers.1", torch.ones(24), -1e6)  # never opens by itself
    report = verify(model, Steering(random_steering(model).transforms, scope=scope, gate=gate))
    assert report.ok, report
    assert by_name(report)["folded = attached"].ok is None


def test_a_site_that_is_passed_by_is_found():
    model = build("llama")
    steering = random_steering(model)
    block, norm = model.model.layers[1], model.model.layers[1].input_layernorm

    def fuse(block, args):
        """A kernel that does the norm's work without calling the module."""
        vars(block)["input_layernorm"] = norm.forward

    def part(block, args, output):
        del vars(block)["input_layernorm"]

    block.register_forward_pre_hook(fuse)
    block.register_forward_hook(part)
    check = by_name(verify(model, steering))["applied at every site"]
    assert check.ok is False
    assert "model.layers.1.input_layernorm" in check.note


def test_a_steering_of_zeros_has_no_effect():
    model = build("llama")
    report = verify(model, Steering.identity(model))
    assert not report.ok
    assert by_name(report)["effect"].ok is False


def test_a_bias_without_a_home_is_no_failure_but_is_said():
    model = build("llama")
    report = verify(model, random_steering(model))
    check = by_name(report)["folded = attached"]
    assert (check.ok, report.ok) == (None, True)
    assert "model.norm" in check.note


def test_what_cannot_be_attached_raises():
    with pytest.raises(SteeringError, match="no module"):
        verify(build("llama"), Steering({"model.nothing": Affine(torch.ones(24))}))


def test_the_models_own_generation_settings_do_not_matter():
    model = build("llama")
    model.generation_config.num_beams = model.generation_config.prompt_lookup_num_tokens = 2
    assert verify(model, random_steering(model), strength=0.7).ok
    assert model.generation_config.num_beams == 2


def test_dropout_is_off_meanwhile():
    model = build("gpt2").train()
    model.transformer.h[0].eval()
    report = verify(model, random_steering(model), strength=0.7)
    assert report.ok, report
    assert model.training
    assert not model.transformer.h[0].attn.training


def test_a_vision_language_model_that_is_given_no_mask():
    model = build("gemma3-vlm")
    report = verify(model, random_steering(model, scope="last_prompt+generated"), strength=0.7)
    assert by_name(report)["cached = uncached"].ok, report
