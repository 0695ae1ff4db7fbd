"""Shared fixtures: tiny models, and the real data where the folder is present."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from equipoise.models import Model, load

torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data; the test is skipped, saying so, where it is absent."""
    folder = os.environ.get("EQUIPOISE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("EQUIPOISE_DATA does not name the folder of real data")
    return Path(folder)


@pytest.fixture(scope="session")
def bundled() -> Model:
    """The bundled model."""
    return load("builtin:")


@pytest.fixture
def tiny(bundled: Model) -> Model:
    """A random two-layer Llama with the bundled tokenizer, read as a base model."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(bundled.tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.4,
    )
    hf = LlamaForCausalLM(config).eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(bundled.tokenizer.name_or_path)
    return Model(hf, tokenizer, name="tiny")
