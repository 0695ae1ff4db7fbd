"""A sweep of strengths in one batch against one strength, one item and one token at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equipoise.decisions.batch import batches
from equipoise.decisions.decide import decide, score_texts
from equipoise.decisions.encode import encode_item
from equipoise.decisions.packing import packable_kinds
from equipoise.decisions.score import score
from equipoise.errors import EquipoiseError
from equipoise.models import Model
from equipoise.steering import Steering
from equipoise.tasks.item import Item

# Options of one token, of several, one that begins another, and shared beginnings.
ITEMS = [
    Item(id="1", prompt="The nurse said that", options=("he", "she")),
    Item(id="2", prompt="Who did it? ", options=("the nurse", "the old mechanic", "cannot tell")),
    Item(id="3", prompt="It was", options=("the nurse", "the nurse who left", "the doctor")),
    Item(id="4", prompt="A much longer prompt, with a comma; the doctor", options=("left", "the")),
    Item(id="5", prompt="Because", options=("x y z", "she was kind", "she was old", "she left")),
]
SCOPES = ["all", "last_prompt", "generated", "last_prompt+generated"]


def steering_for(model: Model, scope: str = "all", seed: int = 0) -> Steering:
    identity = Steering.identity(model, foldable=False)
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in identity.parameters():
            value.normal_(std=0.15)
    return Steering(identity.transforms, scope=scope)


def next_token(
    model: Model, ids: list[int], prompt: int, steering: Steering | None, strength: float
) -> torch.Tensor:
    """Log-probabilities of the token after ``ids``: everything read anew, float64 [V]."""
    with torch.no_grad():
        if steering is None:
            logits = model.hf(torch.tensor([ids])).logits
        else:
            with steering.applied(model, strength) as attachment:
                attachment.prompt_lengths = [prompt]
                logits = model.hf(torch.tensor([ids])).logits
    return logits[0, -1].double().log_softmax(-1)


def slow(
    model: Model, item: Item, steering: Steering, strength: float
) -> tuple[list[float], float]:
    """Option scores, and the KL summed over the tree of the options' beginnings."""
    prompt = model.tokenizer.encode(item.prompt.rstrip())
    options = [
        tuple(model.tokenizer.encode(f"{item.prompt.rstrip()} {option}")[len(prompt) :])
        for option in item.options
    ]
    nodes = {option[:end] for option in options for end in range(len(option))}
    steered = {
        node: next_token(model, [*prompt, *node], len(prompt), steering, strength) for node in nodes
    }
    scores = [
        sum(steered[option[:end]][option[end]].item() for end in range(len(option)))
        for option in options
    ]
    kl = 0.0
    for node in nodes:
        reach = sum(steered[node[:end]][node[end]].item() for end in range(len(node)))
        base = next_token(model, [*prompt, *node], len(prompt), None, 0.0)
        here = steered[node]
        kl += np.exp(reach) * (here.exp() * (here - base)).sum().item()
    return scores, kl


@pytest.mark.parametrize("scope", SCOPES)
def test_scores_and_kl_are_those_of_the_slow_reading(tiny: Model, scope: str) -> None:
    steering = steering_for(tiny, scope)
    strengths = [0.4, 1.0]
    found = decide(tiny, ITEMS, steering=steering, strengths=strengths)
    moved = 0.0
    for strength, decisions in zip(strengths, found, strict=True):
        assert decisions.strength == strength
        for i, item in enumerate(ITEMS):
            scores, kl = slow(tiny, item, steering, strength)
            assert decisions.scores[i, : len(scores)] == pytest.approx(scores, abs=1e-4)
            assert decisions.kl[i] == pytest.approx(kl, rel=1e-3, abs=1e-8)
            moved = max(moved, kl)
    # In scope "generated" only tokens within an option differ, and these are seldom reached.
    assert moved > (1e-5 if scope == "generated" else 0.01)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("batch_tokens", [1, 10_000])
def test_all_strengths_at_once_are_each_on_its_own(
    tiny: Model, scope: str, batch_tokens: int
) -> None:
    steering = steering_for(tiny, scope)
    strengths = [1.0, 0.0, 0.35, 0.35, 0.8]
    together = decide(
        tiny, ITEMS, steering=steering, strengths=strengths, batch_tokens=batch_tokens
    )
    assert [d.strength for d in together] == strengths
    for strength, found in zip(strengths, together, strict=True):
        (alone,) = decide(tiny, ITEMS, steering=steering, strengths=[strength])
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
        np.testing.assert_allclose(found.kl, alone.kl, atol=1e-5)
    np.testing.assert_array_equal(together[1].kl, 0.0)
    np.testing.assert_array_equal(together[2].scores, together[3].scores)
    np.testing.assert_allclose(together[1].scores, decide(tiny, ITEMS)[0].scores, atol=1e-5)


