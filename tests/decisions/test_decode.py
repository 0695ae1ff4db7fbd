"""Seeded-hash decoding: deterministic, fair between twins, true to the probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise.decisions import Decisions
from equipoise.decisions.decode import SeededHashLogitsProcessor, seeded_hash, uniform_hash
from equipoise.models import Model
from equipoise.tasks.item import Item


def twins(n: int, attribute: bool = True) -> tuple[Item, ...]:
    return tuple(
        Item(
            id=f"{i}{word}",
            twin=str(i),
            prompt=f"Case {i}: the nurse said that {word} was late.",
            options=("a", "b", "c"),
            attribute=(word,) if attribute else (),
        )
        for i in range(n)
        for word in ("he", "she")
    )


def answers(decisions: Decisions) -> np.ndarray:
    return decisions.scores.argmax(axis=1)


def with_shares(items: tuple[Item, ...], shares: list[float], width: int = 3) -> Decisions:
    scores = np.full((len(items), width), -np.inf)
    scores[:, : len(shares)] = np.log(shares)
    return Decisions(items, scores)


@pytest.mark.parametrize("attribute", [True, False])
def test_twins_of_equal_distributions_answer_alike(attribute: bool) -> None:
    decided = with_shares(twins(300, attribute), [0.2, 0.5, 0.3])
    found = answers(seeded_hash(decided)).reshape(-1, 2)
    assert (found[:, 0] == found[:, 1]).all()
    assert len(set(found[:, 0])) == 3


def test_decisions_show_themselves_in_one_line() -> None:
    assert repr(with_shares(twins(2), [0.5, 0.5])) == "Decisions(4 items, strength 0)"


def test_nearly_equal_distributions_rarely_part() -> None:
    items = twins(2000)
    scores = np.log(np.tile([[0.49, 0.31, 0.2], [0.51, 0.29, 0.2]], (2000, 1)))
    found = answers(seeded_hash(Decisions(items, scores))).reshape(-1, 2)
    assert (found[:, 0] != found[:, 1]).mean() == pytest.approx(0.02, abs=0.01)


def test_shares_follow_the_probabilities() -> None:
    shares = np.array([0.1, 0.6, 0.3])
    items = twins(3000)[::2]
    found = np.bincount(answers(seeded_hash(with_shares(items, list(shares)))), minlength=3)
    error = np.sqrt(shares * (1 - shares) / len(items))
    assert (np.abs(found / len(items) - shares) < 4 * error).all()
    # At half the temperature the shares are those of the squares.
    cold = np.bincount(
        answers(seeded_hash(with_shares(items, list(shares)), temperature=0.5)), minlength=3
    )
    assert np.abs(cold / len(items) - shares**2 / (shares**2).sum()).max() < 0.04


def test_it_is_an_answer() -> None:
    decided = with_shares(twins(20), [0.5, 0.5])
    found = seeded_hash(decided)
    np.testing.assert_array_equal(np.sort(found.scores, axis=1)[:, -1], 0.0)
    assert np.isneginf(np.sort(found.scores, axis=1)[:, :-1]).all()
    assert (answers(found) < 2).all()  # never an option that is not there
    np.testing.assert_array_equal(found.scores, seeded_hash(decided).scores)
    assert (answers(found) != answers(seeded_hash(decided, seed=1))).any()
    assert found.items == decided.items


def test_certain_answers_stay() -> None:
    scores = np.tile([[-1e9, 0.0, -np.inf]], (40, 1))
    assert (answers(seeded_hash(Decisions(twins(20), scores))) == 1).all()


def test_attribute_words_are_masked() -> None:
    alike = uniform_hash("He said that his car, Mr Smith's, was there.")
    assert alike == uniform_hash("She said that her car, Mrs Smith's, was there.")
    assert alike != uniform_hash("He said that his cart, Mr Smith's, was there.")
    # Whole words only, and an item's own words instead of the gendered ones.
    assert uniform_hash("the") != uniform_hash("tshe")
    own = {"attribute": ("Ahmed", "Jack Jr.")}
    assert uniform_hash("Ahmed left", **own) == uniform_hash("jack jr. left", **own)
    assert uniform_hash("he left", **own) != uniform_hash("she left", **own)
    assert uniform_hash("he", attribute=()) != uniform_hash("she", attribute=())


@given(st.text(), st.integers())
def test_hash_is_a_share(text: str, seed: int) -> None:
    assert 0 <= uniform_hash(text, seed=seed) < 1


# ---- in generate


PROMPTS = ["The nurse said that she", "It was", "A long prompt about the old mechanic; he"]


def generate(model: Model, prompts: list[str], processor: SeededHashLogitsProcessor) -> list[str]:
    model.tokenizer.padding_side = "left"
    batch = model.tokenizer(prompts, return_tensors="pt", padding=True)
    out = model.hf.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=6,
        min_new_tokens=6,
        do_sample=False,
        pad_token_id=model.tokenizer.pad_token_id,
        logits_processor=[processor],
    )
    new = out[:, batch["input_ids"].shape[1] :]
    return [model.tokenizer.decode(row) for row in new]


def test_generate_is_deterministic_and_knows_no_padding(tiny: Model) -> None:
    processor = SeededHashLogitsProcessor(tiny.tokenizer)
    together = generate(tiny, PROMPTS, processor)
    assert together == generate(tiny, PROMPTS, processor)
    assert together == [generate(tiny, [prompt], processor)[0] for prompt in PROMPTS]
    other = SeededHashLogitsProcessor(tiny.tokenizer, seed=1)
    assert together != generate(tiny, PROMPTS, other)


def prompts_of(model: Model, n: int) -> torch.Tensor:
    """n different prompts of three tokens, none of them special."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(300, len(model.tokenizer), (n, 3), generator=generator)


