"""tasks, methods, sites, env, help: what there is, quickly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import equipoise


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def test_alone_it_prints_help(cli):
    done = cli()
    assert done.code == 0
    for name in ("run", "audit", "fit", "sweep", "fold", "verify", "sites", "tasks", "env"):
        assert name in done.out


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["run", "--help"], ["--version"]])
def test_help_and_version(cli, words):
    done = cli(*words)
    assert done.code == 0
    assert done.out
    assert done.err == ""


def test_help_of_run_shows_each_default(cli):
    shown = " ".join(cli("run", "--help").out.replace("│", " ").split())
    for default in ("builtin:", "coreference", "dso", "0,0.2,0.4,0.6,0.8,1", "equipoise-out"):
        assert f"(default: {default})" in shown


def test_tasks(cli):
    listed = cli("tasks", "--json").json
    assert {"coreference", "pronouns"} <= {entry["name"] for entry in listed["tasks"]}
    assert {"builtin", "perplexity"} <= {entry["name"] for entry in listed["capabilities"]}
    one = cli("tasks", "coreference", "--json").json
    assert one["ambiguous"] == sum(part["ambiguous"] for part in one["splits"].values())
    assert f"{one['ambiguous']:,}" in cli("tasks", "coreference").out


def test_a_task_whose_data_are_not_here_is_described_all_the_same(cli, monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("no route")

    fake = types.ModuleType("datasets")
    fake.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setattr("equipoise.tasks.hub.hub_answers", lambda *_: False)
    monkeypatch.delenv("EQUIPOISE_DATA", raising=False)
    done = cli("tasks", "bbq", "--json")
    assert done.code == 0
    assert done.json["options"]["shots"] == 0
    assert "no route" in done.json["missing"]
    assert "--data PATH" in done.json["missing"]
    shown = cli("tasks", "bbq")
    for told in ("bbq · BBQ: whom", "data: data folder, or the hub", "shots=0"):
        assert told in shown.out
    assert shown.last == done.json["missing"]
    assert cli("tasks", "bbq", "--task-option", "shoots=1").code == 2
    assert cli("audit", "builtin:", "--task", "bbq").code == 2


@pytest.mark.parametrize("columns", ["0", "9"])
def test_a_width_that_nothing_fits_counts_as_unknown(cli, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert "fairsteer" in cli("methods").out
    monkeypatch.setenv("COLUMNS", columns)
    assert "audit" in cli("--help").out


def test_brackets_are_printed_and_are_no_markup(cli):
    assert "[lm-eval]" in cli("tasks").out
    row = {"prompt": "?", "options": ["a", "b"], "sides": ["pro", "anti"], "context": "[red]x:cat:"}
    Path("own[bold].jsonl").write_text(json.dumps(row))
    said = cli("tasks", "own[bold].jsonl").out
    assert "own[bold] · " in said
    assert "contexts: [red]x:cat:" in said


def test_methods(cli):
    assert "dso" in {entry["name"] for entry in cli("methods", "--json").json["methods"]}
    one = cli("methods", "dso", "--json").json
    assert one["settings"]["steps"]["type"] == "integer"
    shown = cli("methods", "dso").out
    assert "exact | reinforce | ppo" in shown
    assert "integer ≥ 1" in shown


@pytest.mark.parametrize("method", ["dso", "fairsteer"])
def test_every_setting_is_told_in_words(cli, method):
    settings = cli("methods", method, "--json").json["settings"]
    assert {name for name, schema in settings.items() if not schema.get("description")} == set()


def test_env_lists_the_bundled_models(cli):
    found = cli("env", "--json").json
    assert found["builtin_models"]
    assert found["packages"]["torch"]
    assert found["builtin_models"][0] in cli("env").out


def test_sites(cli, checkpoint):
    found = cli("sites", checkpoint, "--json").json["sites"]
    assert [site["role"] for site in found] == ["norm"] * 4 + ["final_norm"]
    assert found[0]["bias_into"][0] == "model.layers.0.self_attn.q_proj"
    assert found[-1]["bias_into"] == []
    everything = cli("sites", checkpoint, "--role", "all", "--json").json["sites"]
    assert {site["role"] for site in everything} == {
        "norm",
        "final_norm",
        "residual",
        "mlp",
        "heads",
    }
    assert "5 sites" in cli("sites", checkpoint).out


def test_names_of_the_package_are_there_and_import_no_torch():
    listed = python("import sys, equipoise; print('torch' in sys.modules, *dir(equipoise))").split()
    assert listed[0] == "False"
    assert set(equipoise.__all__) <= set(listed)
    for name in equipoise.__all__:
        assert getattr(equipoise, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'adit'"):
        _ = equipoise.adit


def test_little_is_imported_before_ctrl_c_is_met_with_a_line():
    code = "import sys; from equipoise.cli import main; print(*sys.modules)"
    assert {"ctypes", "json", "traceback", "typer"}.isdisjoint(python(code).split())


def test_listings_need_no_torch():
    code = "import sys; from equipoise.cli import main; code = main({!r}); "
    for words in (["--help"], ["tasks"], ["run", "--help"]):
        last = python(f"{code.format(words)}print(code, 'torch' in sys.modules)").splitlines()[-1]
        assert last == "0 False"


@pytest.mark.parametrize(
    "words", [["tasks"], ["tasks", "coreference", "--json"], ["run", "--help"]]
)
def test_a_reader_that_stops_early_is_no_error(words):
    process = subprocess.Popen(
        [sys.executable, "-m", "equipoise", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    process.stdout.close()
    assert process.stderr
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141  # as a shell tells of `ls | head`


def test_a_stdout_that_is_closed_is_no_error():
    done = subprocess.run(
        [sys.executable, "-m", "equipoise", "tasks"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        preexec_fn=lambda: os.close(1),
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_ascii_terminal_gets_a_question_mark_not_an_error():
    done = subprocess.run(
        [sys.executable, "-m", "equipoise", "run", "--strengths", "ω"],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"equipoise: --strengths: '?' is not a number")
