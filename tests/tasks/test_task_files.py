import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.errors import EquipoiseError
from equipoise.tasks import SPLITS, Item, Task, read_anchors, read_jsonl, write_jsonl

ROW = {
    "id": "w12a",
    "context": "nurse",
    "prompt": "She left. Who is meant?",
    "options": ["the nurse", "the doctor", "cannot tell"],
    "sides": ["pro", "anti", "abstain"],
    "answer": None,
    "twin": "w12",
    "classes": ["female-list", "male-list", None],
    "attribute": ["she", "her"],
}
EMPTY = ["context", "twin", "classes", "attribute", "images", "split", "id", "sides", "groups"]


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def fails(path, *, line=None):
    """The message, which must be one line that starts with the file (and line)."""
    with pytest.raises(EquipoiseError) as caught:
        read_jsonl(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}:{line}: " if line else f"{path}: ")
    return message


def test_reads_the_contract_example(tmp_path):
    (tmp_path / "rel").mkdir()
    (tmp_path / "rel" / "path.png").touch()
    path = write(tmp_path / "mine.jsonl", {**ROW, "images": ["rel/path.png"], "split": "test"})
    task = read_jsonl(path)
    assert task.name == "mine"
    (item,) = task.items
    assert item == Item(
        id="w12a",
        contexts=("nurse",),
        prompt="She left. Who is meant?",
        options=("the nurse", "the doctor", "cannot tell"),
        sides=("pro", "anti", "abstain"),
        answer=None,
        twin="w12",
        classes=("female-list", "male-list", None),
        attribute=("she", "her"),
        images=(str(tmp_path / "rel" / "path.png"),),
        split="test",
    )


def test_optional_fields_have_defaults(tmp_path):
    row = {"prompt": "2 + 2 =", "options": ["4", "5"], "answer": 0}
    (first, second) = read_jsonl(write(tmp_path / "t.jsonl", row, row)).items
    assert (first.id, first.twin, first.contexts) == ("line-1", "line-1", ())
    assert second.id == "line-2"
    nulls = write(tmp_path / "n.jsonl", *[row | dict.fromkeys(EMPTY)] * 2)
    assert read_jsonl(nulls).items == (first, second)  # as pandas and datasets write them


def test_context_may_be_a_list_and_groups_replace_sides(tmp_path):
    row = {
        "context": ["nurse", "mechanic"],
        "prompt": "?",
        "options": ["a", "b", "c"],
        "groups": ["black_woman", "white_man", None],
    }
    path = write(tmp_path / "t.jsonl", row)
    task = read_jsonl(path, target={"black_woman": 0.25, "white_man": 0.75})
    assert task.items[0].contexts == ("nurse", "mechanic")
    assert task.items[0].abstains == (False, False, True)
    assert task.target == {"black_woman": 0.25, "white_man": 0.75}
    for target in ({"black_woman": 1.0}, {"black_woman": 0.5, "white_man": 0.6}):
        with pytest.raises(EquipoiseError, match="target"):
            read_jsonl(path, target=target)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": ...}, "missing field 'prompt'"),
        ({"options": ...}, "missing field 'options'"),
        ({"prompt": "  "}, "prompt is empty"),
        ({"prompt": 7}, "prompt should be a valid string, got 7"),
        ({"prompt": "\ud800"}, "half a character"),
        ({"options": ["only"]}, "two or more"),
        ({"options": ["x", " ", "y"]}, r"options\[1\] is empty"),
        ({"options": ["x", "y", " x "]}, "options 0 and 2 are equal"),
        ({"options": ["x", 3, "y"]}, r"options\[1\] should be a valid string, got 3"),
        ({"answer": 3}, "answer 3 is out of range: 3 options"),
        ({"answer": -1}, "out of range"),
        ({"answer": True}, "answer should be a valid integer, got True"),
        ({"sides": ["pro", "anti"]}, "sides has 2 entries for 3 options"),
        ({"classes": ["a"]}, "classes has 1 entries for 3 options"),
        ({"sides": None, "groups": ["a", "b"]}, "groups has 2 entries"),
        ({"sides": ["pro", "anti", "neither"]}, r"sides\[2\] should be 'pro', 'anti' or 'abstain'"),
        ({"groups": ["a", "b", None]}, "both sides and groups"),
        ({"sides": None}, "needs sides or groups"),
        ({"sides": ["pro", None, "abstain"]}, "at least one 'pro' and one 'anti'"),
        ({"sides": None, "groups": ["a", "a", None]}, "two different groups"),
        ({"context": []}, "needs a context"),
        ({"context": None}, "needs a context"),
        ({"context": ["nurse", ""]}, r"context\[1\] is empty"),
        ({"context": " "}, "context is empty"),
        ({"context": "", "answer": 0}, "context is empty"),
        ({"context": ["nurse", "baker", "nurse"]}, "context 'nurse' is given twice"),
        ({"sides": None, "groups": ["a", "", "b"]}, r"groups\[1\] is empty"),
        ({"classes": ["", None, None]}, r"classes\[0\] is empty"),
        ({"attribute": ["she", " "]}, r"attribute\[1\] is empty"),
        ({"attribute": ["he", "his"]}, r"attribute \['he', 'his'\]: none of the words stands in"),
        ({"split": "dev"}, "split should be 'train', 'validation', 'test' or 'unseen', got 'dev'"),
        ({"contxt": "nurse"}, r"unknown field 'contxt' \(did you mean 'context'\?\)"),
        ({"zzzz": 1}, "unknown field 'zzzz'; known: "),
        ({"images": ["missing.png"]}, "image 'missing.png' does not exist"),
        ({"images": ["a\0b.png"]}, "does not exist"),
    ],
)
def test_a_bad_row_is_named(tmp_path, change, message):
    bad = {k: v for k, v in {**ROW, **change, "id": "bad"}.items() if v is not ...}
    path = write(tmp_path / "t.jsonl", ROW, bad)
    assert re.search(message, fails(path, line=2))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (json.dumps(ROW).encode()[:-40], 1),
        (json.dumps(ROW).encode() + b"\n{", 2),
        (json.dumps(ROW).encode() + b"\n\n[1, 2]", 3),
        (json.dumps(ROW).encode() + b'\n{"prompt": "caf\xe9"}', 2),
        (json.dumps(ROW).encode("utf-16"), 1),
        (b"[" * 100_000, 1),
        (b'{"answer": ' + b"9" * 10_000 + b"}", 1),
        (b"", None),
        (b"\n  \n", None),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, line):
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    fails(path, line=line)