def test_one_logit_per_row_and_the_models_shares(tiny: Model) -> None:
    n = 4000
    scores = torch.full((n, len(tiny.tokenizer)), -20.0)
    wanted = torch.tensor([0.5, 0.3, 0.15, 0.05])
    scores[:, 400:404] = wanted.log()
    processor = SeededHashLogitsProcessor(tiny.tokenizer)
    out = processor(prompts_of(tiny, n), scores)
    assert (out.isfinite().sum(1) == 1).all()
    assert out.shape == scores.shape
    shares = torch.bincount(out.argmax(1), minlength=404)[400:404] / n
    error = (wanted * (1 - wanted) / n).sqrt()
    assert ((shares - wanted).abs() < 4 * error).all()


def test_top_p_and_temperature(tiny: Model) -> None:
    n = 3000
    scores = torch.full((n, len(tiny.tokenizer)), -30.0)
    scores[:, 400:404] = torch.tensor([0.15, 0.5, 0.05, 0.3]).log()
    ids = prompts_of(tiny, n)
    nucleus = SeededHashLogitsProcessor(tiny.tokenizer, top_p=0.7)(ids, scores).argmax(1)
    shares = torch.bincount(nucleus, minlength=404)[400:404] / n
    torch.testing.assert_close(shares, torch.tensor([0.0, 0.625, 0.0, 0.375]), atol=0.04, rtol=0)
    cold = SeededHashLogitsProcessor(tiny.tokenizer, temperature=0.05)(ids, scores).argmax(1)
    assert (cold == 401).float().mean() > 0.99
    for bad in ({"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}):
        with pytest.raises(ValueError, match="temperature must be"):
            SeededHashLogitsProcessor(tiny.tokenizer, **bad)


def test_balanced_twins_share_their_token(tiny: Model) -> None:
    """51 : 49 for he and 49 : 51 for she: they part in 2 of 100 prompts, not always."""
    n = 2000
    texts = [f"Case {i}: then {word}" for i in range(n) for word in ("he", "she")]
    ids = tiny.tokenizer(texts, return_tensors="pt", padding=True)["input_ids"]
    scores = torch.full((2 * n, len(tiny.tokenizer)), -30.0)
    scores[::2, 400:402] = torch.tensor([0.51, 0.49]).log()
    scores[1::2, 400:402] = torch.tensor([0.49, 0.51]).log()
    for top_p in (1.0, 0.99):
        processor = SeededHashLogitsProcessor(tiny.tokenizer, top_p=top_p)
        tokens = processor(ids, scores).argmax(1).reshape(-1, 2)
        assert (tokens[:, 0] != tokens[:, 1]).float().mean().item() == pytest.approx(0.02, abs=0.01)
