"""Cached = uncached = full recomputation, in every mode of ``generate``."""

from __future__ import annotations

import pytest
import torch
from steering_oracle import greedy, steered_logits
from steering_runs import MODES, NEW, TWINS, run
from steering_zoo import FAMILIES, build, padded, prompts, random_steering
from transformers import GenerationConfig

from equipoise.errors import SteeringError
from equipoise.steering import Steering

SCOPES = ["all", "prompt", "last_prompt", "generated", "last_prompt+generated", "positions:1:4"]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_generation_is_the_full_recomputation(family, scope):
    model = build(family)
    plain = random_steering(model)
    steering = Steering(plain.transforms, scope=scope)
    rows, strengths = prompts(), [0.0, 1.0, 0.4]
    wanted = [greedy(model, plain, r, w, scope, NEW) for r, w in zip(rows, strengths, strict=True)]
    ids, mask = padded(rows, "left")
    with steering.applied(model, strength=strengths):
        for mode, settings in MODES.items():
            tokens, logits = run(model, ids, mask, **settings)
            for i, (new, scores) in enumerate(wanted):
                assert tokens[i].tolist() == new, (mode, i)
                torch.testing.assert_close(logits[i], scores, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("scope", ["all", "prompt", "generated"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_assisted_decoding_gives_the_greedy_tokens(family, scope):
    model, draft = build(family), build(family)
    plain = random_steering(model)
    # A repeating prompt, so that prompt lookup does propose tokens.
    rows = [(prompts()[0] * 3)[:8]]
    wanted, _ = greedy(model, plain, rows[0], 0.7, scope, NEW)
    ids, mask = padded(rows, "left")
    with Steering(plain.transforms, scope=scope).applied(model, strength=0.7):
        tokens, _ = run(model, ids, mask, prompt_lookup_num_tokens=2)
        assert tokens[0].tolist() == wanted
        tokens, _ = run(model, ids, mask, assistant_model=draft)
        assert tokens[0].tolist() == wanted


@pytest.mark.parametrize("scope", ["all", "last_prompt+generated"])
@pytest.mark.parametrize("family", FAMILIES)
def test_beams_keep_the_strength_of_their_prompt(family, scope):
    model = build(family)
    steering = Steering(random_steering(model).transforms, scope=scope)
    rows, strengths = prompts()[:2], [0.0, 1.0]
    beams = {"num_beams": 3, "max_new_tokens": NEW, "do_sample": False}
    single = []
    for row, strength in zip(rows, strengths, strict=True):
        with steering.applied(model, strength=strength):
            ids, mask = padded([row], "left")
            out = model.generate(ids, attention_mask=mask, **beams)
            single.append(out[0, len(row) :].tolist())
            again = model.generate(ids, attention_mask=mask, use_cache=False, **beams)
            assert again[0, len(row) :].tolist() == single[-1]
    ids, mask = padded(rows, "left")
    with steering.applied(model, strength=strengths):
        out = model.generate(ids, attention_mask=mask, **beams)
    assert out[:, ids.shape[1] :].tolist() == single


def test_one_strength_per_prompt_reaches_all_its_returned_sequences():
    model = build("llama")
    steering = random_steering(model)
    ids, mask = padded(prompts(), "left")
    settings = {"do_sample": True, "num_return_sequences": 2, "max_new_tokens": 4}
    sampled = {"output_logits": True, "return_dict_in_generate": True}
    with steering.applied(model, strength=[0.0, 0.5, 1.0]):
        out = model.generate(ids, attention_mask=mask, **settings, **sampled)
    for i, strength in enumerate([0.0, 0.0, 0.5, 0.5, 1.0, 1.0]):
        row = prompts()[i // 2]
        first = steered_logits(model, steering, row, [strength] * len(row))[-1]
        torch.testing.assert_close(out.logits[0][i], first, atol=2e-4, rtol=1e-4)


def test_one_strength_per_returned_sequence():
    model = build("llama")
    steering = random_steering(model)
    row = prompts()[1]
    ids, mask = padded([row], "left")
    settings = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 2}
    sampled = {"output_logits": True, "return_dict_in_generate": True}
    with steering.applied(model, strength=[0.0, 0.5, 1.0]):
        out = model.generate(ids, attention_mask=mask, **settings, **sampled)
    for i, strength in enumerate([0.0, 0.5, 1.0]):
        first = steered_logits(model, steering, row, [strength] * len(row))[-1]
        torch.testing.assert_close(out.logits[0][i], first, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 4, "num_return_sequences": 2}])
def test_strengths_that_fit_no_prompt_raise(settings):
    model = build("llama")
    ids, mask = padded(prompts(), "left")
    with (
        random_steering(model).applied(model, strength=[0.1] * 6),
        pytest.raises(SteeringError, match="6 strengths for 3 prompts"),
    ):
        model.generate(ids, attention_mask=mask, max_new_tokens=2, **settings)


def test_padding_that_only_the_model_can_tell():
    """Without an attention mask, transformers takes the pad tokens for padding; so must we."""
    model = build("llama")
    ids, mask = padded(prompts(), "left")
    with random_steering(model, scope="prompt").applied(model):
        told, _ = run(model, ids, mask)
        found, _ = run(model, ids, None)
        assert torch.equal(told, found)
        with pytest.raises(SteeringError, match="attention_mask"):
            run(model, ids, None, cache_implementation="static")


def test_sampling_is_the_same_with_and_without_cache():
    model = build("qwen2")
    ids, mask = padded(prompts(), "left")
    with random_steering(model, scope="last_prompt+generated").applied(model, strength=0.8):
        outputs = []
        for use_cache in (True, False):
            torch.manual_seed(3)
            outputs.append(
                model.generate(
                    ids,
                    attention_mask=mask,
                    do_sample=True,
                    max_new_tokens=8,
                    use_cache=use_cache,
                )
            )
    assert torch.equal(*outputs)


@pytest.mark.parametrize("scope", ["all", "prompt", "generated"])
def test_state_space_model(scope):
    model = build("mamba")
    plain = random_steering(model)
    rows = [r for r in prompts() if len(r) == 9]
    wanted, scores = greedy(model, plain, rows[0], 0.9, scope, NEW)
    ids, mask = padded(rows, "left")
    with Steering(plain.transforms, scope=scope).applied(model, strength=0.9):
        tokens, logits = run(model, ids, mask)
    assert tokens[0].tolist() == wanted
    torch.testing.assert_close(logits[0], scores, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("scope", ["all", "prompt", "last_prompt+generated"])
def test_images_among_the_prompts(scope):
    model = build("gemma3-vlm")
    steering = random_steering(model, scope=scope)
    rows = [[62, 63, 63, 63, 63, 61, 5, 9, 11], [63, 63, 63, 63, 7]]
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(4))

    def along(ids, mask, pixel_values, **settings):
        images = {"pixel_values": pixel_values, "token_type_ids": (ids == 63).long()}
        return run(model, ids, mask, **images, **settings)[1]

    ids, mask = padded(rows, "left")
    with steering.applied(model, strength=[0.5, 1.0]):
        found = along(ids, mask, pixels)
        for settings in ({"use_cache": False}, {"cache_implementation": "static"}):
            torch.testing.assert_close(along(ids, mask, pixels, **settings), found)
    for i, strength in enumerate([0.5, 1.0]):
        alone, ones = padded(rows[i : i + 1], "left")
        with steering.applied(model, strength=strength):
            wanted = along(alone, ones, pixels[i : i + 1])[0]
        torch.testing.assert_close(found[i], wanted, atol=2e-4, rtol=1e-4)


def test_settings_that_only_the_models_own_config_has():
    """A config given to generate leaves open what transformers takes from the model's."""
    model = build("llama")
    model.generation_config.pad_token_id = 0
    steering = random_steering(model, scope="last_prompt+generated")
    rows = prompts()
    ids, mask = padded(rows, "left")
    config = GenerationConfig(
        max_new_tokens=NEW, do_sample=False, output_scores=True, return_dict_in_generate=True
    )
    with steering.applied(model):
        found = torch.stack(model.generate(ids, generation_config=config).scores, 1)
        model.generation_config.guidance_scale = 1.7
        guided = model.generate(ids, attention_mask=mask, generation_config=config).scores
        config.guidance_scale = 1.7
        wanted = model.generate(ids, attention_mask=mask, generation_config=config).scores
    for row, scores in zip(rows, found, strict=True):
        slowly = greedy(model, steering, row, 1.0, "last_prompt+generated", NEW)[1]
        torch.testing.assert_close(scores, slowly, atol=2e-4, rtol=1e-4)
    assert torch.equal(torch.stack(guided), torch.stack(wanted))


def test_a_generation_within_another_has_its_own_prompt():
    model = build("llama")
    one, other = torch.tensor([prompts()[1]]), torch.tensor([prompts()[0]])
    found = []

    def first_logits(ids, **settings):
        return run(model, ids, torch.ones_like(ids), **settings)[1][:, 0]

    def ask_beside(ids, scores):
        found.append(first_logits(other))
        return scores

    with random_steering(model, scope="last_prompt").applied(model):
        wanted, alone = first_logits(other), first_logits(one)
        assert torch.equal(first_logits(one, logits_processor=[ask_beside]), alone)
    assert all(torch.equal(logits, wanted) for logits in found)


@pytest.mark.parametrize("scope", ["all", "last_prompt"])
def test_a_generate_that_drops_the_end_of_its_prompt(scope, monkeypatch):
    """As BLIP's does: the last prompt token it was given never goes through the model."""
    model = build("llama")
    generate = type(model).generate
    monkeypatch.setattr(
        type(model), "generate", lambda self, ids, **given: generate(self, ids[:, :-1], **given)
    )
    settings = {"max_new_tokens": 2, "do_sample": False}
    with random_steering(model, scope=scope).applied(model):
        if scope == "all":
            model.generate(TWINS, **settings)
            return
        with pytest.raises(SteeringError, match=r"given 9 prompt tokens .* on the first 8"):
            model.generate(TWINS, **settings)
