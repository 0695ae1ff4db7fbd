"""verify: passes where all is well, and says what is wrong where it is not."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from steering_zoo import FAMILIES, build, random_steering
from transformers import (
    BertConfig,
    BertLMHeadModel,
    MllamaForCausalLM,
    XLNetConfig,
    XLNetLMHeadModel,
)
from transformers.models.mllama import MllamaTextConfig

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


def pass_by_the_norm(block):
    """As a kernel that does the norm's work without calling the module."""
    norm = block.input_layernorm

    def fuse(block, args):
        vars(block)["input_layernorm"] = norm.forward

    def part(block, args, output):
        del vars(block)["input_layernorm"]

    block.register_forward_pre_hook(fuse)
    block.register_forward_hook(part)


def test_a_site_that_is_passed_by_is_found():
    model = build("llama")
    steering = random_steering(model)
    pass_by_the_norm(model.model.layers[1])
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


def test_compiled_code_is_what_is_checked():
    model, ran = build("llama", num_hidden_layers=1), []

    def counting(graph, inputs):
        def run(*args):
            ran.append(graph)
            return graph(*args)

        return run

    try:
        assert verify(torch.compile(model, backend=counting), random_steering(model)).ok
    finally:
        torch.compiler.reset()  # other tests' models share the code
    assert ran


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


def mllama():
    """Two of its four blocks attend to an image, and do not run without one."""
    size = {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    torch.manual_seed(0)
    config = MllamaTextConfig(**size, cross_attention_layers=[1, 3])
    return MllamaForCausalLM(config).eval().requires_grad_(False)


def test_blocks_that_wait_for_an_image_are_not_checked():
    model = mllama()
    steering = random_steering(model)
    report = verify(model, steering, strength=0.7)
    check = by_name(report)["applied at every site"]
    assert (check.ok, report.ok) == (None, True)
    assert "layers.1.input_layernorm" in check.note
    assert "layers.2.input_layernorm" not in check.note
    waiting = {key: t for key, t in steering.transforms.items() if ".1." in key or ".3." in key}
    check = by_name(verify(model, Steering(waiting)))["applied at every site"]
    assert (check.ok, check.measured) == (False, 4)


def test_the_blocks_that_wait_do_not_excuse_the_others():
    model = mllama()
    steering = random_steering(model)
    pass_by_the_norm(model.model.layers[2])
    check = by_name(verify(model, steering))["applied at every site"]
    assert (check.ok, check.note) == (False, "not applied at model.layers.2.input_layernorm")


@pytest.mark.parametrize("shape", [(2, 1), (1, 4), (4,)])
def test_prompts_that_would_show_nothing(shape):
    model = build("llama")
    ids = torch.full(shape, 5)
    with pytest.raises(SteeringError, match="two rows or more, of two tokens or more each"):
        verify(model, random_steering(model), input_ids=ids)


def test_a_model_that_wants_more_than_token_ids():
    model = build("llama")

    def look(module, args, kwargs):
        raise ValueError("You have to specify pixel_values\nor image_embeds")

    model.register_forward_pre_hook(look, with_kwargs=True)
    with pytest.raises(SteeringError, match=r"ids alone fails \(ValueError: .* pixel_values\)$"):
        verify(model, random_steering(model))


@pytest.mark.parametrize("error", [MemoryError, torch.cuda.OutOfMemoryError])
def test_a_want_of_memory_is_said_as_such(error):
    model = build("llama")

    def fill(module, args):
        raise error("no more")

    model.register_forward_pre_hook(fill)
    with pytest.raises(error, match="no more"):
        verify(model, random_steering(model))


def test_a_base_that_cannot_generate():
    model = build("llama")

    def look(module, args, kwargs):
        if kwargs.get("past_key_values") is not None:
            raise ValueError("no cache here")

    model.register_forward_pre_hook(look, with_kwargs=True)
    check = by_name(verify(model, random_steering(model)))["cached = uncached"]
    assert check.ok is None
    assert "generate fails (ValueError: no cache here)" in check.note


def test_a_base_whose_cached_pass_is_another():
    """A bidirectional one: a cached token has not seen what comes after it."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=61,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        initializer_range=0.5,
        pad_token_id=0,
        eos_token_id=None,
    )
    model = BertLMHeadModel(config).eval().requires_grad_(False)
    report = verify(model, random_steering(model, scale=0.02), strength=0.7)
    check = by_name(report)["cached = uncached"]
    assert (check.ok, report.ok) == (None, True), report
    assert "the base's own cached pass differs by" in check.note


def test_what_this_model_refuses_is_not_checked():
    torch.manual_seed(0)
    model = XLNetLMHeadModel(
        XLNetConfig(vocab_size=61, d_model=24, n_layer=2, n_head=4, d_inner=32)
    )
    report = verify(model, random_steering(model))
    check = by_name(report)["per-row strength = single calls"]
    assert (check.ok, report.ok) == (None, True), report
    assert check.note.startswith("refused: ")