@pytest.mark.parametrize("packed", [True, False])
def test_rows_at_strength_0_are_bit_identical_to_the_base(tiny: Model, packed: bool) -> None:
    rows = [encode_item(tiny, item) for item in ITEMS]
    kinds = packable_kinds(tiny.hf, len(rows)) if packed else None
    (batch,) = batches(tiny.hf, rows, 1 << 12, kinds=kinds)
    assert (batch.sequences is not None) == packed
    with torch.inference_mode():
        base = score(tiny.hf, batch, strengths=[0.0, 0.0])
        with steering_for(tiny).applied(tiny) as attachment:
            found = score(tiny.hf, batch, attachment=attachment, strengths=[0.0, 1.0])
    assert torch.equal(found.options[::2], base.options[::2])
    assert not torch.equal(found.options[1::2], base.options[1::2])
    still = found.row % 2 == 0
    assert torch.equal(found.nodes[still], base.nodes[still])
    assert (found.kl(base.nodes)[::2] == 0).all()
    assert (found.kl(base.nodes)[1::2] > 0).all()


def test_sweep_leaves_the_model_alone(tiny: Model) -> None:
    before = decide(tiny, ITEMS)[0].scores
    decide(tiny, ITEMS, steering=steering_for(tiny), strengths=[1.0])
    np.testing.assert_array_equal(decide(tiny, ITEMS)[0].scores, before)


def test_identity_steering_changes_nothing(tiny: Model) -> None:
    (found,) = decide(tiny, ITEMS, steering=Steering.identity(tiny), strengths=[1.0])
    np.testing.assert_allclose(found.scores, decide(tiny, ITEMS)[0].scores, atol=1e-5)
    np.testing.assert_allclose(found.kl, 0.0, atol=1e-6)


def test_strength_without_a_steering_is_refused(tiny: Model) -> None:
    with pytest.raises(EquipoiseError, match="without a steering"):
        decide(tiny, ITEMS, strengths=[0.5])
    with pytest.raises(EquipoiseError, match="without a steering"):
        score_texts(tiny, ["He left."], strengths=[0.5])


@pytest.mark.filterwarnings("ignore:strength outside")
def test_strength_outside_0_to_1_warns_and_works(tiny: Model) -> None:
    steering = steering_for(tiny)
    with pytest.warns(UserWarning, match="extrapolates"):
        found = decide(tiny, ITEMS[:1], steering=steering, strengths=[-0.5, 1.5])
    for strength, decisions in zip([-0.5, 1.5], found, strict=True):
        scores, kl = slow(tiny, ITEMS[0], steering, strength)
        assert decisions.scores[0] == pytest.approx(scores, abs=1e-4)
        assert decisions.kl[0] == pytest.approx(kl, rel=1e-3)


def test_no_items(tiny: Model) -> None:
    (found,) = decide(tiny, [], steering=steering_for(tiny), strengths=[1.0])
    assert len(found) == 0


def test_progress_counts_every_item_once(tiny: Model) -> None:
    done: list[int] = []
    decide(tiny, ITEMS, strengths=[0.0], batch_tokens=20, progress=done.append)
    assert sum(done) == len(ITEMS)
    assert len(done) > 1
    done.clear()
    texts = ["The nurse said that she left. " * 9, "x", "", "He left."]
    score_texts(tiny, texts, window=12, batch_tokens=20, progress=done.append)
    assert sum(done) == len(texts)
    assert done[-1] == 1  # the longest one ends last


@pytest.mark.parametrize("scope", SCOPES)
def test_texts_are_swept_alike(tiny: Model, scope: str) -> None:
    """Token by token; to a scope, what follows a window's first token is generated."""
    texts = ["The nurse said that she left.", "x", "A long one, that goes on and on. " * 5]
    steering = steering_for(tiny, scope)
    strengths = [0.0, 0.6]
    found = score_texts(tiny, texts, steering=steering, strengths=strengths, window=12)
    for number, text in enumerate(texts):
        ids = tiny.tokenizer.encode(text)
        total, kl, n = 0.0, 0.0, 0
        for start in range(0, len(ids), 12):
            piece = ids[start : start + 12]
            for end in range(1, len(piece)):
                here = next_token(tiny, piece[:end], 1, steering, 0.6)
                base = next_token(tiny, piece[:end], 1, None, 0.0)
                total += here[piece[end]].item()
                kl += (here.exp() * (here - base)).sum().item()
                n += 1
        assert found.tokens[number] == n
        assert found.log_probability[1, number] == pytest.approx(total, abs=1e-3)
        assert found.kl[1, number] == pytest.approx(kl / max(n, 1), rel=1e-3, abs=1e-6)
        assert found.kl[0, number] == 0
    assert found.kl[1].max() > 0


def test_bfloat16_agrees(tiny: Model) -> None:
    exact = decide(tiny, ITEMS)[0]
    tiny.hf.to(torch.bfloat16)
    steering = steering_for(tiny)
    rough, _ = decide(tiny, ITEMS, steering=steering, strengths=[0.0, 1.0])
    finite = np.isfinite(exact.scores)
    assert (np.isfinite(rough.scores) == finite).all()
    np.testing.assert_allclose(rough.scores[finite], exact.scores[finite], rtol=0.1, atol=0.5)
    np.testing.assert_array_equal(rough.kl, 0.0)
