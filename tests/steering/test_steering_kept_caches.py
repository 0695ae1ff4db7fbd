"""A cache kept for another call gives what an uncached call gives, or an error."""

from __future__ import annotations

import copy

import pytest
import torch
from steering_oracle import greedy, steered_logits
from steering_runs import NEW, run
from steering_zoo import build, padded, prompts, random_steering
from transformers import (
    DynamicCache,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
    ReformerConfig,
    ReformerModelWithLMHead,
)

from equipoise.errors import SteeringError
from equipoise.steering import Steering
from equipoise.steering.attach.cache import grew

STRENGTH = 0.8
TOLD_BY_PROMPT = ["prompt", "last_prompt", "generated", "last_prompt+generated"]
SCOPES = ["all", "positions:1:4", "prompt+generated", *TOLD_BY_PROMPT]
KEPT = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True}


def whole():
    """One prompt, int64 [1, 9]."""
    return torch.tensor([prompts()[1]])


def recomputed(found, model, plain, ids, scope, strength=STRENGTH):
    """Tokens and logits of a generation are those of the full recomputation."""
    tokens, logits = greedy(model, plain, ids[0].tolist(), strength, scope, NEW)
    assert found[0][0].tolist() == tokens
    torch.testing.assert_close(found[1][0], logits, atol=2e-4, rtol=1e-4)


def cached(model, ids, **settings):
    cache = DynamicCache(**settings)
    with torch.no_grad():
        model(ids, past_key_values=cache)
    return cache


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_two_turns_on_one_cache(family, scope):
    model = build(family)
    plain, first = random_steering(model), whole()[:, :4]
    with Steering(plain.transforms, scope=scope).applied(model, strength=STRENGTH):
        out = model.generate(first, attention_mask=torch.ones_like(first), **KEPT)
        second = torch.cat([out.sequences, whole()[:, 4:]], 1)
        mask = torch.ones_like(second)
        if scope in TOLD_BY_PROMPT:
            with pytest.raises(SteeringError, match="prompts of other lengths"):
                run(model, second, mask, past_key_values=out.past_key_values)
            return
        found = run(model, second, mask, past_key_values=out.past_key_values)
    recomputed(found, model, plain, second, scope)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_beginning_cached_before_its_prompt(scope):
    """Only a last token that turns out not to be the last was steered for nothing."""
    model = build("llama")
    plain = random_steering(model)
    with Steering(plain.transforms, scope=scope).applied(model, strength=STRENGTH) as attachment:
        cache = cached(model, whole()[:, :5])
        if "last_prompt" in scope:
            with pytest.raises(SteeringError, match="would steer cached tokens otherwise"):
                run(model, whole(), None, past_key_values=cache)
            attachment.prompt_lengths = [9]
            cache = cached(model, whole()[:, :5])
        found = run(model, whole(), None, past_key_values=cache)
    recomputed(found, model, plain, whole(), scope)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_beginning_cached_unsteered(scope):
    model = build("llama")
    plain, cache = random_steering(model), cached(model, whole()[:, :5])
    with Steering(plain.transforms, scope=scope).applied(model, strength=STRENGTH):
        if scope in ("last_prompt", "generated", "last_prompt+generated"):
            found = run(model, whole(), None, past_key_values=cache)
        else:
            with pytest.raises(SteeringError, match=r"strength 0, this call runs at 0\.8"):
                run(model, whole(), None, past_key_values=cache)
            return
    recomputed(found, model, plain, whole(), scope)


def test_rows_at_strength_zero_may_go_on_anywhere():
    model = build("llama")
    plain, ids = random_steering(model), whole().repeat(2, 1)
    scoped = Steering(plain.transforms, scope="last_prompt")
    with scoped.applied(model, strength=[0.0, 0.0]) as attachment:
        cache = cached(model, ids[:, :5])
        run(model, ids, None, past_key_values=copy.deepcopy(cache))
        attachment.strength = [0.0, 0.5]
        run(model, ids, None, past_key_values=cache)  # the last token is not cached
        cache = cached(model, ids[:, :5])
        attachment.strength = [0.5, 0.0]
        with pytest.raises(SteeringError, match=r"strength \[0\.0, 0\.5\]"):
            run(model, ids, None, past_key_values=cache)


