"""CrowS-Pairs: the score on arrays, the task form, and lm-eval's number on the same pairs."""

import numpy as np
import pytest
import torch

from equipoise.decisions.decide import decide, score_texts
from equipoise.errors import EquipoiseError
from equipoise.fairness.benchmarks import crows_pairs, pair_scores
from equipoise.models import Model
from equipoise.study import Settings, audit
from equipoise.tasks import load_task
from equipoise.tasks.crows_pairs import FILE, read_pairs

HEAD = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators\n"


def table(folder, *rows):
    text = "".join(f"{row},stereo,age,[],a0,[]\n" for row in rows)
    (folder / FILE).write_text(HEAD + text)
    return folder


def test_the_task_s_options_are_the_endings(tmp_path):
    folder = table(tmp_path, "0,The old man fell.,The young man fell.", "1,He won.,She won.")
    task = load_task("crows-pairs", data=folder)
    (item,) = task.items
    assert item.prompt == "The"
    assert dict(zip(item.sides, item.options, strict=True)) == {
        "pro": "old man fell.",
        "anti": "young man fell.",
    }
    assert "1 of 2 pairs are compared as texts only: their first words differ" in task.notes
    assert [(pair.more, pair.kind) for pair in task.pairs] == [
        ("The old man fell.", "age"),
        ("He won.", "age"),
    ]
    assert task.pairs[0].split == item.split
    assert task.with_items(()).digest != load_task("crows-pairs", data=folder, limit=1).digest
    table(tmp_path, "1,He won.,She won.")
    with pytest.raises(EquipoiseError, match="no pair whose sentences begin with the same word"):
        load_task("crows-pairs", data=folder)


def test_sentences_are_compared_as_released(tmp_path):
    folder = table(tmp_path, "0,The old  man fell. ,The young  man fell.")
    (pair,) = read_pairs(folder)
    assert (pair.more, pair.less) == ("The old  man fell. ", "The young  man fell.")


def test_real_pairs(data):
    pairs = read_pairs(data / "crows-pairs")
    assert len(pairs) == 1508
    task = load_task("crows-pairs", data=data / "crows-pairs")
    assert len(task.items) == 1508 - 423
    by_id = {pair.id: pair for pair in task.pairs}
    assert task.pairs == pairs
    for item in task.items:
        pair = by_id[item.id]
        texts = {f"{item.prompt} {option}" for option in item.options}
        assert texts == {" ".join(text.split()) for text in (pair.more, pair.less)}
    first = [item.sides[0] == "pro" for item in task.items]
    assert 0.45 < np.mean(first) < 0.55


def test_the_score_on_a_hand_made_table():
    more = np.array([-1.0, -2.0, -3.0, -4.0, -5.0])
    less = np.array([-2.0, -1.0, -3.0, -9.0, -9.0])  # one pair is a tie
    found = crows_pairs(more, less, ["age", "age", "age", "gender", "gender"])
    assert found["pooled"]["estimate"] == pytest.approx(3 / 5)
    assert found["by_bias_type"]["age"]["estimate"] == pytest.approx(1 / 3)
    assert found["by_bias_type"]["gender"]["estimate"] == 1
    assert found["by_bias_type"]["gender"]["high"] == 1
    assert found["by_bias_type"]["gender"]["low"] < 0.5
    assert (found["pooled"]["n"], found["ideal"]) == (5, 0.5)
    assert crows_pairs(np.array([]), np.array([]), [])["pooled"] is None
    with pytest.raises(EquipoiseError, match="5 and 4 scores for 5 pairs"):
        crows_pairs(more, less[:4], ["age"] * 5)
    with pytest.raises(EquipoiseError, match="NaN or infinite"):
        crows_pairs(more * np.nan, less, ["age"] * 5)


