"""The command line in this process, on a tiny model and a tiny task, in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_words import QUICK
from transformers import LlamaConfig, LlamaForCausalLM

from equipoise.cli import main
from equipoise.models import Model
from equipoise.tasks import write_jsonl
from small_tasks import small_task


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def last(self) -> str:
        """The last line on stderr."""
        return self.err.rstrip("\n").rpartition("\n")[2]


Cli = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # What the command line sets for its own process must not outlive a test.
    for name in ("OMP_WAIT_POLICY", "TQDM_DISABLE", "COLUMNS"):
        monkeypatch.setenv(
            name, {"OMP_WAIT_POLICY": "PASSIVE", "TQDM_DISABLE": "1"}.get(name, "120")
        )
    for name in ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY", "DATASETS_VERBOSITY"):
        monkeypatch.setenv(name, "error")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*words: object) -> Outcome:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def checkpoint(bundled: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama with the bundled tokenizer, as a checkpoint folder."""
    folder = tmp_path_factory.mktemp("model") / "tiny-llama"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(bundled.tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.4,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    bundled.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def task_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of 16 ambiguous items and 4 anchors a split."""
    path = tmp_path_factory.mktemp("task") / "small.jsonl"
    write_jsonl(small_task(), path)
    return path


@pytest.fixture(scope="session")
def artifact(checkpoint: Path, task_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``equipoise fit`` leaves."""
    out = tmp_path_factory.mktemp("fit") / "steering"
    words = ["fit", str(checkpoint), "--task", str(task_file), "--out", str(out), "--quiet"]
    assert main([*words, *QUICK]) == 0
    return out
