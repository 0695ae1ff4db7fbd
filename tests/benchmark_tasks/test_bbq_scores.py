"""BBQ's scores on hand-made tables, and against lm-eval's on random answers."""

import json

import numpy as np
import pytest
from bbq_lines import category_lines, write
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.decisions import Decisions
from equipoise.errors import EquipoiseError
from equipoise.fairness.benchmarks import bbq_scores, benchmark_scores
from equipoise.tasks import load_task
from equipoise.tasks.item import Item

SIDES = ("pro", "anti", "abstain")


def answers(rows):
    """Rows (category, ambiguous, side picked, side that is right) as decisions."""
    items = [
        Item(
            id=str(number),
            prompt="?",
            options=("A", "B", "C"),
            contexts=(category,),
            sides=SIDES,
            answer=None if ambiguous else SIDES.index(right),
        )
        for number, (category, ambiguous, _, right) in enumerate(rows)
    ]
    scores = np.full((len(rows), 3), -4.0)
    for row, (_, _, picked, _) in enumerate(rows):
        scores[row, SIDES.index(picked)] = -0.1
    return Decisions(tuple(items), scores)


def test_a_hand_made_table():
    rows = [("Age", True, side, "abstain") for side in 5 * ["pro"] + 2 * ["anti"] + 3 * ["abstain"]]
    rows += [("Age", False, "pro", "pro")] * 6 + [("Age", False, "pro", "anti")] * 3
    rows += [("Age", False, "anti", "anti")] * 1 + [("Age", False, "abstain", "anti")] * 2
    cell = bbq_scores(answers(rows))["by_category"]["Age"]
    # accuracy 3/10, ratio 2 · 5/7 − 1 = 3/7: s_AMB = .7 · 3/7; s_DIS = 2 · 9/10 − 1
    assert cell["accuracy_ambiguous"]["estimate"] == pytest.approx(0.3)
    assert cell["s_amb"]["estimate"] == pytest.approx(0.7 * 3 / 7)
    assert cell["s_dis"]["estimate"] == pytest.approx(0.8)
    assert cell["accuracy_disambiguated"]["estimate"] == pytest.approx(7 / 12)
    assert cell["false_abstention"]["estimate"] == pytest.approx(2 / 12)
    assert [cell[key]["n"] for key in ("s_amb", "s_dis", "false_abstention")] == [10, 10, 12]
    for value in cell.values():
        assert value["low"] <= value["estimate"] <= value["high"]


def test_empty_cells_are_null_and_never_nan():
    rows = [("Age", True, "abstain", "abstain")] * 4 + [("SES", False, "abstain", "pro")] * 4
    scores = bbq_scores(answers(rows))
    age, ses = scores["by_category"]["Age"], scores["by_category"]["SES"]
    assert age["s_dis"] is None
    assert age["accuracy_disambiguated"] is None
    assert age["s_amb"]["estimate"] == 0  # all right: no bias, but four answers allow for some
    assert age["s_amb"]["high"] == pytest.approx(1.96**2 / (4 + 1.96**2), abs=1e-3)
    assert ses["s_dis"] is None  # nobody answered
    assert ses["s_amb"] is None
    assert ses["false_abstention"]["estimate"] == 1
    assert "NaN" not in json.dumps(scores)
    assert benchmark_scores("bbq", answers([])) is None
    assert benchmark_scores("coreference", answers(rows)) is None


def test_a_diverged_model_is_an_error():
    bad = answers([("Age", True, "pro", "abstain")])
    with pytest.raises(EquipoiseError, match="not log-probabilities"):
        benchmark_scores("bbq", Decisions(bad.items, bad.scores * np.nan))


ROW = st.one_of(
    st.tuples(st.sampled_from("xy"), st.just(True), st.sampled_from(SIDES), st.just("abstain")),
    st.tuples(
        st.sampled_from("xy"), st.just(False), st.sampled_from(SIDES), st.sampled_from(SIDES[:2])
    ),
)


@settings(deadline=None)  # the first call imports lm-eval
@given(st.lists(ROW, min_size=1, max_size=40))
def test_scores_are_lm_eval_s(rows):
    utils = pytest.importorskip("lm_eval.tasks.bbq.utils")
    found = benchmark_scores("bbq", answers(rows))
    for name in ("x", "y", None):
        here = [row for row in rows if name in (None, row[0])]
        cell = found["pooled"] if name is None else found["by_category"].get(name)
        if not here:
            continue
        theirs = [
            (float(picked == right), float(picked == "pro"), float(picked != "abstain"), not amb)
            for _, amb, picked, right in here
        ]
        for key, aggregate, ambiguous in (
            ("s_amb", utils.agg_amb_bias_scores, True),
            ("s_dis", utils.agg_disamb_bias_scores, False),
        ):
            asked = [row for row in here if row[1] == ambiguous]
            if not asked or (not ambiguous and all(row[2] == "abstain" for row in asked)):
                assert cell[key] is None
            elif not ambiguous and all(row[2] != "pro" for row in asked):
                # lm-eval calls "never the target" unbiased; it is as biased as it can be.
                assert aggregate(theirs) == 0
                assert cell[key]["estimate"] == -1
            elif ambiguous and all(row[2] != "pro" for row in asked):
                assert aggregate(theirs) == 0
                assert cell[key]["estimate"] <= 0
            else:
                assert cell[key]["estimate"] == pytest.approx(aggregate(theirs))


def test_always_the_same_letter_is_no_bias(tmp_path):
    write(tmp_path / "Age.jsonl", category_lines("Age", 6))
    task = load_task("bbq", data=tmp_path)
    scores = np.tile([-0.1, -3.0, -3.0], (len(task.items), 1))
    pooled = bbq_scores(Decisions(task.items, scores))["pooled"]
    assert pooled["s_amb"]["estimate"] == 0
    assert pooled["s_amb"]["low"] < -0.1 < 0.1 < pooled["s_amb"]["high"]
