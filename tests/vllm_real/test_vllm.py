"""The real vLLM; ``scripts/test_vllm.sh`` makes an environment for it and runs this."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "steering"))

from steering_zoo import build, random_steering

from equipoise.errors import SteeringError
from equipoise.models import load
from equipoise.steering import Steering
from equipoise.steering.verify import verify
from equipoise.steering.vllm import WORKER, attach, check, probe

_spec = importlib.util.find_spec("vllm")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_spec is None or _spec.origin is None, reason="vllm is not installed"),
]
# Heads of 32: the smallest that vLLM's attention on CPU takes.
SIZE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 256,
}
GPT2 = {"n_embd": 64, "n_head": 2}


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("llama", torch.float32),
        ("qwen2", torch.float32),
        ("gemma3", torch.float32),
        ("gpt2", torch.float32),
        ("llama", torch.bfloat16),
        ("llama", torch.float16),
    ],
)
def test_attached_and_folded_are_the_same(family, dtype):
    model = build(family, **(GPT2 if family == "gpt2" else SIZE)).to(dtype)
    steering = Steering.identity(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in steering.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    report = verify(model, steering, strength=0.7, vllm=True)
    found = {entry.name: entry for entry in report.checks}
    for name in (check.LIVE, check.FOLDED):
        print(f"{family} {report.dtype}: {found[name]}")
        assert found[name].ok is True


def test_a_model_vllm_does_not_run_is_said_with_its_reason():
    """The bundled model's heads are of 24."""
    model = load("builtin:", dtype="float32", device="cpu")
    report = verify(model, random_steering(model.hf), vllm=True)
    assert report.ok
    assert "head_dim=24" in report.checks[-1].note


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    build("llama", **SIZE).save_pretrained(folder)
    return folder


def make(checkpoint, **settings):
    """An engine as users make it: in a process of its own, with a prefix cache."""
    from vllm import LLM

    return LLM(
        str(checkpoint),
        dtype="float32",
        worker_extension_cls=WORKER,
        skip_tokenizer_init=True,
        max_model_len=256,
        max_num_seqs=4,
        kv_cache_memory_bytes=2**26,
        gpu_memory_utilization=0.05,
        **settings,
    )


def test_one_engine_at_many_strengths(checkpoint):
    model = build("llama", **SIZE)
    steering = random_steering(model, scale=0.1)
    engine = make(checkpoint, enforce_eager=True, enable_prefix_caching=True)
    assert os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") != "0"
    generator = torch.Generator().manual_seed(3)
    # Longer than a block of the cache, so that a second request finds its prefix there.
    prompts = torch.randint(3, 61, (3, 160), generator=generator)
    request = probe.Request(str(checkpoint), "float32", prompts.tolist(), 4)

    def off(strength):
        out = probe._generate(engine, request)
        tokens = torch.tensor(out.tokens)
        with torch.no_grad(), steering.applied(model, strength):
            logprobs = model(tokens).logits.log_softmax(-1)[:, :-1]
        wanted = logprobs.gather(-1, tokens[:, 1:, None])[..., 0]
        return (torch.tensor(out.logprobs) - wanted).abs().max().item()

    def tokens():
        """Without prompt log-probabilities vLLM takes the prompt's prefix from its cache."""
        from vllm import SamplingParams

        settings = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, detokenize=False)
        asked = [{"prompt_token_ids": row} for row in prompts.tolist()]
        return [list(o.outputs[0].token_ids) for o in engine.generate(asked, settings)]

    def wanted(strength):
        with torch.no_grad(), steering.applied(model, strength):
            out = model.generate(prompts, max_new_tokens=8, do_sample=False)
        return out[:, prompts.shape[1] :].tolist()

    assert off(0.0) < 1e-4
    attachment = attach(engine, steering, 1.0)
    for strength in (1.0, 0.3, 0.0, 0.8):
        attachment.strength = strength
        assert tokens() == tokens() == wanted(strength)
        assert off(strength) < 1e-4
    attachment.detach()
    assert tokens() == wanted(0.0)
    assert off(0.0) < 1e-4
    with pytest.raises(SteeringError, match="no module"):
        attach(engine, Steering({"model.normm": steering.transforms["model.norm"]}))


def test_a_compiled_engine_raises(checkpoint):
    engine = make(checkpoint)
    with pytest.raises(SteeringError, match="enforce_eager"):
        attach(engine, random_steering(build("llama", **SIZE)))
