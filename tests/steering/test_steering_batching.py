"""Layouts that shapes do not tell: continuous batching, CUDA graphs, tokens before rows."""

from __future__ import annotations

import pytest
import torch
from steering_oracle import greedy
from steering_zoo import VOCABULARY, build, random_steering
from transformers import GenerationConfig, XLNetConfig, XLNetLMHeadModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from equipoise.errors import SteeringError

NEW = 4


@pytest.fixture
def model():
    return build("llama", attn_implementation="sdpa")


def rows():
    """Prompts that fill blocks of the paged cache, whose beginnings later requests share."""
    generator = torch.Generator().manual_seed(4)
    return torch.randint(3, VOCABULARY, (2, 40), generator=generator).tolist()


def served(model, **settings):
    """Tokens of each request, or what was wrong."""
    found = model.generate_batch(
        rows(),
        generation_config=GenerationConfig(max_new_tokens=NEW, do_sample=False, eos_token_id=-1),
        continuous_batching_config=ContinuousBatchingConfig(
            num_blocks=32, block_size=16, max_batch_tokens=96
        ),
        progress_bar=False,
        **settings,
    )
    answers = [found[name] for name in sorted(found)]
    return [answer.error or list(answer.generated_tokens) for answer in answers]


def test_continuous_batching_takes_one_strength(model):
    steering = random_steering(model)
    wanted = {
        w: [greedy(model, steering, row, w, "all", NEW)[0] for row in rows()] for w in (0.0, 1.0)
    }
    with steering.applied(model) as attachment:
        assert served(model) == wanted[1.0]
        attachment.strength = 0.0
        assert served(model) == wanted[0.0]
        attachment.strength = [0.0, 1.0]
        assert all("one strength for all" in error for error in served(model))
    with random_steering(model, scope="last_prompt").applied(model):
        assert all("no token scope or gate" in error for error in served(model))


def test_blocks_of_another_strength_are_not_shared(model):
    with random_steering(model).applied(model) as attachment:
        served(model, persistent_manager=True)
        attachment.strength = 0.5
        assert all("another strength" in e for e in served(model, persistent_manager=True))
        model.destroy_cached_continuous_batching_manager()
        served(model, persistent_manager=True)
    after = served(model, persistent_manager=True)
    model.destroy_cached_continuous_batching_manager()
    assert after == served(model, persistent_manager=True)
    with pytest.raises(SteeringError, match="destroy_cached_continuous_batching_manager"):
        random_steering(model).attach(model)
    model.destroy_cached_continuous_batching_manager()


def test_no_graph_is_captured_of_a_steered_pass(model, monkeypatch):
    ids = torch.tensor(rows())
    with random_steering(model).applied(model):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        with pytest.raises(SteeringError, match="CUDA graph"):
            model(ids)
        monkeypatch.undo()
        model(ids)


def test_tokens_before_rows():
    """As many rows as tokens: strengths would fit the wrong dimension."""
    torch.manual_seed(0)
    config = XLNetConfig(vocab_size=VOCABULARY, d_model=24, n_layer=2, n_head=4, d_inner=32)
    model = XLNetLMHeadModel(config).eval().requires_grad_(False)
    ids = torch.tensor(rows())[:, :2]
    steering = random_steering(model)
    refused = pytest.raises(SteeringError, match=r"\[tokens, rows, d\]")
    with steering.applied(model, strength=[0.0, 1.0]), refused:
        model(ids)
    with steering.applied(model, strength=0.5), torch.no_grad():
        together = model(ids).logits
        torch.testing.assert_close(together[1:], model(ids[1:]).logits)
