"""Scores against a slow reading of the contract, one option at a time, and against lm-eval."""

import numpy as np
import pytest
import torch

from equipoise.decisions.decide import decide, score_texts
from equipoise.decisions.encode import encode_item, prompt_text
from equipoise.models import Model
from equipoise.tasks.item import Item

ITEMS = [
    Item(id="1", prompt="The nurse said that", options=("he", "she")),
    Item(id="2", prompt="Who did it? ", options=("the nurse", "the old mechanic", "cannot tell")),
    Item(id="3", prompt="A much longer prompt, with a comma; the doctor", options=("left", "the")),
    Item(id="4", prompt="It was", options=("the nurse", "the nurse who left", "the doctor")),
    Item(id="5", prompt="Because", options=("x y z", "she was kind")),
]


def slow_logprob(model: Model, prompt: str, option: str) -> tuple[float, float]:
    """Sum of the option's token log-probabilities and its raw token count, one row, no cache."""
    if model.chat:
        context, whole = prompt_text(model, prompt), prompt_text(model, prompt) + option
    else:
        context = prompt.rstrip()
        whole = context + (prompt[len(context) :] or " ") + option
    special = not model.chat
    start = len(model.tokenizer.encode(context, add_special_tokens=special))
    ids = torch.tensor([model.tokenizer.encode(whole, add_special_tokens=special)])
    with torch.no_grad():
        log_probs = model.hf(ids).logits[0].double().log_softmax(-1)
    steps = [log_probs[i - 1, ids[0, i]].item() for i in range(start, ids.shape[1])]
    return sum(steps), len(steps)


@pytest.mark.parametrize("normalise", ["sum", "mean"])
@pytest.mark.parametrize("batch_tokens", [1, 10_000])
def test_scores_are_the_contracts(tiny: Model, normalise: str, batch_tokens: int) -> None:
    found = decide(tiny, ITEMS, normalise=normalise, batch_tokens=batch_tokens)[0]
    for row, item in zip(found.scores, ITEMS, strict=True):
        for k, option in enumerate(item.options):
            total, n = slow_logprob(tiny, item.prompt, option)
            assert row[k] == pytest.approx(total / (n if normalise == "mean" else 1), abs=2e-5)
        assert np.isneginf(row[len(item.options) :]).all()


def test_chat_model_reads_its_template(bundled: Model) -> None:
    item = Item(id="1", prompt="Who?", options=("nurse", "the mechanic", "unknown"))
    found = decide(bundled, [item])[0]
    for k, option in enumerate(item.options):
        assert found.scores[0, k] == pytest.approx(
            slow_logprob(bundled, item.prompt, option)[0], abs=2e-4
        )


def test_tokenizers_padding_side_changes_nothing(tiny: Model) -> None:
    one = decide(tiny, ITEMS)[0].scores
    tiny.tokenizer.padding_side = "right"
    np.testing.assert_array_equal(one, decide(tiny, ITEMS)[0].scores)


def test_shared_tokens_are_read_once(tiny: Model) -> None:
    row = encode_item(tiny, ITEMS[3])
    shared = tiny.tokenizer.encode("It was the nurse")
    assert tuple(shared[: len(row.prefix)]) == row.prefix
    assert len(row.prefix) > len(tiny.tokenizer.encode("It was"))
    assert row.cost < sum(len(row.prefix) + len(s) for s in row.suffixes)


def test_texts(tiny: Model) -> None:
    texts = ["The nurse said that she left.", "He.", "A long one " * 30]
    found = score_texts(tiny, texts, window=16)
    for number, text in enumerate(texts):
        ids = tiny.tokenizer.encode(text)
        total, n = 0.0, 0
        for start in range(0, len(ids), 16):
            piece = torch.tensor([ids[start : start + 16]])
            with torch.no_grad():
                log_probs = tiny.hf(piece).logits[0].double().log_softmax(-1)
            for i in range(1, piece.shape[1]):
                total += log_probs[i - 1, piece[0, i]].item()
                n += 1
        assert found.tokens[number] == n
        assert found.log_probability[0, number] == pytest.approx(total, abs=1e-3)


def test_agrees_with_lm_eval(data) -> None:
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    from lm_eval.api.instance import Instance

    from equipoise.models import load

    model = load(str(data / "imdb-5m"))
    prompt = "I asked the nurse to help because"
    items = [
        Item(id="1", prompt=prompt, options=("he", "she", "they were kind", "there was a film")),
        Item(id="2", prompt="It was a film because", options=("I am", "he was very bad")),
    ]
    ours = decide(model, items)[0].scores
    theirs = huggingface.HFLM(pretrained=model.hf, tokenizer=model.tokenizer, batch_size=1)
    pairs = [(i, k) for i, item in enumerate(items) for k in range(len(item.options))]
    requests = [
        Instance("loglikelihood", {}, (items[i].prompt, " " + items[i].options[k]), n)
        for n, (i, k) in enumerate(pairs)
    ]
    for (i, k), (total, _) in zip(pairs, theirs.loglikelihood(requests), strict=True):
        assert ours[i, k] == pytest.approx(total, abs=1e-4)
