import json
import sys
import types
import warnings
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.errors import EquipoiseError
from equipoise.tasks import SPLITS, list_capabilities, load_capability
from equipoise.tasks.capability import told_apart
from equipoise.tasks.documents import LONGEST, read_documents


def test_the_builtin_skills():
    skills = load_capability("builtin")
    assert (skills.name, skills.kind, skills.documents) == ("builtin", "accuracy", ())
    assert all(item.answer is not None for item in skills.items)
    assert all(skills.questions(split) for split in ("train", "validation", "test"))
    few = load_capability("builtin", limit=20)
    assert Counter(item.split for item in few.items) == dict.fromkeys(
        ("train", "validation", "test"), 20
    )
    by_skill = Counter(item.contexts for item in few.questions("test"))
    assert max(by_skill.values()) - min(by_skill.values()) <= 1


def test_a_text_file_is_cut_at_blank_lines(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("\n\n".join(f"text {n}\nmore" for n in range(10)) + "\n \n\n")
    capability = load_capability(f"perplexity:{path}")
    assert (capability.name, capability.kind) == ("perplexity:notes.txt", "perplexity")
    assert capability.texts("train") == tuple(f"text {n}\nmore" for n in range(4))
    assert capability.texts("validation") == ("text 4\nmore", "text 5\nmore")
    assert capability.texts("test") == tuple(f"text {n}\nmore" for n in range(6, 10))
    assert capability.texts() == tuple(f"text {n}\nmore" for n in range(10))  # an audit's
    told = f"train=4, validation=2, test=4, digest='{capability.digest[:8]}'"
    assert repr(capability) == f"Capability('perplexity:notes.txt', {told})"
    few = load_capability(f"perplexity:{path}", limit=2, seed=1)
    assert [len(few.texts(split)) for split in ("train", "validation", "test")] == [2, 2, 2]
    assert few == load_capability(f"perplexity:{path}", limit=2, seed=1)


@pytest.mark.parametrize(
    ("count", "parts"),
    [
        (1, (0, 1, 0)),
        (2, (0, 1, 1)),
        (3, (0, 2, 1)),
        (4, (0, 2, 2)),
        (5, (1, 2, 2)),
        (9, (3, 2, 4)),
        (20, (8, 4, 8)),
        (1000, (400, 200, 400)),
    ],
)
def test_few_documents_have_limits_before_anchors(tmp_path, count, parts):
    path = tmp_path / "t.json"
    path.write_text(json.dumps([f"text {n}" for n in range(count)]))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        capability = load_capability(f"perplexity:{path}")
    assert tuple(len(capability.texts(part)) for part in SPLITS[:3]) == parts
    assert len(capability.texts()) == count
    assert [str(one.message).startswith(f"{path}: {count} document") for one in told] == (
        [True] if count < 4 else []
    )


@pytest.mark.filterwarnings("ignore:.*one document has no limits")
def test_capabilities_of_one_name_take_in_their_folders(tmp_path):
    loaded = {}
    for folder in ("a/en/da", "b/en/da", "b/en/db"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("x.txt", "y.txt"):
            (tmp_path / folder / name).write_text(folder)
            loaded[f"{folder}/{name}"] = load_capability(f"perplexity:{tmp_path / folder / name}")

    def names(*keys):
        return [one.name for one in told_apart([loaded[key] for key in keys])]

    assert names("a/en/da/x.txt", "b/en/db/y.txt") == ["perplexity:x.txt", "perplexity:y.txt"]
    assert names("b/en/da/x.txt", "b/en/da/y.txt", "b/en/db/x.txt") == [
        "perplexity:da/x.txt",
        "perplexity:y.txt",
        "perplexity:db/x.txt",
    ]
    assert names("a/en/da/x.txt", "b/en/da/x.txt") == [
        "perplexity:a/en/da/x.txt",
        "perplexity:b/en/da/x.txt",
    ]
    skills = load_capability("builtin")
    for pair in (skills, skills), (loaded["a/en/da/x.txt"],) * 2:
        with pytest.raises(EquipoiseError, match=r"is given twice; leave one out"):
            told_apart(pair)
    folders = [mmlu_folder(tmp_path / name) for name in ("old", "new")]
    found = told_apart([load_capability(f"mmlu:{folder}") for folder in folders])
    assert len({one.name for one in found}) == 2
    assert all(one.name.startswith("mmlu:") for one in found)


@pytest.mark.filterwarnings("ignore:.*one document has no limits")
def test_a_json_list_keeps_its_documents(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(json.dumps(["one\n\nstill one", "two", "  ", "three"]))
    assert [d.text for d in read_documents(path)] == ["one\n\nstill one", "two", "three"]


@pytest.mark.filterwarnings("ignore:.*one document has no limits")
@given(st.lists(st.text(st.sampled_from("abc \n"), max_size=40), max_size=12))
def test_cutting_loses_no_word(tmp_path_factory, parts):
    text = " word ".join(part * 97 for part in parts)
    path = tmp_path_factory.getbasetemp() / "cut.txt"
    path.write_text(text)
    try:
        pieces = [document.text for document in read_documents(path)]
    except EquipoiseError:
        assert not text.strip()
        return
    assert all(0 < len(piece) <= LONGEST for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    if max(map(len, text.split())) <= LONGEST:
        assert " ".join(pieces).split() == text.split()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", b"", "holds no text"),
        ("t.txt", b" \n\n ", "holds no text"),
        ("t.txt", b"one\ncaf\xe9", "t.txt:2: not UTF-8"),
        ("t.json", b"[]", "holds no text"),
        ("t.json", b'["a",\n "b', "t.json:2: not JSON"),
        ("t.json", b'{"a": 1}', "expected a JSON list of texts"),
        ("t.json", b'["a", 1]', "expected a JSON list of texts"),
        ("t.json", b"[" * 100_000, "not a JSON list"),
    ],
)
def test_damaged_texts_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EquipoiseError, match=message) as caught:
        load_capability(f"perplexity:{tmp_path / name}")
    assert "\n" not in str(caught.value)


def mmlu_folder(folder):
    for part, count in {"dev": 3, "val": 2, "test": 4}.items():
        (folder / part).mkdir(parents=True)
        for subject in ("high_school_physics", "art"):
            rows = [f'"{subject} {n}, {part}?",a,b,c,d,{"ABCD"[n]}' for n in range(count)]
            (folder / part / f"{subject}_{part}.csv").write_text("\n".join(rows))
    return folder


def test_mmlu(tmp_path):
    capability = load_capability(f"mmlu:{mmlu_folder(tmp_path)}")
    assert Counter(item.split for item in capability.items) == {
        "train": 6,
        "validation": 4,
        "test": 8,
    }
    item = capability.questions("test")[-1]
    assert item.contexts == ("high school physics",)
    assert (item.options, item.answer) == (("A", "B", "C", "D"), 3)
    assert item.prompt == (
        "The following are multiple choice questions (with answers) about high school physics.\n\n"
        "high_school_physics 3, test?\nA. a\nB. b\nC. c\nD. d\nAnswer:"
    )


def test_mmlu_examples_come_from_dev_and_never_from_the_question(tmp_path):
    capability = load_capability(f"mmlu:{mmlu_folder(tmp_path)}", shots=2)
    (tested,) = [i for i in capability.questions("test") if "art 2, test" in i.prompt]
    assert tested.prompt.count("Answer:") == 3
    assert "art 0, dev?\nA. a\nB. b\nC. c\nD. d\nAnswer: A\n\nart 1, dev?" in tested.prompt
    for n, item in enumerate(i for i in capability.questions("train") if i.contexts == ("art",)):
        assert item.prompt.count(f"art {n}, dev?") == 1
        assert item.prompt.endswith("Answer:")


def test_mmlu_s_published_counts(data):
    capability = load_capability(f"mmlu:{data / 'mmlu'}")
    counts = Counter(item.split for item in capability.items)
    assert counts == {"train": 285, "validation": 1531, "test": 14_042}
    assert len({item.contexts for item in capability.items}) == 57
    few = load_capability(f"mmlu:{data / 'mmlu'}", limit=57)
    assert len({item.contexts for item in few.questions("test")}) == 57


def test_mmlu_from_the_hub(monkeypatch):
    def load_dataset(name, config, split):
        assert (name, config) == ("cais/mmlu", "all")
        question = f"{split}?"
        return [{"question": question, "subject": "us_law", "choices": list("wxyz"), "answer": 2}]

    fake = types.ModuleType("datasets")
    fake.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setattr("equipoise.tasks.hub.hub_answers", lambda *_: True)
    monkeypatch.delenv("EQUIPOISE_DATA", raising=False)
    capability = load_capability("mmlu")
    assert [item.split for item in capability.items] == ["train", "validation", "test"]
    assert "about us law." in capability.items[1].prompt
    assert "validation?\nA. w" in capability.items[1].prompt
    assert capability.items[0].answer == 2

    def offline(*args, **kwargs):
        raise ConnectionError("no route\nto host")

    fake.load_dataset = offline
    with pytest.raises(EquipoiseError, match=r"from the hub \(no route\); .*mmlu:DIR"):
        load_capability("mmlu")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(EquipoiseError, match=r"equipoise\[hub\]"):
        load_capability("mmlu")


@pytest.mark.parametrize(
    ("row", "message"),
    [("q,a,b,c,d,E", ":1: answer 'E'"), ("q,a,b", ":1: 3 cells where 6"), ('"q,a', ":1: ")],
)
def test_a_damaged_mmlu_is_named(tmp_path, row, message):
    folder = mmlu_folder(tmp_path)
    (folder / "val" / "art_val.csv").write_text(row)
    with pytest.raises(EquipoiseError, match=f"art_val.csv{message}"):
        load_capability(f"mmlu:{folder}")


def test_bad_requests_are_named(tmp_path):
    for spec, options, message in [
        ("mmul", {}, r"unknown capability 'mmul' \(did you mean 'mmlu'"),
        ("builtin:x", {}, "takes no path"),
        ("perplexity", {}, "perplexity:PATH"),
        (f"perplexity:{tmp_path / 'none'}", {}, "no such file or folder"),
        (f"mmlu:{tmp_path}", {}, r"no \*_dev\.csv"),
        (f"mmlu:{tmp_path}", {"shots": 6}, "0 to 5 shots"),
        (f"mmlu:{tmp_path}", {"shot": 6}, "has no option 'shot'"),
        ("builtin", {"limit": 0}, "limit must be 1 or more"),
    ]:
        with pytest.raises(EquipoiseError, match=message):
            load_capability(spec, **options)
    assert [name for name, _, _ in list_capabilities()] == [
        "builtin",
        "perplexity",
        "mmlu",
        "arc-easy",
        "arc-challenge",
        "openbookqa",
        "lm-eval",
    ]
