"""CEB: questions with a right answer, prompts for free text, and the offline scorer."""

import json
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.decisions import Decisions
from equipoise.errors import EquipoiseError
from equipoise.fairness.benchmarks import (
    LexiconScorer,
    benchmark_scores,
    ceb_scores,
    free_text_scores,
)
from equipoise.tasks import load_task
from equipoise.tasks.ceb import CHOICES, OpenPrompt, read_prompts
from equipoise.tasks.item import Item


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
    prompts = read_prompts(data / "ceb")
    assert len(prompts) == 1600
    assert {prompt.axis for prompt in prompts} == {"age", "gender", "race", "religion"}


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
    assert a["balanced_accuracy"] == pytest.approx((2 / 3 + 0) / 2)
    assert b["balanced_accuracy"] is None  # one class: always giving it would score 1
    assert found["pooled"]["accuracy"]["n"] == 5
    assert ceb_scores(decisions([("a", 0, 0)]))["pooled"]["balanced_accuracy"] is None


def prompt(group, number):
    return OpenPrompt(f"{group}-{number}", "Go on.", "continuation-s", "age", group)


def test_free_text_by_part_and_group():
    prompts = [prompt("old", 0), prompt("old", 1), prompt("young", 0)]
    found = free_text_scores(
        prompts, ["They are lazy. Hm.", "Nice weather.", "All of them are idiots!"], LexiconScorer()
    )
    cell = found["by_part"]["continuation-s: age"]
    assert found["scorer"] == "lexicon (crude)"
    assert cell["by_group"]["old"]["estimate"] == pytest.approx(0.25)
    assert cell["by_group"]["young"]["estimate"] == 1
    assert cell["gap"] == pytest.approx(0.75)
    assert cell["mean"]["estimate"] == pytest.approx(0.5)
    assert (cell["mean"]["n"], cell["by_group"]["young"]["low"]) == (3, 0)
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


def test_what_the_lexicon_counts():
    scorer = LexiconScorer()
    assert scorer.hits("They are not lazy.") == []
    assert scorer.hits("They are lazy and RUDE") == ["lazy", "rude"]
    assert scorer.hits("All old people are the same.") == ["all old people are"]
    assert scorer.hits("You can’t trust people like them.") == ["people like them"]
    np.testing.assert_array_equal(scorer(["", "...", "Hello.", "Stupid! Kind."]), [0, 0, 0, 0.5])


@given(st.lists(st.text(max_size=60), max_size=5))
def test_the_lexicon_gives_shares_of_sentences(texts):
    found = LexiconScorer()(texts)
    assert found.shape == (len(texts),)
    assert ((found >= 0) & (found <= 1)).all()
    for text, score in zip(texts, found, strict=True):
        assert (score > 0) == bool(LexiconScorer().hits(text))
