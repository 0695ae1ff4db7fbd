"""CEB: questions with a right answer, prompts for free text, and the offline scorer."""

import json
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise.decisions import Decisions
from equipoise.errors import EquipoiseError
from equipoise.fairness.benchmarks import (
    LexiconScorer,
    benchmark_scores,
    ceb_scores,
    free_text_scores,
    load_scorer,
)
from equipoise.models import Model
from equipoise.steering import Additive, Steering
from equipoise.study import Settings, audit, sweep
from equipoise.tasks import Task, load_task
from equipoise.tasks.ceb import CHOICES
from equipoise.tasks.item import Item, OpenPrompt


def test_real_ceb(data):
    task = load_task("ceb", data=data / "ceb")
    counts = Counter(item.contexts[0] for item in task.items)
    assert counts["recognition-s: age"] == counts["recognition-t: race"] == 200
    assert counts["selection-s: gender"] == counts["selection-t: religion"] == 100
    assert sum(counts.values()) == 2400
    assert Counter(item.answer for item in task.items) == {0: 1200, 1: 1200}
    # The two sentences about one scenario are a twin, one a stereotype and one not.
    twins = defaultdict(list)
    for item in task.items:
        if item.contexts == ("recognition-s: age",):
            twins[item.twin].append(item.answer)
    assert all(sum(answers) * 2 == len(answers) for answers in twins.values())
    scenario = "At the first book club meeting"
    assert len({item.split for item in task.items if scenario in item.prompt}) == 1


def test_adapted_parts_and_prompts(data):
    task = load_task("ceb", data=data / "ceb", parts="recognition-ss,recognition-wb")
    options = Counter((item.contexts[0], len(item.options)) for item in task.items)
    assert options["recognition-ss: profession", 3] == 240
    assert options["recognition-wb: gender", 2] == 792
    twins = Counter(i.twin for i in task.items if i.contexts == ("recognition-wb: gender",))
    assert Counter(twins.values())[2] > 350  # he and she
    free = load_task("ceb", data=data / "ceb", parts="continuation,conversation")
    assert (len(free.prompts), free.items) == (1600, ())
    assert {prompt.axis for prompt in free.prompts} == {"age", "gender", "race", "religion"}
    some = load_task("ceb", data=data / "ceb", parts="conversation-s,selection", limit=40)
    assert len(some.prompts) == 40
    assert {prompt.axis for prompt in some.prompts} == {"age", "gender", "race", "religion"}
    assert {item.contexts[0].split(":")[0] for item in some.items} == {"selection-s", "selection-t"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not complete JSON"),
        ("[]", "expected a JSON list"),
        ('[{"prompt": "x"}]', r"age\.json: entry 1: not of CEB"),
        ('[{"prompt": "1. a 2. b", "label": "odd", "type": "age"}]', "entry 1: not of CEB"),
        (
            json.dumps([{"prompt": "1. a 2. b", "label": "toxic", "target": 2, "type": "age"}]),
            "label 'toxic' does not fit target 2",
        ),
    ],
)
def test_damaged_data_are_named(tmp_path, content, message):
    path = tmp_path / CHOICES["recognition-s"] / "age.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(EquipoiseError, match=message):
        load_task("ceb", data=tmp_path, parts="recognition-s")
    with pytest.raises(EquipoiseError, match="no part 'recognise'"):
        load_task("ceb", data=tmp_path, parts=["recognise"])
    with pytest.raises(EquipoiseError, match=r"CEB-Selection-S: no \*\.json"):
        load_task("ceb", data=tmp_path, parts="selection-s")


def decisions(rows):
    """Rows (context, right answer, answer given)."""
    items = [
        Item(id=str(n), prompt="?", options=("1", "2"), contexts=(context,), answer=right)
        for n, (context, right, _) in enumerate(rows)
    ]
    scores = np.where(np.eye(2)[[given for *_, given in rows]] > 0, -0.1, -3.0)
    return Decisions(tuple(items), scores)


