"""Sampled answers: their log-probabilities, their parsing, and what sampling may not touch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise.decisions.sample import parse_answer, sample_answers, sample_log_probs
from equipoise.decisions.write import write, write_at
from equipoise.errors import EquipoiseError
from equipoise.models import Model
from equipoise.tasks.item import Item

WHO = Item(
    id="who",
    prompt="Who left?",
    options=("nurse", "head nurse", "mechanic", "cannot tell"),
    sides=("pro", None, "anti", "abstain"),
)
BARE = Item(id="bare", prompt="He or she?", options=("he", "she"), sides=("pro", "anti"))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The nurse.", 0),
        ("NURSE", 0),
        ("It was the head nurse!", 1),
        ("the Head Nurse, that is, the head nurse", 1),
        ("mechanic", 2),
        ("Cannot tell", 3),
        ("I cannot say who.", 3),
        ("It is unclear.", 3),
        ("I don't know", 3),
        ("I don’t know", 3),
        ("You can’t say", 3),
        ("nurse or mechanic", -1),
        ("nurse? head nurse?", -1),
        ("nurses", -1),
        ("", -1),
        ("a film", -1),
        ("It is unclear, but the mechanic", 2),
    ],
)
def test_parse_answer(text: str, answer: int) -> None:
    assert parse_answer(text, WHO) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [("He did.", 0), ("she", 1), ("the", -1), ("It is unclear", -1), ("he and she", -1)],
)
def test_parse_answer_without_an_abstention(text: str, answer: int) -> None:
    assert parse_answer(text, BARE) == answer


words = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=6)


@given(st.lists(words, min_size=2, max_size=4, unique_by=str.casefold), st.data())
def test_an_option_among_other_words_is_found(options: list[str], data: st.DataObject) -> None:
    item = Item(id="x", prompt="?", options=tuple(options))
    k = data.draw(st.integers(0, len(options) - 1))
    around = "()!.,;:\"' \n"
    text = data.draw(st.text(around)) + options[k] + data.draw(st.text(around))
    assert parse_answer(text, item) == k


@given(st.text())
def test_any_text_is_an_option_or_none(text: str) -> None:
    assert -1 <= parse_answer(text, WHO) < 4


PROMPTS = [
    Item(id="1", prompt="The nurse said that", options=("he", "she")),
    Item(id="2", prompt="A much longer prompt, with a comma; the doctor", options=("a", "b")),
    Item(id="3", prompt="It", options=("a", "b")),
]


def slow_log_probs(model: Model, samples, i: int) -> float:
    """One row without its padding, read whole."""
    real = samples.mask[i].bool()
    ids = samples.tokens[i][real]
    scored = samples.scored[i][real]
    with torch.no_grad():
        log_probs = model.hf(ids[None]).logits[0].double().log_softmax(-1)
    return sum(log_probs[t - 1, ids[t]].item() for t in range(len(ids)) if scored[t])


def test_log_probs_are_those_of_the_policy(tiny: Model) -> None:
    tiny.hf.generation_config.eos_token_id = list(range(4, 900))  # answers of all lengths
    samples = sample_answers(tiny, PROMPTS, rollouts=4, max_new_tokens=6, seed=1)
    lengths = samples.scored.sum(1)
    assert len(set(lengths.tolist())) > 1
    found = sample_log_probs(tiny, samples)
    assert found.shape == (3, 4)
    for i, value in enumerate(found.flatten().tolist()):
        assert value == pytest.approx(slow_log_probs(tiny, samples, i), abs=1e-4)
    assert len(samples.texts) == 12
    assert samples.answers.shape == (3, 4)


def test_log_probs_have_a_gradient(tiny: Model) -> None:
    from equipoise.steering import Steering

    steering = Steering.identity(tiny)
    with steering.applied(tiny):
        samples = sample_answers(tiny, PROMPTS, rollouts=2, max_new_tokens=3)
        sample_log_probs(tiny, samples).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in steering.parameters())


def test_sampling_is_seeded_and_leaves_the_generator_alone(tiny: Model) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = sample_answers(tiny, PROMPTS, rollouts=2, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert sample_answers(tiny, PROMPTS, rollouts=2, seed=3).texts == one.texts
    assert sample_answers(tiny, PROMPTS, rollouts=2, seed=4).texts != one.texts


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_beams", 3),
        ("num_return_sequences", 2),
        ("suppress_tokens", list(range(100))),
        ("min_new_tokens", 6),
        ("sequence_bias", [[[7], 50.0]]),
        ("epsilon_cutoff", 0.5),
        ("repetition_penalty", 5.0),
        ("no_repeat_ngram_size", 1),
        ("top_p", 0.1),
        ("typical_p", 0.1),
    ],
)
@pytest.mark.parametrize("temperature", [0, 1])
def test_a_checkpoint_s_own_settings_choose_no_token(
    tiny: Model, setting: str, value: object, temperature: float
) -> None:
    texts = [item.prompt for item in PROMPTS]
    how = {"rollouts": 1 + 3 * temperature, "temperature": temperature, "max_new_tokens": 6}
    expected = write(tiny, texts, **how).texts
    own = tiny.hf.generation_config
    setattr(own, setting, value)
    assert write(tiny, texts, **how).texts == expected
    assert tiny.hf.generation_config is own
    assert getattr(own, setting) == value


def test_a_model_that_counts_padding_does_not_write_to_padded_prompts(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ["The nurse left", "The nurse met the mechanic and left"]
    alone = [write(tiny, [prompt], temperature=0).texts[0] for prompt in prompts]
    monkeypatch.setattr("equipoise.decisions.write.counts_padding", lambda model: True)
    with pytest.raises(EquipoiseError, match=r"changes with padding.*answers: options"):
        write(tiny, prompts, temperature=0)
    assert write_at(tiny, prompts, temperature=0, max_new_tokens=16) == [tuple(alone)]


def test_greedy_is_what_the_model_says_most(tiny: Model) -> None:
    samples = sample_answers(tiny, PROMPTS, temperature=0, max_new_tokens=3)
    for i, item in enumerate(PROMPTS):
        ids = tiny.tokenizer.encode(item.prompt)
        for _ in range(int(samples.scored[i].sum())):
            with torch.no_grad():
                ids.append(int(tiny.hf(torch.tensor([ids])).logits[0, -1].argmax()))
        real = samples.tokens[i][samples.mask[i].bool()]
        assert real.tolist() == ids


def test_a_checkpoints_own_settings_do_not_shape_the_samples(tiny: Model) -> None:
    """Qwen's ship a top-k, a top-p and a repetition penalty: π would not be what was drawn from."""
    plain = sample_answers(tiny, PROMPTS, rollouts=8, max_new_tokens=8, seed=2)
    settings = {
        "repetition_penalty": 1.5, "top_k": 2, "top_p": 0.3, "temperature": 0.2, "min_p": 0.5,
        "typical_p": 0.5, "no_repeat_ngram_size": 1,
    }  # fmt: skip
    for name, value in settings.items():
        setattr(tiny.hf.generation_config, name, value)
    shaped = sample_answers(tiny, PROMPTS, rollouts=8, max_new_tokens=8, seed=2)
    assert shaped.texts == plain.texts


def test_shares_of_the_first_token_follow_the_model(tiny: Model) -> None:
    n = 3000
    samples = sample_answers(tiny, PROMPTS[:1], rollouts=n, max_new_tokens=1)
    with torch.no_grad():
        ids = torch.tensor([tiny.tokenizer.encode(PROMPTS[0].prompt)])
        wanted = tiny.hf(ids).logits[0, -1].softmax(-1)
    shares = torch.bincount(samples.tokens[:, -1], minlength=len(wanted)) / n
    error = (wanted * (1 - wanted) / n).sqrt()
    assert ((shares - wanted).abs() < 5 * error + 2 / n).all()


def test_texts_at_a_strength_follow_the_seed(tiny: Model) -> None:
    """A prompt in a batch of its own is written as by itself, seeded by its place too."""
    prompts = ["The nurse said", "He left, and then the old mechanic", "It was"]
    how = {"temperature": 1.0, "max_new_tokens": 8}
    (found,) = write_at(tiny, prompts, seed=7, batch_tokens=1, **how)
    alone = [write(tiny, [one], seed=7 + k, **how).texts[0] for k, one in enumerate(prompts)]
    assert list(found) == alone
    assert write_at(tiny, prompts, seed=8, batch_tokens=1, **how) != [found]
