"""Options of a task and of a capability from the command line, and what a benchmark prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from equipoise.cli import inputs
from equipoise.cli.options import TaskOptions
from equipoise.tasks import load_capability

ROWS = [
    {"prompt": "Who left?", "options": ["the nurse", "the man"], "sides": ["pro", "anti"],
     "context": name, "twin": f"{name}{k}"}
    for name in ("nurse", "miner") for k in range(2)
]  # fmt: skip
PAIRS = (
    ",sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators\n"
    "0,The old man fell.,The young man fell.,stereo,age,[],a0,[]\n"
    "1,He won.,She won it.,stereo,gender,[],a0,[]\n"
)


@pytest.fixture
def crows(tmp_path: Path) -> Path:
    (tmp_path / "crows_pairs_anonymized.csv").write_text(PAIRS)
    return tmp_path


def ceb(folder: Path) -> Path:
    for part in ("Continuation-S", "Conversation-S"):
        path = folder / f"CEB-{part}" / "age.json"
        path.parent.mkdir(parents=True)
        rows = [{"prompt": f"The {group} man said", "bucket": group} for group in ("old", "young")]
        path.write_text(json.dumps(rows))
    return folder


def test_a_task_s_options_reach_it_and_are_recorded(cli, checkpoint, tmp_path):
    data = ceb(tmp_path / "ceb")
    words = ["audit", checkpoint, "--task", "ceb", "--data", data, "--max-new-tokens", 3]
    done = cli(*words, "--task-option", "parts=continuation-s", "--out", "one", "--json")
    assert done.code == 0, done.err
    (row,) = done.json["sweep"]
    assert list(row["benchmark"]["free_text"]["by_part"]) == ["continuation-s: age"]
    config = yaml.safe_load(Path("one/config.yaml").read_text())
    assert config["task_options"] == {"parts": "continuation-s"}
    again = cli("audit", "--config", "one/config.yaml", "--out", "two", "--json")
    assert again.json["sweep"] == done.json["sweep"]
    more = ["--task-option", "parts=[continuation-s, conversation-s]"]  # a list, in YAML
    third = cli("audit", "--config", "one/config.yaml", "--out", "three", *more)
    assert third.code == 0, third.err
    for said in ("judged by lexicon (crude)", "conversation-s: age", "mean", "gap", "parity"):
        assert said in third.out
    assert "judged by lexicon (crude): all" in Path("three/report.html").read_text()


def test_a_benchmark_prints_its_figures(cli, checkpoint, crows):
    words = ["audit", checkpoint, "--task", "crows-pairs", "--data", crows]
    done = cli(*words, "--out", "one")
    assert done.code == 0, done.err
    for said in ("crows-pairs", "per token", "log likelihood", "age", "gender"):
        assert said in done.out
    assert "The model would rarely give one of these answers" in done.out
    row = json.loads(Path("one/results.json").read_text())["sweep"][0]
    assert row["benchmark"]["pooled"]["per_token"]["n"] == 2
    assert 0 <= row["option_mass"]["min"] <= row["option_mass"]["estimate"] < 0.1


def test_defaults_of_a_task_are_recorded_and_listed(cli, checkpoint, crows, monkeypatch):
    monkeypatch.setenv("EQUIPOISE_DATA", str(crows))
    done = cli("tasks", "unqover", "--data", crows)
    assert done.code == 2
    Path("items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    listed = cli("tasks", "items.jsonl", "--task-option", "name=mine")
    assert "mine" in listed.out
    assert "options (--task-option KEY=VALUE): name=mine" in listed.out
    wrong = cli("tasks", "items.jsonl", "--task-option", "name=[1]")
    assert "option name: input should be a valid string" in wrong.last


def test_a_capability_s_options_reach_it(cli, checkpoint, task_file, tmp_path):
    for part in ("dev", "val", "test"):
        folder = tmp_path / "mmlu" / part
        folder.mkdir(parents=True)
        rows = "".join(f"What is {k}?,1,2,3,4,A\n" for k in range(3))
        (folder / f"art_{part}.csv").write_text(rows)
    words = ["audit", checkpoint, "--task", task_file, "--capability", f"mmlu:{tmp_path / 'mmlu'}"]
    done = cli(*words, "--capability-option", "mmlu.shots=2", "--out", "one", "--json")
    assert done.code == 0, done.err
    config = yaml.safe_load(Path("one/config.yaml").read_text())
    assert config["capability_options"] == {"mmlu.shots": 2}
    assert done.json["sweep"][0]["capability"]["mmlu"]["n"] == 3
    six = cli(*words, "--capability-option", "mmlu.shots=6", "--out", "two")
    assert "mmlu has 0 to 5 shots, got 6" in six.last


def test_a_limit_draws_by_the_seed_from_capabilities_too():
    given = {"capability": ("builtin",), "limit": 3}
    options = TaskOptions(task="coreference", **given)
    drawn = []
    for seed in (0, 5):
        (found,) = inputs.load_capabilities(options, seed)
        assert found == load_capability("builtin", seed=seed, limit=3)
        drawn.append(found.items)
    assert drawn[0] != drawn[1]
