"""Every mistake a user can make: one line, exit code 2, nothing written."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_words import QUICK

MISTAKES = {
    "unknown command": (["rnu"], "Did you mean 'run'"),
    "unknown option": (["run", "--taks", "x"], "--task"),
    "too many arguments": (["run", "a", "b"], "unexpected extra argument"),
    "unknown choice": (["run", "--score", "meen"], "did you mean 'mean'"),
    "strength no number": (["run", "--strengths", "0,a"], "'a' is not a number"),
    "strength empty": (["run", "--strengths", ""], "--strengths"),
    "strength NaN": (["run", "--strengths", "0,nan"], "must be finite"),
    "strength infinite": (["run", "--strengths", "inf"], "must be finite"),
    "seed no number": (["run", "--seed", "yes"], "--seed"),
    "one strength NaN": (["verify", "builtin:", "--steering", "s", "--strength", "nan"], "finite"),
    "limit 0": (["run", "--limit", "0"], "--limit"),
    "limit no number": (["run", "--limit", "few"], "--limit"),
    "drop above 1": (["run", "--max-capability-drop", "2"], "--max-capability-drop"),
    "drop NaN": (["run", "--max-capability-drop", "nan"], "--max-capability-drop"),
    "temperature negative": (["run", "--temperature=-1"], "--temperature"),
    "seed negative": (["run", "--seed=-1"], "--seed"),
    "device twice": (["run", "--device", "cpu", "--device-map", "auto"], "not both"),
    "unknown task": (["run", "--task", "corefrence"], "did you mean 'coreference'"),
    "missing task file": (["run", "--task", "no.jsonl"], "no.jsonl"),
    "unknown method": (["run", "--method", "dos"], "did you mean 'dso'"),
    "unknown setting": (["run", "--set", "stepz=3"], "did you mean 'steps'"),
    "setting like no other": (["run", "--set", "qqq=3"], "no setting 'qqq'; it has: parameters, "),
    "setting out of range": (["run", "--set", "steps=0"], "steps"),
    "setting yes": (["run", "--set", "steps=yes"], "steps: expected a number"),
    "share true": (["run", "--set", "learning_rate=true"], "learning_rate: expected a number"),
    "setting without value": (["run", "--set", "steps"], "key=value"),
    "setting not YAML": (["run", "--set", "steps=[1"], "not YAML"),
    "unknown capability": (["run", "--capability", "mmlo"], "did you mean 'mmlu'"),
    "capability twice": (
        ["run", "--capability", "builtin", "--capability", "builtin"],
        "capability 'builtin' is given twice",
    ),
    "capability without path": (["run", "--capability", "perplexity"], "perplexity:PATH"),
    "unknown task option": (["run", "--task-option", "colour=red"], "has no option 'colour'"),
    "task option yes": (
        ["run", "--task", "bbq", "--data", ".", "--task-option", "shots=yes"],
        "option shots: expected a number; got True",
    ),
    "task option without value": (["run", "--task-option", "split"], "--task-option: expected key"),
    "capability not measured": (
        ["run", "--capability", "mmlu:.", "--capability-option", "mmul.shots=5"],
        "capability 'mmul' is not measured (did you mean 'mmlu'?)",
    ),
    "capability option unnamed": (["run", "--capability-option", "shots=5"], "expected NAME.KEY"),
    "unknown capability option": (
        ["run", "--capability-option", "builtin.shots=5"],
        "capability 'builtin' has no option 'shots'; it has none",
    ),
    "unknown scorer": (["audit", "builtin:", "--scorer", "lexikon"], "did you mean 'lexicon'"),
    "missing anchors": (["run", "--anchors", "no.txt"], "no.txt"),
    "unknown bundled model": (["audit", "builtin:nope"], "unknown bundled model"),
    "typo of builtin": (["audit", "buildin:"], "did you mean 'builtin:'"),
    "missing folder": (["audit", "./nope"], "no such folder"),
    "unknown dtype": (["audit", "builtin:", "--dtype", "float9"], "float9"),
    "dtype of integers": (
        ["audit", "builtin:", "--dtype", "int8"],
        "'int8'; use float32, bfloat16, float16, float64, stored or auto",
    ),
    "revision of what has none": (
        ["audit", "builtin:", "--revision", "v9"],
        "revision 'v9': builtin: is not from the hub",
    ),
    "out empty": (["audit", "builtin:", "--out", ""], "--out: expected a folder"),
    "missing model": (["sweep"], "MODEL is missing"),
    "missing steering": (["sweep", "builtin:"], "--steering is missing"),
    "no artifact": (["sweep", "builtin:", "--steering", "./nope"], "no such folder"),
    "missing out": (["fit", "builtin:"], "--out is missing"),
    "missing config": (["run", "--config", "no.yaml"], "no.yaml: cannot be read"),
    "unknown task to describe": (["tasks", "pronoun"], "did you mean 'pronouns'"),
    "unknown method to describe": (["methods", "dos"], "did you mean 'dso'"),
    "unknown role": (["sites", "builtin:", "--role", "nrm"], "did you mean 'norm'"),
}


@pytest.mark.parametrize(("words", "says"), MISTAKES.values(), ids=MISTAKES)
def test_one_line_exit_2_and_nothing_written(cli, words, says):
    done = cli(*words, "--json")
    assert done.code == 2
    assert done.last.startswith("equipoise: ")
    assert says in done.last
    assert "Traceback" not in done.err
    assert "equipoise: " + done.json["error"] == done.last
    assert not list(Path.cwd().iterdir())


CONFIGS = {
    "not YAML": ("task: [a\n", "c.yaml:2: not YAML"),
    "a colon at the end": ("model: builtin:\n", 'in quotes, as in model: "builtin:"'),
    "out empty": ("out: ''\n", "c.yaml: out: expected a folder"),
    "not a mapping": ("- a\n", "not a list"),
    "unknown key": ("tsk: coreference\n", "did you mean 'task'"),
    "wrong type": ("limit: few\n", "c.yaml: limit"),
    "unknown choice": ("score: max\n", "c.yaml: score"),
    "strength NaN": ("strengths: [0, .nan]\n", "c.yaml: strengths"),
    "strength true": ("strengths: [0, true]\n", "c.yaml: strengths: expected a number"),
    "seed true": ("seed: true\n", "c.yaml: seed: expected a number; got True"),
    "setting on": ("method_settings: {steps: on}\n", "steps: expected a number"),
    "key twice": ("seed: 1\ntask: a\nseed: 2\n", "c.yaml:3: key 'seed' is given twice"),
    "setting twice": ("method_settings:\n  l1: 1\n  l1: 2\n", "c.yaml:3: key 'l1' is given"),
    "key twice, spelt anew": ("max-new-tokens: 1\nmax_new_tokens: 2\n", "max_new_tokens is given"),
    "capability option unnamed": (
        "capability_options: {shots: 5}\n",
        "equipoise: capability option 'shots': expected NAME.KEY",
    ),
    "task options no mapping": ("task_options: 3\n", "c.yaml: task_options"),
    "nested without end": ("seed: " + "[" * 3000, "c.yaml: not YAML of options: nested too deep"),
    "no such day": ("revision: 2024-13-01\n", "c.yaml: not YAML: month must be in 1..12"),
    "a mapping for a list": ("capability: {a: b}\n", "c.yaml: capability: expected a list"),
    "a list for a folder": ("out: [a]\n", "c.yaml: out: expected a folder"),
    "settings no mapping": ("method_settings: 3\n", "c.yaml: method_settings"),
    "unknown setting": ("method_settings: {stepz: 3}\n", "did you mean 'steps'"),
    "key of another command": ("steering: s\n", "no option 'steering'"),
}


@pytest.mark.parametrize(("text", "says"), CONFIGS.values(), ids=CONFIGS)
def test_a_bad_config_names_file_and_key(cli, text, says):
    Path("c.yaml").write_text(text)
    done = cli("run", "--config", "c.yaml")
    assert done.code == 2
    assert says in done.last
    assert [path.name for path in Path.cwd().iterdir()] == ["c.yaml"]


def test_a_config_that_is_not_text(cli):
    Path("c.yaml").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in cli("run", "--config", "c.yaml").last


def test_flags_override_the_config_and_settings_are_merged(cli, checkpoint, task_file):
    Path("c.yaml").write_text(
        f"model: {checkpoint}\ntask: {task_file}\nout: from-file\nseed: 5\nlimit:\n"
        "method-settings: {steps: 9, twins_per_step: 4, l1: 1e-3}\n"
    )
    done = cli("fit", "--config", "c.yaml", "--set", "steps=1", "--seed", 7, "--json")
    assert done.code == 0, done.err
    config = done.json["config"]
    assert (config["seed"], done.json["out"]) == (7, "from-file")
    settings = config["method_settings"]
    assert (settings["steps"], settings["twins_per_step"], settings["l1"]) == (1, 4, 0.001)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "bad.jsonl: the file is empty"),
        (
            b'{"prompt": "p", "options": ["a", "b"], "answer": 0}\n{"prompt": "p", "o',
            "bad.jsonl:2: ",
        ),
        (b'{"prompt": "\xff", "options": ["a", "b"]}\n', "bad.jsonl"),
        (b'{"prompt": "p", "options": ["a", "a"]}\n', "bad.jsonl:1: "),
        (b'{"prompt": "p", "options": ["a", "b"], "answer": 7}\n', "bad.jsonl:1: "),
    ],
    ids=["empty", "truncated", "not UTF-8", "equal options", "index out of range"],
)
def test_a_bad_task_file_is_named_with_its_line(cli, content, says):
    Path("bad.jsonl").write_bytes(content)
    done = cli("run", "--task", "bad.jsonl")
    assert done.code == 2
    assert says in done.last
    assert not Path("equipoise-out").exists()


def test_a_damaged_artifact_is_refused(cli, checkpoint, task_file, artifact, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in artifact.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    tensors = broken / "steering.safetensors"
    words = ("sweep", checkpoint, "--steering", broken, "--task", task_file)
    tensors.write_bytes(tensors.read_bytes()[:-8])
    assert cli(*words).code == 2
    tensors.write_bytes(b"\x80\x04 not tensors")
    done = cli(*words)
    assert done.code == 2
    assert "pickle" in done.last


def test_nan_losses_end_the_fit(cli, checkpoint, task_file):
    words = ("fit", checkpoint, "--task", task_file, "--out", "s", *QUICK)
    done = cli(*words, "--set", "learning_rate=1e30", "--set", "steps=9")
    assert done.code == 2, done.err
    assert "finite" in done.last
    assert not Path("s").exists()


def test_a_full_disk_leaves_nothing(cli, checkpoint, task_file, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("equipoise.files.os.fsync", full)
    done = cli("audit", checkpoint, "--task", task_file, "--out", "a")
    assert done.code == 2
    assert "No space left on device" in done.last
    assert not Path("a").exists()


def test_a_defect_of_ours_is_one_line_with_a_way_to_see_more(cli, monkeypatch):
    def broken():
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("equipoise.study.environment.environment", broken)
    done = cli("env", "--json")
    assert done.code == 1
    assert "EQUIPOISE_DEBUG" in json.loads(done.out)["error"]
    assert "Traceback" not in done.err
    monkeypatch.setenv("EQUIPOISE_DEBUG", "1")
    assert "Traceback" in cli("env").err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("words", [["env", "--json"], ["env"], ["tasks", "coreference", "--json"]])
def test_a_stdout_that_cannot_be_written_is_one_line(words):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "equipoise", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (2, "equipoise: No space left on device\n")
