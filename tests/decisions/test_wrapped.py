"""Models in wrappers, and others that do not say what they take, are read as each row alone."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from architectures.tiny import build

from equipoise.decisions import trials
from equipoise.decisions.arguments import takes_positions
from equipoise.decisions.batch import batches, counts_padding
from equipoise.decisions.encode import Encoded
from equipoise.decisions.ladder import climb
from equipoise.decisions.packing import reads_trees
from equipoise.decisions.prefixes import may_share, shared_lengths
from equipoise.errors import EquipoiseError
from equipoise.models import Model

STEM = tuple(range(7, 27))
ROWS = [
    Encoded((*STEM, *range(30, 30 + n)), ((7, 9, 12), (8,)), (len(STEM) + n - 1,))
    for n in (1, 2, 6, 13)
]
ROWS += [Encoded((40, 41, 42), ((43,), (44, 45)), (2,))]
GPT2 = ("gpt2", "GPT2LMHeadModel")
LLAMA = ("llama", "LlamaForCausalLM")


class Wrapper(nn.Module):
    """Hands on what it gets, and does not say what it takes."""

    def __init__(self, inner: PreTrainedModel) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config
        self.get_input_embeddings = inner.get_input_embeddings
        self.eval()

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


class Adapter(Wrapper):
    """Looked through, as PEFT's."""

    def get_base_model(self) -> nn.Module:
        return self.inner


class Deaf(Wrapper):
    """Keeps positions to itself."""

    def forward(self, *args, **kwargs):
        kwargs.pop("position_ids", None)
        return self.inner(*args, **kwargs)


class Prompted(Wrapper):
    """Reads three tokens of its own first, as in prompt tuning."""

    def forward(self, input_ids, attention_mask, **kwargs):
        own = torch.ones_like(input_ids[:, :1]).expand(-1, 3)
        return self.inner(
            torch.cat([own, input_ids], 1),
            attention_mask=torch.cat([own, attention_mask], 1),
            **kwargs,
        )


def compiled(model: PreTrainedModel) -> nn.Module:
    return torch.compile(Adapter(model), backend="eager")


def alone(model: nn.Module) -> np.ndarray:
    """Scores [rows, options] by the slow reading: each option in a pass of its own."""
    found = np.zeros((len(ROWS), 2))
    for i, row in enumerate(ROWS):
        for k, option in enumerate(row.suffixes):
            ids = torch.tensor([row.prefix + option])
            with torch.no_grad():
                steps = model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1)
            at = range(len(row.prefix), ids.shape[1])
            found[i, k] = sum(float(steps[t - 1, ids[0, t]]) for t in at)
    return found


def together(model: nn.Module, budget: int = 4096) -> np.ndarray:
    """The same as audits do it."""
    found = np.zeros((len(ROWS), 2))
    for index, scores, _ in climb(Model(model, None), ROWS, None, [0.0], budget, None):
        found[index] = scores.options.numpy()
    return found


@pytest.mark.parametrize(
    ("wrap", "architecture"),
    itertools.product((compiled, Adapter, Wrapper, Deaf), (GPT2, LLAMA)),
)
def test_wrapped_models(wrap: Callable[..., nn.Module], architecture: tuple[str, str]) -> None:
    plain = build(*architecture)
    model = wrap(plain)
    seen_through = wrap not in (Wrapper, Deaf)
    assert reads_trees(model) == may_share(model, None) == seen_through
    assert takes_positions(model) == (wrap is not Deaf)
    assert counts_padding(model) == (not seen_through and architecture == GPT2)
    with torch.compiler.set_stance("force_eager"):  # what it hands on is the same
        np.testing.assert_allclose(together(model), alone(plain), atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "name", "shared"),
    [
        (*LLAMA, True),
        ("moss_transcribe_diarize", "MossTranscribeDiarizeForConditionalGeneration", True),
        ("mpt", "MptForCausalLM", False),  # biases by column
        ("gpt_neo", "GPTNeoForCausalLM", False),  # windows by column
        ("bert", "BertLMHeadModel", False),  # no cache
        ("granite4_vision", "Granite4VisionForConditionalGeneration", False),
    ],
)
def test_shared_beginnings(kind: str, name: str, shared: bool, monkeypatch) -> None:
    """Whether rows share a sequence or not."""
    model = build(kind, name)
    assert any(shared_lengths(ROWS))
    assert may_share(model, None) == shared
    apart = together(model, budget=1)
    np.testing.assert_allclose(together(model), apart, atol=1e-4)
    monkeypatch.setattr("equipoise.decisions.ladder.packable_kinds", lambda *_: None)
    np.testing.assert_allclose(together(model), apart, atol=1e-4)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
@pytest.mark.parametrize("architecture", [GPT2, LLAMA])
def test_checkpointing_returns_no_cache(architecture: tuple[str, str]) -> None:
    model = build(*architecture)
    model.config.resid_pdrop = 0.0
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    expected = together(model)
    assert may_share(model.train(), None)
    model.gradient_checkpointing_enable()
    assert not may_share(model, None)
    np.testing.assert_allclose(together(model), expected, atol=1e-4)
    assert may_share(model.eval(), None)


def test_tokens_of_ones_own_are_refused() -> None:
    """They would move every score, and a cache that PEFT drops would move them further."""
    tuned = Adapter(build(*LLAMA))
    tuned.active_peft_config = SimpleNamespace(is_prompt_learning=True)
    for model in (Prompted(build(*LLAMA)), tuned):
        with pytest.raises(EquipoiseError, match=r"reads tokens of its own .* \(LoRA\)"):
            together(model)


def test_what_the_logits_do_not_tell_is_not_remembered() -> None:
    """Weights may be loaded after a model was first read."""
    columns, wrapped = build("mpt", "MptForCausalLM"), Wrapper(build(*GPT2))
    weights = {name: value.clone() for name, value in columns.state_dict().items()}
    with torch.no_grad():
        for name, parameter in columns.named_parameters():
            parameter.mul_(1e-4 if "out_proj" in name else 1)
        for parameter in wrapped.parameters():
            parameter.zero_()
    found = [reads_trees(columns), may_share(columns, None), takes_positions(wrapped)]
    assert not any(found)
    assert counts_padding(wrapped)
    assert not trials._KNOWN[wrapped]
    columns.load_state_dict(weights)
    np.testing.assert_allclose(together(columns), together(columns, budget=1), atol=1e-4)
    assert not reads_trees(columns)


def test_a_trial_is_run_once_and_memory_that_ran_out_is_no_answer() -> None:
    model = build(*LLAMA)
    fails = Mock(side_effect=ValueError)
    assert [trials.passes(model, fails) for _ in range(2)] == [False, False]
    assert fails.call_count == 1
    full = Mock(side_effect=torch.OutOfMemoryError)
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            trials.passes(model, full)
    assert full.call_count == 2


def test_forbidden_tokens_do_not_blind_a_trial() -> None:
    """Chameleon gives its image tokens the least number there is."""
    alone = torch.randn(3, 60, generator=torch.Generator().manual_seed(0))
    alone[:, ::3] = torch.finfo(torch.float32).min
    assert trials.agree(alone + 1e-6, alone)
    assert trials.agree(alone + 0.1, alone) is False
    assert trials.agree(alone, alone[:1].expand(3, -1)) is None


def test_rows_are_of_one_length_where_positions_do_not_arrive() -> None:
    model = Deaf(build(*GPT2))
    lengths = [{len(row.prefix) for row in batch.rows} for batch in batches(model, ROWS, 4096)]
    assert all(len(found) == 1 for found in lengths)