def test_accuracies_of_a_hand_made_table():
    found = benchmark_scores(
        "ceb", decisions([("a", 0, 0), ("a", 0, 0), ("a", 0, 1), ("a", 1, 0), ("b", 1, 1)])
    )
    a, b = found["by_context"]["a"], found["by_context"]["b"]
    assert a["accuracy"]["estimate"] == pytest.approx(2 / 4)
    assert a["balanced_accuracy"]["estimate"] == pytest.approx((2 / 3 + 0) / 2)
    assert a["balanced_accuracy"]["low"] < 1 / 3 < a["balanced_accuracy"]["high"]
    assert a["balanced_accuracy"]["n"] == 4
    assert b["balanced_accuracy"] is None  # one class: always giving it would score 1
    assert found["pooled"]["accuracy"]["n"] == 5
    assert ceb_scores(decisions([("a", 0, 0)]))["pooled"]["balanced_accuracy"] is None


def prompt(group, number):
    return OpenPrompt(
        id=f"{group}-{number}", prompt="Go on.", part="continuation-s", axis="age", group=group
    )


def test_free_text_by_part_and_group():
    prompts = [prompt("old", 0), prompt("old", 1), prompt("young", 0)]
    found = free_text_scores(
        prompts, ["They are lazy. Hm.", "Nice weather.", "All of them are idiots!"], LexiconScorer()
    )
    cell = found["by_part"]["continuation-s: age"]
    assert found["scorer"] == "lexicon (crude)"
    assert cell["by_group"]["old"]["estimate"] == pytest.approx(0.25)
    assert cell["by_group"]["young"]["estimate"] == 1
    assert cell["gap"]["estimate"] == pytest.approx(0.75)
    assert (cell["gap"]["highest"], cell["gap"]["lowest"]) == ("young", "old")
    assert cell["gap"]["low"] is None  # a group of one answer
    assert cell["mean"]["estimate"] == pytest.approx(0.5)
    assert (cell["mean"]["n"], cell["answered"]["estimate"]) == (3, 1)
    assert cell["by_group"]["young"]["low"] < 0.5
    silent = free_text_scores(prompts, ["", " \n", "Hm"], LexiconScorer())["pooled"]
    assert silent["answered"]["estimate"] == pytest.approx(1 / 3)
    assert (silent["mean"]["low"], silent["mean"]["high"] > 0.5) == (0, True)  # three zeros
    alone = free_text_scores(prompts[:1], ["x"], LexiconScorer())
    assert alone["by_part"]["continuation-s: age"]["gap"] is None


def test_another_scorer_can_be_plugged_in_and_is_checked():
    class Length:
        name = "length"

        def __init__(self, scale):
            self.scale = scale

        def __call__(self, texts):
            return np.array([len(text) for text in texts]) * self.scale

    prompts = [prompt("old", 0)]
    found = free_text_scores(prompts, ["abcde"], Length(0.1))
    assert found["by_part"]["continuation-s: age"]["mean"]["estimate"] == pytest.approx(0.5)
    for scale in (1, np.nan):
        with pytest.raises(EquipoiseError, match="scorer 'length' must give one number in"):
            free_text_scores(prompts, ["abcde"], Length(scale))
    with pytest.raises(EquipoiseError, match="2 answers to 1 prompts"):
        free_text_scores(prompts, ["a", "b"], Length(0.1))


def test_a_negation_undoes_a_word_at_the_beginning_of_a_sentence_too():
    scorer = LexiconScorer()
    assert scorer.hits("Not lazy at all, that one.") == []
    assert scorer.hits("He is lazy, not slow at all.") == ["lazy"]


def test_what_the_lexicon_counts():
    scorer = LexiconScorer()
    assert scorer.hits("They are not lazy.") == []
    assert scorer.hits("They are lazy and RUDE") == ["lazy", "rude"]
    assert scorer.hits("All old people are the same.") == ["all old people are"]
    assert scorer.hits("You can’t trust people like them.") == ["people like them"]
    np.testing.assert_array_equal(scorer(["", "...", "Hello.", "Stupid! Kind."]), [0, 0, 0, 0.5])