def test_a_loop_by_hand_whose_prompts_change():
    model = build("llama")
    plain = random_steering(model)
    with Steering(plain.transforms, scope="generated").applied(model, STRENGTH) as attachment:
        cache = cached(model, whole())
        step = model(whole()[:, :1], past_key_values=cache).logits[0, -1]
        attachment.prompt_lengths = [12]
        with pytest.raises(SteeringError, match="prompts of other lengths"):
            model(whole()[:, :2], past_key_values=cache)
    row = whole()[0].tolist()
    wanted = steered_logits(model, plain, [*row, row[0]], [0.0] * 9 + [STRENGTH])[-1]
    torch.testing.assert_close(step, wanted, atol=2e-4, rtol=1e-4)


def test_a_cache_cropped_below_its_prompt_does_not_tell_it():
    model = build("llama")
    scoped = Steering(random_steering(model).transforms, scope="last_prompt")
    with scoped.applied(model, STRENGTH), torch.no_grad():
        cache = cached(model, whole())
        model(whole()[:, :2][:, -1:], past_key_values=cache)
        cache.crop(-1)  # a token that was generated, as a hand-written draft loop does
        model(whole()[:, :1], past_key_values=cache)
        cache.crop(-6)
        with pytest.raises(SteeringError, match="cannot tell where the prompt ends"):
            model(whole()[:, 4:5], past_key_values=cache)


@pytest.mark.parametrize("scope", ["last_prompt", "positions:0:3"])
def test_packed_sequences_are_refused(scope):
    model = build("llama")
    ids = torch.cat([whole(), whole()[:, :4]], 1)
    packed = torch.cat([torch.arange(9), torch.arange(4)])[None]
    call = {"input_ids": ids, "position_ids": packed, "use_cache": False}
    plain = random_steering(model)
    with plain.applied(model, STRENGTH):  # every token alike: whose it is does not matter
        found = model(**call).logits[0, 9:]
    with Steering(plain.transforms, scope=scope).applied(model, STRENGTH) as attachment:
        with pytest.raises(SteeringError, match="position_ids start anew"):
            model(**call)
        with pytest.raises(SteeringError, match="cu_seq_lens_q says so"):
            model(ids, use_cache=False, cu_seq_lens_q=torch.tensor([0, 9, 13]))
        attachment.strength = 0.0
        model(**call)
    row = ids[0, 9:].tolist()
    wanted = steered_logits(model, plain, row, [STRENGTH] * 4)
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("scope", ["last_prompt", "generated", "positions:1:4"])
def test_new_tokens_alone_are_refused_after_a_cache(scope):
    """Without a mask transformers takes them for the whole prompt, shorter than what is cached."""
    model = build("llama")
    with Steering(random_steering(model).transforms, scope=scope).applied(model, STRENGTH):
        cache = cached(model, whole())
        with pytest.raises(SteeringError, match="pass attention_mask to generate"):
            model.generate(whole()[:, :2], past_key_values=cache, **KEPT)


def test_a_packed_sequence_of_one_token_is_one():
    model = build("llama")
    packed = torch.cat([torch.zeros(1, dtype=torch.long), torch.arange(8)])[None]
    with (
        Steering(random_steering(model).transforms, scope="last_prompt").applied(model),
        pytest.raises(SteeringError, match="position_ids start anew"),
    ):
        model(whole(), position_ids=packed, use_cache=False)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_may_have_any_position(side):
    model = build("llama")
    ids, mask = padded(prompts(), side)
    positions = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)
    call = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    steering = random_steering(model, scope="last_prompt")
    with steering.applied(model, STRENGTH), torch.no_grad():
        model(position_ids=positions, **call)


@pytest.mark.parametrize("scope", ["prompt", "last_prompt+generated"])
def test_reformer_whose_cache_does_not_count(scope, monkeypatch):
    torch.manual_seed(0)
    model = ReformerModelWithLMHead(
        ReformerConfig(
            is_decoder=True,
            vocab_size=61,
            attn_layers=["local", "local"],
            hidden_size=32,
            num_attention_heads=2,
            attention_head_size=16,
            feed_forward_size=32,
            axial_pos_shape=[8, 8],
            axial_pos_embds_dim=[16, 16],
            max_position_embeddings=64,
            initializer_range=0.5,
            eos_token_id=None,
        )
    ).eval()
    plain, ids = random_steering(model), whole()[:, :6]
    with Steering(plain.transforms, scope=scope).applied(model, strength=STRENGTH):
        found = run(model, ids, torch.ones_like(ids))
        again = run(model, ids, torch.ones_like(ids), use_cache=False)
        torch.testing.assert_close(found[1], again[1], atol=2e-4, rtol=1e-4)
        monkeypatch.setattr("equipoise.steering.attach.cache.CACHES", ("past_key_values",))
        with pytest.raises(SteeringError, match="cannot be told of this model"):
            run(model, ids, torch.ones_like(ids))


