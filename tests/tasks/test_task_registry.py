import json
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from equipoise import catalogue
from equipoise.errors import EquipoiseError
from equipoise.study import audit
from equipoise.tasks import Item, Task, TaskSource, list_tasks, load_task, task_options
from equipoise.tasks.hub import MissingDataError

ITEM = Item(id="a", twin="a", prompt="?", options=("x", "y"), answer=0)
ROW = {"prompt": "?", "options": ["x", "y"], "answer": 0}

# What another package would hold; entry points below lead here.
FOREIGN = TaskSource(
    name="foreign",
    description="of another package",
    origin="nowhere",
    build=lambda *, size=1: Task("foreign", (ITEM,) * size),
)
NOT_A_TASK = "a string"


@pytest.fixture
def entry_points(monkeypatch):
    def declare(*points: tuple[str, str]) -> None:
        declared = EntryPoints(
            EntryPoint(name, f"{__name__}:{attribute}", "equipoise.tasks")
            for name, attribute in points
        )
        monkeypatch.setattr(catalogue, "entry_points", lambda **query: declared.select(**query))

    return declare


def test_another_package_can_add_a_task(entry_points):
    entry_points(("foreign", "FOREIGN"))
    assert ("foreign", "of another package", "nowhere") in list_tasks()
    assert load_task("foreign", size=1).items == (ITEM,)


def test_another_package_cannot_replace_a_builtin(entry_points):
    entry_points(("pronouns", "FOREIGN"))
    assert load_task("pronouns").name == "pronouns"
    assert len(list_tasks()) == len({name for name, _, _ in list_tasks()})


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([("foreign", "MISSING")], "cannot be loaded"),
        ([("foreign", "NOT_A_TASK")], "is a str, not a TaskSource"),
        ([("foreign", "FOREIGN"), ("foreign", "NOT_A_TASK")], "several installed packages"),
    ],
)
def test_a_broken_entry_point_is_named(entry_points, points, message):
    entry_points(*points)
    with pytest.raises(EquipoiseError, match=message):
        load_task("foreign")


def test_every_builtin_is_listed():
    assert [name for name, _, _ in list_tasks()] == [
        "coreference",
        "pronouns",
        "synthbias",
        "winobias",
        "bbq",
        "unqover",
        "crows-pairs",
        "ceb",
        "mmlu",
        "arc-easy",
        "arc-challenge",
        "openbookqa",
    ]


def test_unknown_names_and_options_are_named():
    with pytest.raises(EquipoiseError, match=r"unknown task 'pronuns' \(did you mean 'pronouns'"):
        load_task("pronuns")
    with pytest.raises(EquipoiseError, match="unknown task 'nope'; there are"):
        load_task("nope")  # not like 'unqover' at all
    with pytest.raises(EquipoiseError, match="unknown task"):
        load_task("x" * 5000)
    folder = str(Path(__file__).parent)
    for place, what in (
        (".", "is a folder"),
        (folder, "is a folder"),
        ("items.txt", "is no file that exists"),
    ):
        for call in (load_task, task_options):
            with pytest.raises(EquipoiseError, match=rf"{what}; a task file ends in \.jsonl"):
                call(place)
    with pytest.raises(EquipoiseError, match="has no option 'colour'"):
        load_task("pronouns", colour=1)
    with pytest.raises(EquipoiseError, match="takes no data path"):
        load_task("pronouns", data="x")


def test_a_table_is_no_task_file(tmp_path):
    table = tmp_path / "items.CSV"
    table.write_text("prompt,options\n")
    with pytest.raises(EquipoiseError, match=r"items\.CSV: expected a \.jsonl file"):
        load_task(table)


