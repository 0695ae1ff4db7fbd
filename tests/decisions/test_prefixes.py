"""Beginnings read once: the same scores as every row on its own, under every kind of steering."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise.decisions import prefixes
from equipoise.decisions.activations import (
    answer_activations,
    decide_and_read,
    prompt_activations,
)
from equipoise.decisions.decide import decide
from equipoise.decisions.encode import Encoded
from equipoise.errors import SteeringError
from equipoise.models import Model, load
from equipoise.steering import Additive, ProbeGate, Steering
from equipoise.tasks import load_task
from equipoise.tasks.item import Item

EXAMPLES = "".join(f"Q: who was late, {name} or Ann?\nA: Ann\n\n" for name in ("Bo", "Cy", "Di"))
ENDS = ("the nurse", "the old mechanic and the nurse", "a doctor", "nobody at all, it seems, or")
ITEMS = [
    Item(id=f"{k}{word}", prompt=f"{EXAMPLES}Q: who was it, {end}?\nA:", options=(word, "the man"))
    for k, end in enumerate(ENDS)
    for word in ("he", "the woman who left")
]
ALONE = Item(id="alone", prompt="It was", options=("he", "she"))


def steering(scope: str = "all", gate: str | None = None, site: int = 0) -> Steering:
    """Adds a vector after the second block; the gate reads the first block, or the second."""
    torch.manual_seed(1)
    key = f"model.layers.{site}"
    probe = None if gate is None else ProbeGate(key, torch.randn(32), 0.0, unit=gate)
    return Steering({"model.layers.1": Additive(torch.randn(32))}, scope=scope, gate=probe)


@pytest.fixture
def reads(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every beginning that was read, the trial's apart."""
    assert prefixes.may_share(tiny.hf, None)
    counted: list[int] = []
    one_pass = prefixes.Prefixes._pass

    def counting(self, distinct):
        counted.append(len(distinct))
        return one_pass(self, distinct)

    monkeypatch.setattr(prefixes.Prefixes, "_pass", counting)
    return counted


@pytest.mark.parametrize("budget", [60, 5000])
@pytest.mark.parametrize(
    ("how", "shared"),
    [
        (None, True),
        ({}, True),
        ({"scope": "last_prompt"}, True),
        ({"scope": "generated"}, True),
        ({"scope": "prompt"}, True),
        ({"scope": "positions:2:9+last_prompt"}, True),
        ({"scope": "all", "gate": "token"}, True),
        ({"scope": "last_prompt", "gate": "row"}, True),
        ({"scope": "last_prompt+generated", "gate": "row"}, True),
        ({"scope": "last_prompt", "gate": "row", "site": 1}, True),
        ({"scope": "all", "gate": "row"}, False),  # the beginning would depend on the row
        ({"scope": "prompt", "gate": "row"}, False),
    ],
)
def test_sharing_changes_nothing(tiny: Model, monkeypatch, reads, how, shared, budget) -> None:
    how = None if how is None else steering(**how)
    strengths = [0.0] if how is None else [0.5, 0.0, 1.0]
    items = [*ITEMS, ALONE]
    found = decide(tiny, items, steering=how, strengths=strengths, batch_tokens=budget)
    assert bool(reads) == shared
    monkeypatch.setattr(prefixes, "may_share", lambda *_: False)
    wanted = decide(tiny, items, steering=how, strengths=strengths, batch_tokens=budget)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
        if how is not None:
            np.testing.assert_allclose(ours.kl, theirs.kl, atol=1e-5)
    if how is not None:
        assert np.abs(found[0].scores - found[1].scores)[np.isfinite(found[0].scores)].max() > 1e-3


def test_beginnings_of_several_lengths_in_one_batch(tiny: Model, reads) -> None:
    """At every strength each row goes on from its own, behind its own padding."""
    more = "".join(f"Q: who was ill, {name} or Flo?\nA: Flo\n\n" for name in ("Ed", "Gus", "Hal"))
    further = [
        replace(item, id=f"{item.id}-more", prompt=item.prompt.replace(EXAMPLES, more * 2))
        for item in ITEMS
    ]
    items, strengths = [*ITEMS, *further], [0.0, 0.5, 1.0]
    found = decide(tiny, items, steering=steering(), strengths=strengths, batch_tokens=100_000)
    assert reads == [2]
    for k, item in enumerate(items):
        alone = decide(tiny, [item], steering=steering(), strengths=strengths)
        for ours, theirs in zip(found, alone, strict=True):
            np.testing.assert_allclose(ours.scores[k], theirs.scores[0], atol=1e-4)


def test_a_beginning_is_read_once_for_all_batches(tiny: Model, reads) -> None:
    decide(tiny, ITEMS, batch_tokens=40)
    assert reads == [1]


