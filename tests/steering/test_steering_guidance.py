"""Classifier-free guidance: scopes are told by the unconditional prompt, gates by the own one."""

from __future__ import annotations

import pytest
import torch
from steering_oracle import chosen, steered_logits
from steering_runs import MODES, NEW, run
from steering_zoo import FAMILIES, build, padded, prompts, random_steering
from test_steering_gates import gated
from torch import Tensor

from equipoise.errors import SteeringError
from equipoise.steering import Affine, ProbeGate, Steering

SCALE = 1.7
NEGATIVE = [7, 11, 13]


def guided(model, steering, prompt, strength, scope, negative=None) -> tuple[list[int], Tensor]:
    """Greedy tokens, and the guided scores [NEW, vocabulary]; everything recomputed each time."""
    own, other = list(prompt), list(negative or prompt[-1:])
    starts, scores = (len(own), len(other)), []
    for _ in range(NEW):
        told, untold = (
            steered_logits(
                model, steering, ids, [strength * on for on in chosen(scope, len(ids), start)]
            )[-1].log_softmax(-1)
            for ids, start in zip((own, other), starts, strict=True)
        )
        scores.append(untold + SCALE * (told - untold))
        token = int(scores[-1].argmax())
        own.append(token)
        other.append(token)
    return own[starts[0] :], torch.stack(scores)


def scored(model, ids, mask, **options) -> tuple[Tensor, Tensor]:
    """Tokens [rows, NEW] and guided scores [rows, NEW, vocabulary] of generate."""
    out = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=NEW,
        guidance_scale=SCALE,
        return_dict_in_generate=True,
        output_scores=True,
        **{"do_sample": False} | options,
    )
    return out.sequences[:, ids.shape[1] :], torch.stack(out.scores, dim=1)


@pytest.mark.parametrize("scope", ["prompt", "last_prompt+generated", "positions:1:4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_guidance_in_every_mode_is_the_full_recomputation(family, scope):
    model = build(family)
    steering = random_steering(model, scope=scope)
    wanted = [guided(model, steering, row, 0.8, scope) for row in prompts()]
    ids, mask = padded(prompts(), "left")
    with steering.applied(model, strength=0.8):
        for mode, options in MODES.items():
            tokens, scores = scored(model, ids, mask, **options)
            for i, (new, row) in enumerate(wanted):
                assert tokens[i].tolist() == new, (mode, i)
                torch.testing.assert_close(scores[i], row, atol=5e-4, rtol=1e-4)


@pytest.mark.parametrize("place", ["early", "late"])
@pytest.mark.parametrize("negative", [None, NEGATIVE])
def test_a_row_keeps_its_gates_decision(place, negative):
    model = build("llama")
    steering, decisions = gated(model, place, "generated")
    rows = zip(prompts(), decisions.tolist(), strict=True)
    wanted = [guided(model, steering, row, 0.8 * d, "generated", negative) for row, d in rows]
    ids, mask = padded(prompts(), "left")
    options = {"negative_prompt_ids": torch.tensor([negative] * len(ids))} if negative else {}
    with steering.applied(model, strength=0.8) as attachment:
        for mode in ({}, {"use_cache": False}):
            tokens, scores = scored(model, ids, mask, **options, **mode)
            assert torch.equal(attachment.decisions, decisions)
            for i, (new, row) in enumerate(wanted):
                assert tokens[i].tolist() == new
                torch.testing.assert_close(scores[i], row, atol=5e-4, rtol=1e-4)


@pytest.mark.parametrize("place", ["early", "late"])
def test_every_sequence_of_a_row_keeps_its_gates_decision(place):
    """Both of a prompt's are drawn from what guidance makes of its own decision."""
    model = build("llama")
    steering, decisions = gated(model, place, "generated")
    assert decisions.tolist() != decisions.roll(1).tolist()
    rows = zip(prompts(), decisions.tolist(), strict=True)
    wanted = [guided(model, steering, row, 0.8 * d, "generated") for row, d in rows]
    ids, mask = padded(prompts(), "left")
    cold = {"do_sample": True, "temperature": 1e-4, "top_k": 0}  # the likeliest, twice
    with steering.applied(model, strength=0.8):
        tokens, _ = scored(model, ids, mask, **cold, num_return_sequences=2)
    assert tokens.tolist() == [new for new, _ in wanted for _ in range(2)]


def test_a_strength_per_row_and_several_sequences():
    model = build("llama")
    steering = random_steering(model, scope="generated")
    ids, mask = padded(prompts(), "left")
    with steering.applied(model, strength=[0.1, 0.9, 0.5]) as attachment:
        together, _ = scored(model, ids, mask)
        for i, strength in enumerate((0.1, 0.9, 0.5)):
            attachment.strength = strength
            alone, _ = scored(model, torch.tensor([prompts()[i]]), None)
            assert together[i].tolist() == alone[0].tolist()
        attachment.strength = [0.1, 0.9, 0.5]
        torch.manual_seed(0)
        out = model.generate(
            ids,
            attention_mask=mask,
            guidance_scale=SCALE,
            do_sample=True,
            num_return_sequences=2,
            max_new_tokens=NEW,
        )
        assert out.shape[0] == 2 * len(ids)


def test_a_token_gate_reads_the_pass_it_is_in():
    model = build("llama")
    gate = ProbeGate("model.layers.0.input_layernorm", torch.zeros(24), unit="token")
    steering = random_steering(model)
    later = {k: t for k, t in steering.transforms.items() if ".0." not in k}
    ids, mask = padded(prompts(), "left")
    with Steering(later).applied(model, strength=0.8):  # σ(0) = ½ opens a hard gate everywhere
        wanted, _ = scored(model, ids, mask)
    with Steering(later, gate=gate).applied(model, strength=0.8):
        found, _ = scored(model, ids, mask)
    assert torch.equal(found, wanted)


def test_generate_is_itself_again_afterwards(caplog):
    model = build("llama")
    ids, mask = padded(prompts(), "left")
    before, _ = scored(model, ids, mask)
    caplog.clear()
    with random_steering(model, scope="generated").applied(model, strength=0.8):
        steered, _ = scored(model, ids, mask)
        run(model, ids, mask)
    assert not torch.equal(steered, before)
    assert torch.equal(scored(model, ids, mask)[0], before)
    assert not [r for r in caplog.records if "custom logits processor" in r.message]


def test_what_the_unconditional_prompt_cannot_be_told_raises():
    from transformers.generation import UnbatchedClassifierFreeGuidanceLogitsProcessor as Guidance

    model = build("llama")
    ids, mask = padded(prompts(), "left")
    key = "model.layers.1.input_layernorm"
    steering = Steering({key: Affine(torch.ones(24))}, "mask")
    with steering.applied(model), pytest.raises(SteeringError, match="scope 'mask'"):
        scored(model, ids, mask)
    steering = Steering({key: Affine(torch.ones(24))}, "generated")
    with steering.applied(model) as attachment:
        with pytest.raises(SteeringError, match="not guidance as a logits processor"):
            scored(model, ids, mask, logits_processor=[Guidance(SCALE, model)])
        attachment.prompt_lengths = [3, 9, 5]
        with pytest.raises(SteeringError, match="prompt_lengths"):
            scored(model, ids, mask)