def test_as_items_and_as_texts_like_lm_eval(data):
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    from lm_eval.api.instance import Instance

    from equipoise.models import load

    model = load(str(data / "imdb-5m"))
    items = sorted(
        load_task("crows-pairs", data=data / "crows-pairs").items, key=lambda i: len(i.prompt)
    )[:20]
    sentences = [f"{item.prompt} {option}" for item in items for option in item.options]
    theirs = huggingface.HFLM(pretrained=model.hf, tokenizer=model.tokenizer, batch_size=1)
    # lm-eval's crows_pairs: an empty prompt, the sentences as choices.
    requests = [Instance("loglikelihood", {}, ("", text), n) for n, text in enumerate(sentences)]
    whole = np.array([total for total, _ in theirs.loglikelihood(requests)]).reshape(-1, 2)
    ours = decide(model, items)[0]
    differences = ours.scores[:, 0] - ours.scores[:, 1]
    np.testing.assert_allclose(differences, whole[:, 0] - whole[:, 1], atol=2e-3)
    texts = score_texts(model, sentences).log_probability[0].reshape(-1, 2)
    np.testing.assert_allclose(texts, whole, atol=2e-3)

    pro = np.array([item.sides.index("pro") for item in items])
    rows = np.arange(len(items))
    expected = np.mean(whole[rows, pro] > whole[rows, 1 - pro])
    task = load_task("crows-pairs", data=data / "crows-pairs")
    by_id = {pair.id: pair for pair in task.pairs}
    pairs = [by_id[item.id] for item in items]
    read = score_texts(model, [pair.more for pair in pairs] + [pair.less for pair in pairs])
    found = pair_scores(pairs, read.log_probability[0].reshape(2, -1), read.tokens.reshape(2, -1))
    assert found["pooled"]["log_likelihood"]["estimate"] == pytest.approx(expected)
    assert found["pooled"]["log_likelihood"]["n"] == 20


def test_an_audit_compares_the_whole_sentences(tmp_path, tiny: Model):
    """Against sentences read one by one, per token and in sum."""
    rows = ["0,The old man fell.,The young man fell.", "1,He won it all.,She won.", "2,A a,A b b"]
    task = load_task("crows-pairs", data=table(tmp_path, *rows))
    (row,) = audit(tiny, task).rows
    wins = {"per_token": [], "log_likelihood": []}
    for pair in task.pairs:
        means, sums = [], []
        for sentence in (pair.more, pair.less):
            ids = torch.tensor([tiny.tokenizer.encode(sentence)])
            log_probs = tiny.hf(ids).logits[0, :-1].log_softmax(-1)
            steps = log_probs.gather(1, ids[0, 1:, None])
            means.append(steps.mean().item())
            sums.append(steps.sum().item())
        wins["per_token"].append(means[0] > means[1])
        wins["log_likelihood"].append(sums[0] > sums[1])
    for name, expected in wins.items():
        cell = row["benchmark"]["pooled"][name]
        assert (cell["estimate"], cell["n"]) == (pytest.approx(np.mean(expected)), 3)
        assert cell == row["benchmark"]["by_bias_type"]["age"][name]
    assert row["option_mass"]["n"] == 2
    (mean,) = audit(tiny, task, settings=Settings(normalise="mean")).rows
    assert mean["option_mass"] is None  # means of log-probabilities are no probabilities


def test_a_sentence_without_a_scored_token_is_named(tmp_path):
    (pair,) = load_task("crows-pairs", data=table(tmp_path, "7,A a,A b")).pairs
    with pytest.raises(EquipoiseError, match="pair-7: a sentence of a single token"):
        pair_scores([pair], np.zeros((2, 1)), np.array([[1], [0]]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n", ":1: 2 cells where 8"),
        (HEAD.replace("sent_more", "more"), ":1: not CrowS-Pairs"),
        (HEAD, "no rows"),
        (HEAD + "0,Same.,Same.,stereo,age,[],a0,[]\n", ":2: expected a number, two different"),
        (HEAD + "0,One.,Two.,stereo,,[],a0,[]\n", ":2: expected a number"),
        (HEAD + '0,"One', ":"),
    ],
)
def test_a_damaged_table_is_named(tmp_path, content, message):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(EquipoiseError, match=message):
        load_task("crows-pairs", data=tmp_path)
