"""Models whose state cannot be gone on from like a key-value cache, or that count padding."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from architectures.checks import random_steering
from architectures.tiny import build

from equipoise.decisions.batch import batches
from equipoise.decisions.encode import Encoded
from equipoise.decisions.ladder import climb
from equipoise.decisions.suffixes import keeps_keys
from equipoise.models import Model
from equipoise.steering import Steering

KEEP_A_STATE = [
    ("mamba", "MambaForCausalLM"),
    ("jamba", "JambaForCausalLM"),
    ("falcon_h1", "FalconH1ForCausalLM"),
    ("qwen3_5_text", "Qwen3_5ForCausalLM"),
    ("lfm2_moe", "Lfm2MoeForCausalLM"),
]
COUNT_PADDING = [
    ("recurrent_gemma", "RecurrentGemmaForCausalLM"),
    ("rwkv", "RwkvForCausalLM"),
    ("bart", "BartForCausalLM"),
]
KEEP_KEYS = [("llama", "LlamaForCausalLM"), ("gemma3_text", "Gemma3ForCausalLM")]
STRENGTHS = [0.0, 1.0]


def row(prompt: int, *options: tuple[int, ...]) -> Encoded:
    """A prompt of so many tokens, and options."""
    return Encoded(
        tuple(7 + (5 * prompt + 3 * i) % 50 for i in range(prompt)), options, (prompt - 1,)
    )


# Prompts of different lengths, options of one token and of several.
ROWS = [
    row(4, (7,), (9,)),
    row(19, (7, 8, 12), (9,)),
    row(11, (7, 8), (9, 10, 11, 14)),
    row(11, (20, 21), (7,)),
]


def slow(model: PreTrainedModel, item: Encoded, steering: Steering, strength: float) -> list[float]:
    """Every option read on its own in one row, nothing kept, nothing padded."""
    scores = []
    for option in item.suffixes:
        ids = torch.tensor([item.prefix + option])
        with torch.no_grad(), steering.applied(model, strength) as attachment:
            attachment.prompt_lengths = [len(item.prefix)]
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        log_probs = logits.logits[0, len(item.prefix) - 1 :].double().log_softmax(-1)
        scores.append(sum(log_probs[i, token].item() for i, token in enumerate(option)))
    return scores


@pytest.mark.parametrize("scope", ["all", "last_prompt+generated"])
@pytest.mark.parametrize(("kind", "name"), [*KEEP_A_STATE, *COUNT_PADDING, *KEEP_KEYS])
def test_a_batch_is_the_slow_reading(kind: str, name: str, scope: str) -> None:
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {kind}")
    model = build(kind, name)
    steering = Steering(random_steering(model).transforms, scope=scope)
    found: dict[int, list[float]] = {}
    for index, scores, _ in climb(Model(model, None), ROWS, steering, STRENGTHS, 4096, None):
        table = scores.options.reshape(len(index), len(STRENGTHS), -1)
        found |= {i: table[place].tolist() for place, i in enumerate(index)}
    for i, item in enumerate(ROWS):
        for k, strength in enumerate(STRENGTHS):
            assert found[i][k] == pytest.approx(slow(model, item, steering, strength), abs=1e-3)


@pytest.mark.parametrize(("kind", "name"), [*KEEP_A_STATE, *COUNT_PADDING, *KEEP_KEYS])
def test_which_caches_are_gone_on_from(kind: str, name: str) -> None:
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {kind}")
    assert keeps_keys(build(kind, name)) == (kind in ("llama", "gemma3_text", "bart"))


def test_rows_of_a_model_that_counts_padding_are_of_one_length() -> None:
    model = build("rwkv", "RwkvForCausalLM")
    lengths = [{len(row.prefix) for row in batch.rows} for batch in batches(model, ROWS, 4096)]
    assert sorted(map(tuple, lengths)) == [(4,), (11,), (19,)]