def test_a_gap_of_nothing_is_at_parity():
    random = np.random.default_rng(5)
    prompts = [prompt(f"group {k}", number) for k in range(6) for number in range(30)]
    scores = random.integers(0, 2, len(prompts)).astype(float)

    class Drawn:
        name = "drawn"

        def __call__(self, texts):
            return scores

    gap = free_text_scores(prompts, ["x"] * len(prompts), Drawn())["by_part"][
        "continuation-s: age"
    ]["gap"]
    assert gap["estimate"] > 0.1  # the largest of six less the smallest, by chance alone
    assert gap["estimate"] == pytest.approx(gap["parity"], abs=0.15)
    assert gap["low"] < gap["estimate"] < gap["high"]


def test_balanced_accuracy_s_interval_holds_what_it_promises():
    random = np.random.default_rng(3)
    truth, covered = (0.9 + 0.6) / 2, 0
    for _ in range(400):
        answers = np.repeat([0, 1], [30, 60])
        right = random.random(90) < np.where(answers == 0, 0.9, 0.6)
        rows = [
            ("a", int(a), int(a if ok else 1 - a)) for a, ok in zip(answers, right, strict=True)
        ]
        cell = ceb_scores(decisions(rows))["pooled"]["balanced_accuracy"]
        covered += cell["low"] <= truth <= cell["high"]
    assert 0.91 < covered / 400 < 0.99


PROMPTS = tuple(
    OpenPrompt(
        id=f"{group}-{k}",
        prompt=f"The {group} man {'who was here ' * k}said that",
        part="continuation-s",
        axis="age",
        group=group,
    )
    for group in ("old", "young")
    for k in range(3)
)


@pytest.mark.parametrize("budget", [1, 5000])
def test_an_audit_lets_the_model_write(tiny: Model, budget: int, monkeypatch) -> None:
    """Greedily, each prompt as it would be written alone; at every strength in a sweep."""
    heard: list[list[str]] = []

    def listening(self, texts):
        heard.append(list(texts))
        return np.zeros(len(texts))

    monkeypatch.setattr(LexiconScorer, "__call__", listening)
    settings = Settings(temperature=0, max_new_tokens=5, batch_tokens=budget)
    task = Task("mine", (), prompts=PROMPTS)
    (row,) = audit(tiny, task, settings=settings).rows
    assert row["benchmark"]["free_text"]["pooled"]["mean"]["n"] == 6
    assert row["option_mass"] is None

    def alone(text: str) -> str:
        ids = tiny.tokenizer.encode(text)
        start = len(ids)
        for _ in range(5):
            ids.append(int(tiny.hf(torch.tensor([ids])).logits[0, -1].argmax()))
        return tiny.tokenizer.decode(ids[start:], skip_special_tokens=True)

    assert heard[0] == [alone(one.prompt) for one in PROMPTS]
    torch.manual_seed(2)
    steering = Steering({"model.layers.0": Additive(torch.randn(32) * 3)})
    sweep(tiny, task, steering, [0.0, 1.0], settings=settings)
    assert heard[1] == heard[0]
    with steering.applied(tiny, strength=1.0):
        assert heard[2] == [alone(one.prompt) for one in PROMPTS]
    assert heard[2] != heard[1]


def test_an_unknown_scorer_is_named() -> None:
    assert load_scorer("lexicon").name == "lexicon (crude)"
    with pytest.raises(EquipoiseError, match=r"'lexikon' \(did you mean 'lexicon'"):
        load_scorer("lexikon")


@given(st.lists(st.text(max_size=60), max_size=5))
def test_the_lexicon_gives_shares_of_sentences(texts):
    found = LexiconScorer()(texts)
    assert found.shape == (len(texts),)
    assert ((found >= 0) & (found <= 1)).all()
    for text, score in zip(texts, found, strict=True):
        assert (score > 0) == bool(LexiconScorer().hits(text))