def test_data_that_are_nowhere_are_an_error_of_their_own(monkeypatch):
    monkeypatch.delenv("EQUIPOISE_DATA", raising=False)
    with pytest.raises(MissingDataError, match="task 'unqover' needs the folder word_lists"):
        load_task("unqover")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("perplexity", r"no task but a capability \(perplexity:FILE\): --capability perplexity,"),
        ("perplexity:a/wiki.jsonl", r"--capability perplexity:a/wiki\.jsonl, beside any task"),
        ("lm-eval:hellaswag", r"\(lm-eval:TASK, .*--capability lm-eval:hellaswag"),
        ("mmlu:some/folder", r"give --task mmlu --data some/folder"),
    ],
)
def test_a_capability_taken_for_a_task_is_told(name, message):
    for call in (load_task, task_options):
        with pytest.raises(EquipoiseError, match=message):
            call(name)


def test_files_are_tasks(tmp_path, monkeypatch):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(ROW))
    assert load_task(path).name == load_task(str(path)).name == "mine"
    monkeypatch.chdir(tmp_path)
    assert load_task("mine.jsonl").name == "mine"
    path.rename("mine.txt")
    assert load_task("mine.txt").name == "mine"
    with pytest.raises(EquipoiseError, match=r"mine\.jsonl: cannot be read"):
        load_task("mine.jsonl")
    with pytest.raises(EquipoiseError, match="takes no data path"):
        load_task("mine.txt", data=tmp_path)
    with pytest.raises(EquipoiseError, match=r"did you mean 'target'"):
        load_task("mine.txt", targets={})


@pytest.mark.parametrize("name", ["mmlu", "bbq", "ceb", "unqover"])
def test_a_file_called_like_a_task_is_none(tiny, tmp_path, name):
    path = tmp_path / f"{name}.jsonl"
    open_one = {"prompt": "The nurse said", "context": "nurse", "options": ["he", "she"]}
    rows = [ROW, open_one | {"sides": ["anti", "pro"]}]
    path.write_text("\n".join(map(json.dumps, rows)))
    task = load_task(path)
    assert task.name == f"{name} (file)"
    (row,) = audit(tiny, task).rows
    assert "benchmark" not in row


def test_data_come_from_the_path_then_the_environment(tmp_path, monkeypatch):
    header = "type,sample,occ_1,occ_2,pronoun,is_stereotypical\n"
    row = 'type1,"The {} met the nurse, and {} sang.",{},nurse,{},ambiguous\n'
    rows = header + "".join(row.format(o, p, o, p) for o in ("guard",) for p in ("he", "she"))
    here, there = tmp_path / "here", tmp_path / "there" / "synthbias"
    for folder in (here, there):
        folder.mkdir(parents=True)
    (here / "synthbias_data.csv").write_text(rows)
    (there / "synthbias_data.csv").write_text(rows.replace("guard", "driver"))

    monkeypatch.delenv("EQUIPOISE_DATA", raising=False)
    with pytest.raises(EquipoiseError, match=r"word_lists .* --data PATH") as caught:
        load_task("unqover")
    assert "EQUIPOISE_DATA" in str(caught.value)
    monkeypatch.setenv("EQUIPOISE_DATA", str(tmp_path / "there"))
    assert load_task("synthbias").items[0].contexts == ("driver", "nurse")
    for data in (here, here / "synthbias_data.csv"):
        assert load_task("synthbias", data=data).items[0].contexts == ("guard", "nurse")
    with pytest.raises(EquipoiseError, match="no such file or folder"):
        load_task("synthbias", data=tmp_path / "nowhere")


def test_limit_draws_by_seed():
    small = load_task("pronouns", limit=200, seed=1)
    assert 180 <= len(small.items) <= 200
    assert small == load_task("pronouns", limit=200, seed=1)
    assert small != load_task("pronouns", limit=200, seed=2)


def test_path_is_another_word_for_data(tmp_path):
    with pytest.raises(EquipoiseError, match="no such file or folder"):
        load_task("synthbias", path=tmp_path / "nowhere")
    with pytest.raises(EquipoiseError, match="not both"):
        load_task("synthbias", path=tmp_path, data=tmp_path)