def test_a_gate_decides_for_each_row(tiny: Model, reads) -> None:
    """Some prompts open the gate and some do not; its decisions follow their rows."""
    gated = steering("last_prompt", "row")
    seen = prompt_activations(tiny, ITEMS, [gated.gate.site])[:, 0] @ gated.gate.weight
    gated.gate.bias.fill_(-(seen.min() + seen.max()) / 2)
    opens = seen + gated.gate.bias >= 0
    assert 0 < opens.sum() < len(ITEMS)
    off, on = decide(tiny, ITEMS, steering=gated, strengths=[0.0, 1.0])
    assert reads
    np.testing.assert_array_equal(np.abs(off.scores - on.scores).max(1) > 1e-4, opens)


def test_activations_are_read_after_shared_beginnings(tiny: Model, reads) -> None:
    """Of prompts, of answers and with decisions: as of each row on its own."""
    sites = ["model.layers.0", "model.layers.1"]
    items = [*ITEMS, ALONE]
    answers = [(item, k) for item in items for k in (0, 1)]
    alone = torch.cat([prompt_activations(tiny, [item], sites) for item in items])
    answered = torch.cat([answer_activations(tiny, [answer], sites) for answer in answers])
    assert not reads
    for read, wanted in (
        (lambda: prompt_activations(tiny, items, sites), alone),
        (lambda: prompt_activations(tiny, items, sites, batch_tokens=60), alone),
        (lambda: answer_activations(tiny, answers, sites), answered),
        (lambda: decide_and_read(tiny, items, sites)[1], alone),
    ):
        reads.clear()
        torch.testing.assert_close(read(), wanted, atol=1e-4, rtol=1e-4)
        assert reads
    decided, _ = decide_and_read(tiny, items, sites)
    np.testing.assert_array_equal(decided.scores, decide(tiny, items)[0].scores)
    reads.clear()
    mean = prompt_activations(tiny, items, sites, reads="mean")
    assert not reads  # a mean over the prompt needs all of its tokens
    by_one = torch.cat([prompt_activations(tiny, [i], sites, reads="mean") for i in items])
    torch.testing.assert_close(mean, by_one, atol=1e-4, rtol=1e-4)


def test_a_beginning_of_another_strength_is_refused(tiny: Model) -> None:
    with steering().applied(tiny, strength=1.0) as attachment:
        read = prefixes.Prefixes(tiny.hf, attachment, [1.0])
        start = tuple(tiny.tokenizer.encode(EXAMPLES))
        cached = read.read([start])
        attachment.strength = torch.tensor(0.5)
        with pytest.raises(SteeringError, match="cache was filled at strength 1"):
            tiny.hf(torch.tensor([[5]]), past_key_values=cached.cache)


def test_caches_that_forget_are_not_shared(tiny: Model) -> None:
    assert prefixes.may_share(tiny.hf, None)
    tiny.hf.config.sliding_window = 8
    assert not prefixes.may_share(tiny.hf, None)


def row(tokens: tuple[int, ...]) -> Encoded:
    return Encoded(prefix=(*tokens, 0), suffixes=((1,), (2,)), positions=(len(tokens),))


tokens = st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple)


@given(st.lists(tokens, max_size=12))
def test_shared_tokens_are_shared(prompts: list[tuple[int, ...]]) -> None:
    rows = [row(prompt) for prompt in prompts]
    lengths = prefixes.shared_lengths(rows)
    groups: dict[tuple[int, ...], list[int]] = {}
    for prompt, length in zip(prompts, lengths, strict=True):
        assert 0 <= length <= len(prompt)
        if length:
            groups.setdefault(prompt[:length], []).append(len(prompt) + 1)
    for beginning, sizes in groups.items():
        assert len(sizes) > 1
        saved = (len(sizes) - 1) * len(beginning)
        assert 2 * saved >= sum(sizes)


def test_groups_share_what_saves_most() -> None:
    subjects = [tuple(range(10 * k, 10 * k + 10)) for k in range(3)]
    rows = [row((99, *subject, end)) for subject, end in itertools.product(subjects, range(5))]
    assert prefixes.shared_lengths(rows) == [11] * 15  # the subject's, not only the first token
    assert prefixes.shared_lengths([*rows, row((98, 97))])[-1] == 0
    few_shot = [row((*range(50), end, end + 1)) for end in range(5)]
    assert prefixes.shared_lengths(few_shot) == [50] * 5


def test_bbq_with_solved_examples_is_the_slow_reading(data) -> None:
    """Real questions, one at a time, each option in a pass of its own, nothing kept."""
    model = load(str(data / "tinystories-656k"))
    items = load_task("bbq", data=data / "bbq", shots=2, categories="Age").items[:12]
    found = decide(model, items)[0].scores
    for item, row in zip(items, found, strict=True):
        alone = model.tokenizer.encode(item.prompt)
        start = len(alone)
        for option, score in zip(item.options, row, strict=True):
            whole = model.tokenizer.encode(f"{item.prompt} {option}")
            assert whole[:start] != alone  # this tokenizer merges the colon with the space
            ids = alone + whole[start:]
            with torch.no_grad():
                steps = model.hf(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
            wanted = sum(steps[k - 1, ids[k]].item() for k in range(start, len(ids)))
            assert score == pytest.approx(wanted, abs=1e-5)
