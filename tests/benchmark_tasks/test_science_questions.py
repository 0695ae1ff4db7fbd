"""ARC and OpenBookQA: the questions as lm-eval asks them, and its sums on a real model."""

import json
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml

from equipoise.decisions.decide import decide
from equipoise.errors import EquipoiseError
from equipoise.fairness.benchmarks import question_scores
from equipoise.study import audit
from equipoise.tasks import load_capability, load_task, task_options


def lm_eval_task(name):
    """The fields of an lm-eval task's YAML file; nothing is downloaded."""
    pytest.importorskip("lm_eval")
    folder = Path(find_spec("lm_eval").origin).parent / "tasks"
    (path,) = folder.glob(f"*/{name}.yaml")
    fields = yaml.safe_load(path.read_text())
    if "include" in fields:
        fields = yaml.safe_load((path.parent / fields["include"]).read_text()) | fields
    return fields


CASES = [
    ("arc-easy", "arc_easy", "arc", 2365),
    ("arc-challenge", "arc_challenge", "arc", 1165),
    ("openbookqa", "openbookqa", "openbookqa", 500),
]


@pytest.mark.parametrize(("name", "theirs", "folder", "count"), CASES)
def test_asked_as_lm_eval_asks(data, name, theirs, folder, count):
    from lm_eval.utils import apply_template

    fields = lm_eval_task(theirs)
    assert fields["output_type"] == "multiple_choice"
    capability = load_capability(f"{name}:{data / folder}")
    assert len(capability.items) == len(capability.questions("test")) == count
    for item in capability.items[::50]:
        question = item.prompt.removeprefix("Question: ").removesuffix("\nAnswer:")
        doc = {
            "question": question,
            "question_stem": question,
            "choices": {"text": list(item.options), "label": ["A", "B", "C", "D"]},
            "answerKey": "ABCD"[item.answer],
        }
        text = fields["doc_to_text"]
        assert item.prompt == (apply_template(text, doc) if "{{" in text else doc[text])
        assert apply_template(fields["doc_to_target"], doc) == str(item.answer)
        assert fields["doc_to_choice"] == "{{choices.text}}"
    assert "target_delimiter" not in fields  # its default: one space, as ours


def test_sums_and_accuracy_are_lm_eval_s(data):
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    from lm_eval.api.instance import Instance

    from equipoise.fairness import accuracy
    from equipoise.models import load

    model = load(str(data / "imdb-5m"))
    items = []
    for name, _, folder, _ in CASES:
        questions = load_capability(f"{name}:{data / folder}").items
        items += sorted(questions, key=lambda item: len(item.prompt))[:8]
    pairs = [(item.prompt, f" {option}") for item in items for option in item.options]
    theirs = huggingface.HFLM(pretrained=model.hf, tokenizer=model.tokenizer, batch_size=1)
    requests = [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)]
    sums = np.array([total for total, _ in theirs.loglikelihood(requests)]).reshape(-1, 4)
    ours = decide(model, items)[0]
    np.testing.assert_allclose(ours.scores, sums, atol=2e-3)
    expected = np.mean(sums.argmax(axis=1) == [item.answer for item in items])
    assert accuracy(ours)["estimate"] == pytest.approx(expected)


def test_found_in_the_data_folder(data, monkeypatch):
    monkeypatch.setenv("EQUIPOISE_DATA", str(data))
    assert load_capability("arc-challenge", limit=10).items[0].contexts == ("ARC-Challenge",)


@pytest.mark.parametrize("name", ["mmlu", "arc-easy", "arc-challenge", "openbookqa"])
def test_as_tasks_they_are_the_test_questions(data, monkeypatch, name):
    monkeypatch.setenv("EQUIPOISE_DATA", str(data))
    options = {"shots": 5} if name == "mmlu" else {}
    task = load_task(name)
    assert task.name == name
    assert task.items == load_capability(name, **options).questions("test")
    assert load_task(name, **options).digest == task.digest
    assert task_options(name) == options
    assert not any(item.ambiguous for item in task.items)
    if name == "mmlu":
        assert task.items[0].prompt.count("\nAnswer:") == 6
        with pytest.raises(EquipoiseError, match="0 to 5 shots"):
            load_task(name, shots=6)


