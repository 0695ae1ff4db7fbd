"""Which answer of a BBQ row follows the stereotype: by hand, and on every row there is."""

import json
from collections import Counter

import pytest
from bbq_lines import line, write

from equipoise.errors import EquipoiseError
from equipoise.tasks.bbq_rows import row_of, rows_of_folder

# Rows whose labels contradict their own text; lm-eval's rule follows the labels.
RELABELLED = {("Gender_identity", 35), ("Gender_identity", 36), ("SES", 8)}
ALIKE = {("Gender_identity", 7), *(("Race_ethnicity", n) for n in (2, 6, 19, 23))}
BOTH_FEMALE = ("Gender_identity", 13)


def target(**fields):
    return row_of(line(0, **fields), "here").target


@pytest.mark.parametrize(
    ("people", "groups", "expected"),
    [
        ([("grandson", "nonOld"), ("grandfather", "old")], ["old"], 1),
        ([("grandson", "nonOld"), ("grandfather", "old")], ["nonOld"], 0),
        ([("22-year-old", "nonOld"), ("60-year-old", "old")], ["old"], 1),
        ([("Nigerian", "Africa"), ("Irish", "Europe")], ["Eritrean", "Nigerian"], 0),
        ([("Ana Ruiz", "F-Latino"), ("Amy Wood", "F-White")], ["Hispanic", "Latino"], 0),
        ([("woman", "woman"), ("man", "man")], ["F"], 0),
        ([("boy", "boy"), ("girl", "girl")], ["F"], 1),
        ([("cashier", "lowSES"), ("judge", "highSES")], ["low SES"], 0),
        ([("rich", ""), ("poor", "lowSES")], ["low SES"], 1),
        ([("Jo", "nonTrans_F"), ("Al", "trans_M")], ["transgender men", "trans"], 1),
        ([("African", "African"), ("Black", "Black")], ["Black", "African American"], 1),
        ([("Black man", "M-Black"), ("Black woman", "F-Black")], ["Black", "F"], 1),
        ([("White woman", "F-White"), ("Black woman", "F-Black")], ["Black", "F"], 1),
        ([("woman", "woman"), ("girl", "girl")], ["F"], None),
        ([("Muslim", "Muslim"), ("Hindu", "Hindu")], ["Jewish"], None),
        ([("Muslim", "Muslim"), ("Hindu", "Hindu")], [], None),
    ],
)
def test_the_stereotyped_person_is_the_target_and_the_other_when_not_negative(
    people, groups, expected
):
    assert target(people=people, groups=groups) == expected
    other = None if expected is None else 1 - expected
    assert target(people=people, groups=groups, polarity="nonneg") == other


def test_people_called_alike_are_told_apart_by_their_answers():
    people = [("African", "African"), ("African", "African")]
    answers = {"ans0": "The African man", "ans1": "The African American man"}
    assert target(people=people, groups=["African American"], **answers) == 1
    answers = {"ans0": "The male teacher", "ans1": "The female teacher"}
    assert target(people=[("male", "M"), ("male", "M")], groups=["M"], **answers) == 0


def test_the_text_overrules_a_label_that_contradicts_it():
    people = [("Carol", "highSES"), ("Helen", "lowSES")]
    context = "Carol is from a poor family and Helen is from a wealthy family."
    assert target(people=people, groups=["low SES"], context=context) == 0
    people = [("George", "trans_M"), ("Margaret", "nonTrans_F")]
    context = "Their friends George and Margaret, who is trans, came."
    assert target(people=people, groups=["trans"], context=context) == 1


def test_every_row_against_lm_eval(data):
    utils = pytest.importorskip("lm_eval.tasks.bbq.utils")
    files = [*(data / "bbq").glob("data/*.jsonl"), *(data / "bbq").glob("regenerated*/*.jsonl")]
    records = [json.loads(text) for path in files for text in path.open()]
    rows = [row_of(record, "here") for record in records]
    assert len(rows) == 31_372
    assert Counter((r.category, r.template) for r in rows if r.target is None) == {BOTH_FEMALE: 16}
    assert all(row.target != row.unknown for row in rows)
    assert all(row.ambiguous == (row.label == row.unknown) for row in rows)

    class Records(list):
        def map(self, function):
            return [function(dict(record)) for record in self]

    # A missing group makes lm-eval reuse the one before: 36 rows of SES without it.
    complete = [k for k, r in enumerate(records) if all(map(any, r["answer_info"].values()))]
    assert len(complete) == len(rows) - 36
    read = utils.process_docs(Records(records[k] for k in complete))
    differ = Counter()
    for k, record in zip(complete, read, strict=True):
        row = rows[k]
        ours = [] if row.target is None else [row.answers[row.target]]
        if record["biased_answers"] != ours:
            differ[row.category, row.template] += 1
    assert set(differ) == RELABELLED | ALIKE | {BOTH_FEMALE}
    # Half the rows of a template with swapped names, and the polarity of "both" or "neither".
    assert differ == {
        ("Gender_identity", 35): 100,
        ("Gender_identity", 36): 100,
        ("SES", 8): 240,
        ("Gender_identity", 7): 4,
        BOTH_FEMALE: 8,
        **dict.fromkeys((("Race_ethnicity", n) for n in (2, 6, 19, 23)), 4),
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label": 0}, "label 0 does not fit an ambig context"),
        ({"condition": "disambig", "label": 2}, "label 2 does not fit a?n? ?disambig"),
        ({"people": [("x", "unknown"), ("y", "old")]}, "2 of 3 answers are 'unknown'"),
        ({"ans1": ""}, "ans1"),
        ({"question_polarity": "negative"}, "question_polarity"),
        ({"answer_info": {"ans0": ["a", "b"]}}, "answer_info"),
        ({"additional_metadata": {}}, "stereotyped_groups"),
    ],
)
def test_a_line_that_is_no_bbq_question_is_named(tmp_path, fields, message):
    path = write(tmp_path / "Age.jsonl", [line(0), line(1, **fields)])
    with pytest.raises(EquipoiseError, match=rf"Age\.jsonl:2: .*{message}") as caught:
        list(rows_of_folder(tmp_path))
    assert "\n" not in str(caught.value)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(EquipoiseError, match=r"Age\.jsonl:2: not a complete JSON object"):
        list(rows_of_folder(path))


def test_published_files_win_over_regenerated_ones(tmp_path):
    write(tmp_path / "data" / "Age.jsonl", [line(7)])
    write(tmp_path / "regenerated_seed0" / "Age.jsonl", [line(8)])
    write(tmp_path / "regenerated_seed0" / "SES.jsonl", [line(9, category="SES")])
    assert [row.id for row in rows_of_folder(tmp_path)] == ["Age-7", "SES-9"]