def test_a_field_given_twice_is_named(tmp_path):
    """JSON takes the last one: sides said twice would turn a stereotype round."""
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(ROW)[:-1] + ', "sides": ["anti", "pro", "abstain"]}\n')
    assert fails(path, line=1).endswith("field 'sides' is given twice")


def test_missing_files_and_folders_are_named(tmp_path):
    assert "cannot be read" in fails(tmp_path / "none.jsonl")
    assert "cannot be read" in fails(tmp_path)


def test_rules_between_rows(tmp_path):
    path = tmp_path / "t.jsonl"
    write(path, ROW, ROW)
    assert "id 'w12a' was given on line 1 already" in fails(path, line=2)
    write(path, {**ROW, "split": "train"}, {**ROW, "id": "b", "split": "test"})
    assert "twin 'w12' is in split 'test' here and in 'train' on line 1" in fails(path, line=2)
    write(path, {**ROW, "split": "train"}, {**ROW, "id": "b", "twin": "c"})
    assert "no split here" in fails(path, line=2)
    write(path, {**ROW, "split": "train"}, {**ROW, "id": "b", "twin": "c", "split": "unseen"})
    assert "'nurse'" in fails(path, line=2)


def test_an_unseen_item_may_also_speak_about_a_context_that_is_seen(tmp_path):
    """One answer on two occupations is evidence on the held-out one."""
    rows = [
        {**ROW, "split": "train"},
        {**ROW, "id": "b", "twin": "c", "split": "unseen", "context": ["nurse", "pilot"]},
    ]
    task = read_jsonl(write(tmp_path / "t.jsonl", *rows))
    assert task.held_out_contexts == {"pilot"}
    assert [item.id for item in task.split("unseen")] == ["b"]


def test_line_separators_inside_strings_are_text(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({**ROW, "prompt": "she a\u2028b\x85c"}, ensure_ascii=False), "utf-8")
    assert read_jsonl(path).items[0].prompt == "she a\u2028b\x85c"


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip)