def test_an_audit_tells_their_accuracy(tiny, tmp_path):
    for part, rows in (("dev", "B"), ("val", "C"), ("test", "ABCDA")):
        (tmp_path / part).mkdir()
        for subject in ("art", "law"):
            lines = [f"{subject} {n}?,one,two,three,four,{a}" for n, a in enumerate(rows)]
            (tmp_path / part / f"{subject}_{part}.csv").write_text("\n".join(lines))
    task = load_task("mmlu", data=tmp_path, shots=1)
    (row,) = audit(tiny, task).rows
    right = decide(tiny, task.items)[0].scores.argmax(axis=1) == [0, 1, 2, 3, 0] * 2
    scores = row["benchmark"]
    assert scores["pooled"]["accuracy"].items() <= row["unambiguous_accuracy"].items()
    assert scores["pooled"]["accuracy"]["n"] == 10
    for number, subject in enumerate(("art", "law")):
        told = scores["by_subject"][subject]["accuracy"]
        assert told["n"] == 5
        assert told["estimate"] == pytest.approx(right[5 * number : 5 * number + 5].mean())
    alone = question_scores(decide(tiny, task.items[:5])[0])
    assert set(alone) == {"pooled"}


def test_from_the_hub(monkeypatch):
    def load_dataset(name, config, split):
        letters = ["1", "2", "3"] if split == "train" else ["A", "B", "C", "D", "E"]
        choices = {"text": [f"choice {letter}" for letter in letters], "label": letters}
        row = {"choices": choices, "answerKey": letters[-1]}
        return [row | {"question": f"{config} {split}?", "question_stem": f"{name} {split}"}]

    fake = types.ModuleType("datasets")
    fake.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setattr("equipoise.tasks.hub.hub_answers", lambda *_: True)
    monkeypatch.delenv("EQUIPOISE_DATA", raising=False)
    easy = load_capability("arc-easy")
    assert [(item.split, item.answer) for item in easy.items] == [
        ("train", 2),
        ("validation", 4),
        ("test", 4),
    ]
    assert easy.items[0].prompt == "Question: ARC-Easy train?\nAnswer:"
    assert load_capability("openbookqa").items[2].prompt == "allenai/openbookqa test"


def test_train_parts_are_read_where_there_are(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        (tmp_path / part / f"ARC-Easy_{part}.csv").write_text('"q?",a,b,c,d,B\n')
    items = load_capability(f"arc-easy:{tmp_path}").items
    assert [(item.split, item.answer) for item in items] == [("train", 1), ("test", 1)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("q,a,b,c,d,F", ":1: expected a question, four different"),
        ("q,a,a,c,d,A", ":1: expected a question, four different"),
        ("q,a,b,c,A", ":1: 5 cells where 6"),
    ],
)
def test_a_damaged_arc_is_named(tmp_path, row, message):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "ARC-Easy_test.csv").write_text(row)
    with pytest.raises(EquipoiseError, match=f"ARC-Easy_test.csv{message}"):
        load_capability(f"arc-easy:{tmp_path}")
    with pytest.raises(EquipoiseError, match=r"ARC-Challenge_test\.csv: cannot be read"):
        load_capability(f"arc-challenge:{tmp_path}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not complete JSON"),
        ("{}", "expected a JSON list"),
        (json.dumps([{"instruction": "what?", "answer": "answer1"}]), "entry 1: expected an 'inst"),
        (json.dumps(["what?"]), "entry 1: expected"),
    ],
)
def test_a_damaged_openbookqa_is_named(tmp_path, content, message):
    (tmp_path / "test.json").write_text(content)
    with pytest.raises(EquipoiseError, match=message):
        load_capability(f"openbookqa:{tmp_path}")