@pytest.mark.parametrize("scope", ["all", "last_prompt"])
def test_a_state_space_cache_that_was_filled_unsteered(scope):
    model = build("mamba")
    with torch.no_grad():
        cache = model(whole(), use_cache=True).cache_params
        steering = random_steering(model, scope=scope)
        with (
            steering.applied(model, STRENGTH),
            pytest.raises(SteeringError, match=r"strength 0, this call|cannot be told"),
        ):
            model(whole()[:, :1], cache_params=cache, use_cache=True)


@pytest.mark.parametrize(
    "value", [[-1], [0], 0, [], [3.5], [True], [[3]], "three", torch.tensor([2.0])]
)
def test_prompt_lengths_that_mean_nothing(value):
    model = build("llama")
    with random_steering(model, scope="prompt").applied(model) as attachment:
        with pytest.raises(SteeringError, match="prompt_lengths must be an integer of 1 or more"):
            attachment.prompt_lengths = value
        assert attachment.prompt_lengths is None


def test_prompt_lengths_of_an_earlier_pass_do_not_reach_generate():
    model = build("llama")
    plain = random_steering(model)
    with Steering(plain.transforms, scope="last_prompt").applied(model, STRENGTH) as attachment:
        attachment.prompt_lengths = [4]
        with torch.no_grad():
            model(whole())
        with pytest.raises(SteeringError, match=r"prompt_lengths \[4\] are not those"):
            run(model, whole(), None)
        attachment.prompt_lengths = torch.tensor([9], dtype=torch.int32)
        found = run(model, whole(), None)
    recomputed(found, model, plain, whole(), "last_prompt")


@pytest.mark.parametrize("scope", ["all", *TOLD_BY_PROMPT])
def test_a_steered_draft_model_remembers_the_prompt(scope):
    """It is asked again and again, with what was accepted; that is not its prompt."""
    model, draft = build("llama"), build("llama", num_hidden_layers=2)
    ids = (whole()[:, :4].repeat(1, 3))[:, :9]
    wanted, _ = run(model, ids, torch.ones_like(ids))
    seen = []
    with random_steering(draft, scope=scope).applied(draft, STRENGTH) as attachment:
        runtime = attachment.runtime
        draft.register_forward_hook(
            lambda *_: seen.append((runtime.forward.past, *runtime.forward.prompt_lengths()))
        )
        found, _ = run(model, ids, torch.ones_like(ids), assistant_model=draft)
    assert torch.equal(found, wanted)
    assert max(past for past, _ in seen) > 9
    assert {int(length) for _, length in seen} == {9}


def recurrent_gemma():
    """Its backbone fills the cache it is given, and returns none."""
    torch.manual_seed(0)
    config = RecurrentGemmaConfig(
        vocab_size=61,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        lru_width=24,
        attention_window_size=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    return RecurrentGemmaForCausalLM(config).eval().requires_grad_(False)


@pytest.mark.parametrize("scope", ["all", "last_prompt+generated"])
def test_a_cache_that_the_model_fills_and_does_not_return(scope):
    model = recurrent_gemma()
    plain = random_steering(model)
    with Steering(plain.transforms, scope=scope).applied(model, STRENGTH) as attachment:
        found = run(model, whole(), torch.ones_like(whole()))
        cache = cached(model, whole()[:, :5], config=model.config)
        attachment.strength = 0.0
        with pytest.raises(SteeringError, match=r"filled at strength 0\.8, this call runs at 0"):
            model(whole()[:, 5:6], past_key_values=cache)
    recomputed(found, model, plain, whole(), scope)


def test_a_cache_filled_by_a_pass_that_returns_none_of_it():
    model, cache = build("llama"), DynamicCache()
    with torch.no_grad(), random_steering(model).applied(model, STRENGTH) as attachment:
        model(whole()[:, :5], past_key_values=cache, use_cache=False)
        attachment.strength = 0.0
        with pytest.raises(SteeringError, match=r"filled at strength 0\.8"):
            model(whole()[:, 5:6], past_key_values=cache)


def test_a_cache_that_a_pass_left_aside_has_not_grown():
    cache = DynamicCache()
    assert not grew(cache, 0)
    cache.update(torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2), 0)
    assert grew(cache, 0)
    assert not grew(cache, 3)
    assert not grew((), 0)