@st.composite
def items(draw, grouped):
    options = draw(st.lists(text, min_size=2, max_size=4, unique_by=str.strip))
    ambiguous = draw(st.booleans())
    blank = [None] * (len(options) - 2)
    prompt = draw(text)
    labels = (None, ("a", "b", *blank)) if grouped else (("pro", "anti", *blank), None)
    labels = labels if ambiguous else (None, None)
    return Item(
        id=draw(text),
        prompt=prompt,
        options=tuple(options),
        contexts=tuple(draw(st.lists(text, min_size=ambiguous, max_size=3, unique=True))),
        sides=labels[0],
        groups=labels[1],
        answer=None if ambiguous else draw(st.integers(0, len(options) - 1)),
        twin=draw(text),
        classes=draw(st.none() | st.just(tuple(options))),
        attribute=(prompt, *draw(st.lists(text, max_size=2))) if draw(st.booleans()) else (),
        split=draw(st.sampled_from(SPLITS[:3])),
    )


@settings(max_examples=60, deadline=None)
@given(
    st.booleans().flatmap(
        lambda grouped: st.lists(
            items(grouped), min_size=1, max_size=5, unique_by=(lambda i: i.id, lambda i: i.twin)
        )
    )
)
def test_what_is_written_is_read(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("round") / "t.jsonl"
    write_jsonl(Task("t", tuple(rows)), path)
    task = read_jsonl(path)
    assert task.items == tuple(rows)
    assert [p.name for p in path.parent.iterdir()] == ["t.jsonl"]


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from([*ROW, "split", "groups", "x"]), inner, max_size=8)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_file_reads_or_says_what_is_wrong(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(content)
    message = ""
    try:
        assert len(read_jsonl(path).digest) == 64
    except EquipoiseError as error:
        message = str(error)
    assert message == "" or (message.startswith(f"{path}:") and "\n" not in message)


def test_images_are_written_relative_to_the_file(tmp_path):
    (tmp_path / "a.png").touch()
    item = Item(id="i", twin="i", prompt="?", options=("a", "b"), answer=0)
    item = Item(**{**item.__dict__, "images": (str(tmp_path / "a.png"),)})
    path = tmp_path / "out.jsonl"
    write_jsonl(Task("t", (item,)), path)
    assert json.loads(path.read_text())["images"] == ["a.png"]
    assert read_jsonl(path).items == (item,)


def test_a_task_shows_itself_in_one_line(tmp_path):
    task = read_jsonl(write(tmp_path / "mine.jsonl", ROW | {"split": "test"}))
    assert repr(task) == f"Task('mine', test=1, digest='{task.digest[:8]}')"


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(EquipoiseError, match="cannot write"):
        write_jsonl(Task("t", ()), tmp_path / "no" / "t.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(EquipoiseError, match="cannot write"):
        write_jsonl(Task("t", ()), tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_the_examples_of_the_documentation_read(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "task-files.md").read_text(encoding="utf-8")
    examples = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 2
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(example, encoding="utf-8")
        assert read_jsonl(path).items


def test_anchors_of_a_file_are_its_train_part_or_all(tmp_path):
    rows = [{**ROW, "id": f"{k}", "twin": f"{k}", "context": f"c{k}"} for k in range(8)]
    path = write(tmp_path / "bare.jsonl", *rows)
    assert {item.split for item in read_jsonl(path).items} != {"train"}
    whole = read_anchors(path)
    assert [item.id for item in whole] == [row["id"] for row in rows]
    assert {item.split for item in whole} == {"train"}
    for row, split in zip(rows, ["train", "validation", "test", "unseen"] * 2, strict=True):
        row["split"] = split
    assert [item.id for item in read_anchors(write(path, *rows))] == ["0", "4"]
    with pytest.raises(EquipoiseError, match=r"bare\.jsonl: no row has the split 'train'"):
        read_anchors(write(path, *rows[1:4]))


def test_sides_and_groups_do_not_mix(tmp_path):
    grouped = {**ROW, "id": "g", "twin": "g", "groups": ["a", "b", None]}
    del grouped["sides"]
    plain = {"prompt": "?", "options": ["x", "y"], "answer": 0}
    for first, second, says in (
        (ROW, grouped, "groups here, but sides on line 1"),
        (grouped, ROW, "sides here, but groups on line 1"),
    ):
        path = write(tmp_path / "mixed.jsonl", first, plain, second)
        assert says in fails(path, line=3)
    answered = {**ROW, "id": "u", "twin": "u", "answer": 0}
    path = write(tmp_path / "fine.jsonl", grouped, plain, answered)
    assert len(read_jsonl(path).items) == 3
