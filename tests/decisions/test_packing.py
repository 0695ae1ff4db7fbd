"""Rows that share a sequence are read as each is read alone."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPTNeoConfig, GPTNeoForCausalLM, PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from architectures.checks import random_steering
from architectures.tiny import build

from equipoise.decisions import packing, trials
from equipoise.decisions.batch import CACHED_PER_TOKEN, Batch, batches
from equipoise.decisions.encode import Encoded
from equipoise.decisions.ladder import climb
from equipoise.decisions.layout import lay_out
from equipoise.decisions.packing import packable_kinds, reads_trees
from equipoise.decisions.score import score
from equipoise.decisions.suffixes import keeps_all
from equipoise.models import Model
from equipoise.steering import ProbeGate, Steering

READ = [
    ("llama", "LlamaForCausalLM"),
    ("gpt2", "GPT2LMHeadModel"),
    ("gpt_neox", "GPTNeoXForCausalLM"),
    ("opt", "OPTForCausalLM"),
    ("mixtral", "MixtralForCausalLM"),
    ("qwen2_vl", "Qwen2VLForConditionalGeneration"),
    ("kosmos-2.5", "Kosmos2_5ForConditionalGeneration"),  # takes contiguous inputs only
]
NOT_READ = [
    ("bloom", "BloomForCausalLM"),  # biases of its own, by column
    ("gemma3_text", "Gemma3ForCausalLM"),  # windows
    ("mamba", "MambaForCausalLM"),  # states
]


def row(prompt: tuple[int, ...], *options: tuple[int, ...]) -> Encoded:
    return Encoded(prompt, options, (len(prompt) - 1,))


STEM = tuple(range(7, 16))
ROWS = [
    row((*STEM, 20, 21), (7,), (9,)),
    row((*STEM, 20), (7, 8, 12), (7, 8, 13), (9,)),
    row(STEM, (20, 21, 22), (9,)),  # its option goes the way of other prompts
    row((*STEM, 30, 31, 32, 33), (7, 8), (9, 10, 11)),
    row((40, 41, 42), (43,), (44, 45)),
    Encoded((*STEM, 50, 51), ((7,), (8, 9)), (8, 9, 10)),  # what its options share is measured
]


def scored(
    model: PreTrainedModel, steering: Steering | None, strengths: list[float], budget: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    """Scores [rows, strengths, options] and KL [strengths, rows]."""
    scores = np.full((len(ROWS), len(strengths), 3), -np.inf)
    kl = np.zeros((len(strengths), len(ROWS)))
    for index, found, divergence in climb(
        Model(model, None), ROWS, steering, strengths, budget, None
    ):
        table = found.options.reshape(len(index), len(strengths), -1).numpy()
        scores[index, :, : table.shape[2]] = table
        kl[:, index] = divergence
    return scores, kl


@pytest.fixture
def apart(monkeypatch):
    """A function that scores with every row in a sequence of its own."""

    def call(*given):
        with monkeypatch.context() as patched:
            patched.setattr("equipoise.decisions.ladder.packable_kinds", lambda *_: None)
            return scored(*given)

    return call


@pytest.mark.parametrize(("kind", "name"), [*READ, *NOT_READ])
def test_packed_rows_are_read_as_single_ones(kind: str, name: str, apart) -> None:
    model = build(kind, name)
    assert reads_trees(model) == ((kind, name) in READ)
    for steering, strengths in ((None, [0.0]), (random_steering(model), [0.0, 0.5, 1.0])):
        for budget in (20, 4096):
            packed, alone = (
                scored(model, steering, strengths, budget),
                apart(model, steering, strengths),
            )
            np.testing.assert_allclose(packed[0], alone[0], atol=2e-4, rtol=1e-4)
            np.testing.assert_allclose(packed[1], alone[1], atol=2e-4, rtol=1e-3)


def test_a_gate_keeps_rows_apart_that_it_treats_differently(apart) -> None:
    """Hard, soft; decisions follow their rows into the sequences."""
    model = build("llama", "LlamaForCausalLM")
    transforms = random_steering(model).transforms
    site, width = "model.layers.1", model.config.hidden_size
    weight = torch.randn(width, generator=torch.Generator().manual_seed(0))
    for soft in (False, True):
        gate = ProbeGate(site, weight, 0.0, unit="row", soft=soft)
        steering = Steering(transforms, gate=gate)
        packed, alone = scored(model, steering, [0.0, 1.0]), apart(model, steering, [0.0, 1.0])
        np.testing.assert_allclose(packed[0], alone[0], atol=2e-4, rtol=1e-4)
        np.testing.assert_allclose(packed[1], alone[1], atol=2e-4, rtol=1e-3)
        moved = packed[1][1] > 1e-6
        assert moved.any()
        assert soft or not moved.all()


def test_what_tells_tokens_of_a_row_apart_is_not_packed() -> None:
    model = build("llama", "LlamaForCausalLM")
    transforms = random_steering(model).transforms
    n = len(ROWS)
    with Steering(transforms).applied(model, 1.0) as attachment:
        assert packable_kinds(model, n, attachment) == [0.0] * n
        attachment.strength = torch.tensor([0.0, 1.0])
        assert packable_kinds(model, n) is None  # of another's steering: not ours to rearrange
    with Steering(transforms, scope="last_prompt").applied(model, 1.0) as attachment:
        assert packable_kinds(model, n, attachment) is None
        assert packable_kinds(model, n) is None
    gate = ProbeGate("model.layers.0", torch.ones(model.config.hidden_size), 0.0, unit="row")
    with Steering(transforms, gate=gate).applied(model, 1.0) as attachment:
        assert packable_kinds(model, n, attachment) is None  # it was not asked
        opens = torch.tensor([1.0, 0.0] * 3)
        assert packable_kinds(model, n, attachment, opens) == opens.tolist()


def test_a_model_that_ignores_the_mask_is_found_out(monkeypatch) -> None:
    model = build("llama", "LlamaForCausalLM")
    monkeypatch.setattr(trials, "_KNOWN", {})
    forward = model.forward

    def deaf(input_ids, attention_mask=None, position_ids=None, **kwargs):
        return forward(input_ids=input_ids, position_ids=position_ids, **kwargs)

    assert reads_trees(model)
    monkeypatch.setattr(trials, "_KNOWN", {})
    monkeypatch.setattr(model, "forward", deaf)
    assert not reads_trees(model)


def test_a_model_that_goes_by_columns_is_found_out() -> None:
    """GPT-Neo's windows, longer than any row tried, are cut from a causal mask by column."""
    torch.manual_seed(0)
    config = GPTNeoConfig(
        vocab_size=64,
        hidden_size=32,
        num_layers=2,
        attention_types=[[["global", "local"], 1]],
        num_heads=4,
        window_size=256,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = GPTNeoForCausalLM(config).eval()
    assert packing._reads_one(model) is False
    assert not keeps_all(model)


@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention", "of_ones_own"])
def test_attention_that_may_not_raise_is_not_tried(attention: str, monkeypatch) -> None:
    model = build("llama", "LlamaForCausalLM")
    monkeypatch.setattr(model.config, "_attn_implementation_internal", attention)
    monkeypatch.setattr(model, "forward", None)
    assert model.config._attn_implementation == attention
    assert not reads_trees(model)


def test_what_passes_is_not_remembered(monkeypatch) -> None:
    """Memory that ran out, dropout."""
    model = build("llama", "LlamaForCausalLM")
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    assert not reads_trees(model.train())
    monkeypatch.setattr(trials, "_KNOWN", {})
    model.eval()
    with monkeypatch.context() as patched:
        patched.setattr(packing, "_reads_one", Mock(side_effect=torch.OutOfMemoryError))
        with pytest.raises(torch.OutOfMemoryError):
            reads_trees(model)
    assert reads_trees(model)
    assert not reads_trees(model.train())
    assert reads_trees(model.eval())


def test_of_one_item_nothing_is_tried(monkeypatch) -> None:
    monkeypatch.setattr(packing, "reads_trees", Mock(side_effect=AssertionError))
    assert packable_kinds(build("llama", "LlamaForCausalLM"), 1) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_packed(dtype: torch.dtype, apart) -> None:
    model = build("llama", "LlamaForCausalLM").to(dtype)
    assert reads_trees(model)
    packed, alone = scored(model, None, [0.0])[0], apart(model, None, [0.0])[0]
    np.testing.assert_allclose(packed, alone, atol=0.1)


def test_gradients_are_those_of_rows_apart() -> None:
    model = build("llama", "LlamaForCausalLM")
    found = []
    for kinds in (None, [0] * len(ROWS)):
        steering = random_steering(model)
        with steering.applied(model, 1.0) as attachment:
            for batch in batches(model, ROWS, 4096, kinds=kinds):
                assert (batch.sequences is None) == (kinds is None)
                said = score(model, batch, attachment=attachment)
                base = torch.full_like(said.nodes, 1 / said.nodes.shape[1]).log()
                (said.options[said.options.isfinite()].sum() + said.kl(base).sum()).backward()
        found.append([p.grad for p in steering.parameters()])
    for packed, alone in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(packed, alone, atol=1e-4, rtol=1e-3)


token = st.integers(1, 3)
prompts = st.lists(token, min_size=1, max_size=8).map(tuple)
options = st.lists(st.lists(token, min_size=1, max_size=4).map(tuple), min_size=2, max_size=3)


@st.composite
def any_row(draw) -> Encoded:
    prompt = draw(prompts)
    first = draw(st.integers(0, len(prompt) - 1))
    return Encoded(prompt, tuple(draw(options)), tuple(range(first, len(prompt))))


@cache
def llama() -> PreTrainedModel:
    return build("llama", "LlamaForCausalLM")


@given(
    st.lists(any_row(), min_size=2, max_size=10),
    st.lists(st.integers(0, 1), min_size=10),
    st.data(),
)
def test_every_row_is_in_its_sequence_token_by_token(rows, kinds, data) -> None:
    """A token sees its own row up to itself, and each shared beginning is there once."""
    model = llama()
    kinds = kinds[: len(rows)]
    starts = [data.draw(st.integers(0, row.positions[0])) for row in rows]
    budget = data.draw(st.sampled_from([8, 60, 4096]))
    seen: list[int] = []
    for batch in batches(model, rows, budget, starts=starts, kinds=kinds):
        seen += batch.index
        lone = len(batch.sequences[0]) == 1 if batch.sequences else len(batch.rows) == 1
        assert batch.tokens <= budget or (lone and len(batch.first) == 1)
        assert batch.rows == [rows[i] for i in batch.index]
        if batch.sequences is None:
            continue
        layout = lay_out(batch)
        assert list(layout.ids.shape) == list(layout.positions.shape)
        for b, i in enumerate(batch.index):
            _check_row(layout, b, rows[i], starts[i])
        for s in range(layout.ids.shape[0]):
            here = [i for b, i in enumerate(batch.index) if layout.sequence[b] == s]
            assert len({(kinds[i], rows[i].prefix[: starts[i]]) for i in here}) == 1
    assert sorted(seen) == list(range(len(rows)))


def _check_row(layout, b: int, row: Encoded, start: int) -> None:
    s = layout.sequence[b]
    ids, positions, mask = layout.ids[s], layout.positions[s], layout.mask[s]
    prompt = list(layout.columns[b])
    ways = {
        suffix[:end]: (*row.prefix[start:], *suffix[:end])
        for suffix in row.suffixes
        for end in range(1, len(suffix))
    }
    assert len(layout.options[b]) == len(ways)
    ends = dict(zip(ways.values(), layout.options[b], strict=True))
    ends |= {row.prefix[start : start + k + 1]: column for k, column in enumerate(prompt)}
    for way, column in ends.items():
        attended = mask[column].nonzero().flatten().tolist()
        attended.sort(key=lambda c: int(positions[c]))
        assert tuple(ids[attended].tolist()) == way
        assert positions[attended].tolist() == list(range(start, start + len(way)))
        assert attended[-1] == column


def test_a_batch_is_within_its_budget_where_each_row_is_of_its_own_kind() -> None:
    """As under a soft gate: no two share a sequence, and all are padded to the longest."""
    lengths = [10, 200, 12, 16, 14] * 20
    model = llama()
    for options in (((7,), (9,)), ((7, 8), (9, 10))):
        rows = [row(tuple(range(n)), *options) for n in lengths]
        kinds = [k / len(rows) for k in range(len(rows))]
        packed, alone = (
            [batch.tokens for batch in batches(model, rows, 4096, kinds=given)]
            for given in (kinds, None)
        )
        assert max(packed) <= 4096
        assert sum(packed) <= sum(alone)


@pytest.mark.parametrize("budget", [64, 200])
def test_rows_that_share_much_are_still_within_a_budget(budget: int) -> None:
    """However much a tree would save: its sequence is what memory is taken for."""
    rows = [row((*range(40), 50 + k), (7,), (9,)) for k in range(300)]
    found = list(batches(llama(), rows, budget, kinds=[0] * len(rows)))
    assert max(batch.tokens for batch in found) <= budget
    assert sorted(i for batch in found for i in batch.index) == list(range(300))


def test_cached_beginnings_of_a_batch_are_bounded() -> None:
    rows = [row((k, *range(1, 400), j), (7,), (9,)) for k in range(300) for j in range(4)]
    starts, kinds = [400] * len(rows), [0] * len(rows)
    for batch in batches(llama(), rows, 4096, starts=starts, kinds=kinds):
        assert len(batch.first) * 400 <= CACHED_PER_TOKEN * 4096


def test_long_rows_that_share_nothing_are_not_packed() -> None:
    """A mask for each token would cost more than a second pass for their options."""
    rows = [row((k, *range(1, 1500)), (7, 8), (9,)) for k in range(3)]
    assert all(b.sequences is None for b in batches(llama(), rows, 4096, kinds=[0] * 3))


def test_a_batch_of_single_ways_is_not_packed() -> None:
    """Nothing would be shared: rows as they are need no mask for each token."""
    model = build("llama", "LlamaForCausalLM")
    rows = [row((k, k + 1), (1,), (2,)) for k in range(10, 20, 2)]
    assert all(b.sequences is None for b in batches(model, rows, 4096, kinds=[0] * len(rows)))
    assert Batch.of(rows).tokens == 10
