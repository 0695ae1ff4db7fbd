"""The output folder: in use, overwritten, resumed, interrupted."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cli_words import QUICK

from equipoise import Steering
from equipoise.cli.config_file import repeat
from equipoise.cli.exits import Interrupted
from equipoise.cli.folder import OutputFolder
from equipoise.cli.options import OutputOptions
from equipoise.errors import EquipoiseError


def claimed(out, *, overwrite=False):
    return OutputFolder.claimed(OutputOptions(out=out, overwrite=overwrite))


def test_a_folder_in_use_is_refused_before_the_work(cli, checkpoint):
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    done = cli("run", checkpoint, "--out", "out", "--task", "nope.jsonl")
    assert done.code == 2
    assert "--overwrite" in done.last  # not the missing task: the folder is looked at first


def test_an_empty_folder_will_do_and_stays_if_the_work_fails():
    Path("out").mkdir()
    with pytest.raises(EquipoiseError), claimed("out"):
        raise EquipoiseError("no")
    assert Path("out").is_dir()


def test_one_command_at_a_time_works_in_a_folder():
    """A second one would fit over the first one's checkpoint, and replace its results."""
    with claimed("out") as folder:
        with (
            pytest.raises(EquipoiseError, match="another command is working in out"),
            claimed("out"),
        ):
            pass
        folder.fill(lambda stage: (stage / "results.json").write_text("first"))
    with pytest.raises(EquipoiseError, match="not empty"), claimed("out"):
        pass
    assert Path("out/results.json").read_text() == "first"


def test_what_a_killed_command_had_begun_to_write_goes():
    Path("out/.partial-dead").mkdir(parents=True)
    Path("out/.partial-dead/report.html").write_text("half")
    with claimed("out") as folder:
        folder.fill(lambda stage: (stage / "results.json").write_text("whole"))
    assert [path.name for path in Path("out").iterdir()] == ["results.json"]


def test_what_was_made_for_nothing_goes():
    with pytest.raises(EquipoiseError), claimed("a/b/c"):
        raise EquipoiseError("no")
    assert not Path("a").exists()


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_file_in_the_way(out):
    Path("file").write_text("")
    with pytest.raises(EquipoiseError, match="file"), claimed(out):
        pass


@pytest.mark.parametrize("out", [".", ".."])
@pytest.mark.parametrize("command", ["run", "audit", "fit", "sweep", "fold"])
def test_the_folder_one_is_in_will_do(
    cli, checkpoint, task_file, artifact, monkeypatch, command, out
):
    Path("here/below").mkdir(parents=True)
    monkeypatch.chdir("here/below")
    words = {
        "run": ["--task", task_file, "--strengths", "0,1", *QUICK],
        "audit": ["--task", task_file],
        "fit": ["--task", task_file, *QUICK],
        "sweep": ["--task", task_file, "--steering", artifact, "--strengths", "0,1"],
        "fold": ["--steering", artifact, "--strength", 1],
    }[command]
    done = cli(command, checkpoint, *words, "--out", out, "--overwrite")
    assert done.code == 0, done.err
    assert Path(out, "config.yaml").is_file()
    if command in ("run", "audit", "sweep"):
        again = json.loads(Path(out, "results.json").read_text())["command"]
        assert cli(*shlex.split(again)[1:]).code == 0
        beside = {".": "../below-again", "..": "../../here-again"}[out]
        assert Path(beside, "results.json").is_file()


@pytest.mark.parametrize("out", ["out", "a/out", "/a/out"])
def test_the_command_that_repeats_writes_beside(out):
    words = ["equipoise", "run", "--config", f"{out}/config.yaml", "--out", f"{out}-again"]
    assert shlex.split(repeat("run", Path(out))) == words


def test_a_fold_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    cli, checkpoint, artifact
):
    Path("file").write_text("")
    done = cli("fold", checkpoint, "--steering", artifact, "--strength", 1, "--out", "file/x")
    assert (done.code, done.err) == (2, "equipoise: cannot write to file/x: Not a directory\n")


def test_overwrite_replaces_results_and_keeps_other_files():
    Path("out/steering").mkdir(parents=True)
    for name in ("results.json", "mine.txt", "steering/steering_config.json"):
        Path("out", name).write_text("old")

    def write(stage: Path) -> None:
        (stage / "results.json").write_text("new")

    with claimed("out", overwrite=True) as folder:
        folder.fill(write)
    assert Path("out/results.json").read_text() == "new"
    assert Path("out/mine.txt").read_text() == "old"
    assert Path("out/steering/steering_config.json").read_text() == "old"
    assert {p.name for p in Path("out").iterdir()} == {"results.json", "mine.txt", "steering"}


def test_results_come_last(monkeypatch):
    moved = []
    replace = os.replace

    def recording(source, target):
        moved.append(Path(target).relative_to("out").as_posix())
        replace(source, target)

    monkeypatch.setattr("equipoise.cli.folder.os.replace", recording)

    def write(stage: Path) -> None:
        (stage / "steering").mkdir()
        for name in ("steering/steering_config.json", "steering/z", "results.json", "x.html"):
            (stage / name).write_text("")

    with claimed("out") as folder:
        folder.fill(write)
    assert moved == ["steering/z", "x.html", "steering/steering_config.json", "results.json"]


def test_what_is_being_replaced_does_not_look_complete(monkeypatch):
    """Cut off between two files, a folder of old and new ones has no results.json."""
    Path("out/steering").mkdir(parents=True)
    last = [Path("out/steering/steering_config.json"), Path("out/results.json")]
    for path in last:
        path.write_text("old")
    looked = []
    replace = os.replace

    def looking(source, target):
        looked.append([path.exists() and path.read_text() for path in last])
        replace(source, target)

    monkeypatch.setattr("equipoise.cli.folder.os.replace", looking)

    def write(stage: Path) -> None:
        (stage / "steering").mkdir()
        for name in ("steering/steering_config.json", "results.json", "report.html"):
            (stage / name).write_text("new")

    with claimed("out", overwrite=True) as folder:
        folder.fill(write)
    assert looked == [[False, False], [False, False], ["new", False]]
    assert [path.read_text() for path in last] == ["new", "new"]


def test_a_failed_write_leaves_the_old_results():
    Path("out").mkdir()
    Path("out/results.json").write_text("old")

    def write(stage: Path) -> None:
        (stage / "report.html").write_text("new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), claimed("out", overwrite=True) as folder:
        folder.fill(write)
    assert [p.name for p in Path("out").iterdir()] == ["results.json"]


def test_an_interruption_keeps_the_checkpoint_only_and_says_so():
    Path("out/checkpoint").mkdir(parents=True)
    Path("out/checkpoint/state").write_text("half way")
    with pytest.raises(Interrupted, match="resumes from out/checkpoint"), claimed("out"):
        raise KeyboardInterrupt
    with claimed("out") as folder:  # no --overwrite needed
        assert folder.resumable
        folder.fill(lambda stage: (stage / "results.json").write_text("{}"))
    assert [p.name for p in Path("out").iterdir()] == ["results.json"]


def test_an_interruption_without_checkpoint_keeps_nothing():
    with pytest.raises(Interrupted, match="nothing was kept"), claimed("out"):
        raise KeyboardInterrupt
    assert not Path("out").exists()


def test_ctrl_c_during_a_fit_then_the_same_command_again(cli, checkpoint, task_file):
    """The resumed steering is, bit for bit, the one of a fit that was let be."""
    words = ["fit", checkpoint, "--task", task_file, *QUICK, "--set", "checkpoint_every=1"]
    words = [str(word) for word in (*words, "--set", "steps=30", "--seed", "1")]
    process = subprocess.Popen(
        [sys.executable, "-m", "equipoise", *words, "--out", "cut"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},  # sums, bit for bit
        # A shell's background jobs, and all they start, ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    state = Path("cut/checkpoint/fit.safetensors")
    deadline = time.monotonic() + 120
    while not state.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert err.splitlines()[-1] == (
        "equipoise: interrupted; the same command again resumes from cut/checkpoint"
    )
    assert "Traceback" not in err
    assert [p.name for p in Path("cut").iterdir()] == ["checkpoint"]

    resumed = cli(*words, "--out", "cut")
    assert resumed.code == 0, resumed.err
    assert "resumed after step" in resumed.err
    whole = cli(*words, "--out", "whole")
    assert "resumed" not in whole.err
    digests = [Steering.from_pretrained(name).digest for name in ("cut", "whole")]
    assert digests[0] == digests[1]
    assert not Path("cut/checkpoint").exists()


@pytest.fixture
def cut(cli, checkpoint, task_file):
    """The words of a fit that Ctrl-C met after its last step, before anything was written."""
    words = ["fit", checkpoint, "--task", task_file, *QUICK, "--set", "checkpoint_every=1"]
    words += ["--out", "s"]

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Steering, "save_pretrained", interrupt)
        assert cli(*words).code == 130
    assert [path.name for path in Path("s").iterdir()] == ["checkpoint"]
    return words


def test_a_checkpoint_of_other_settings_is_not_taken_up(cli, cut):
    done = cli(*cut, "--seed", 9)
    assert done.code == 0
    assert "fitting from the start" in done.err
    assert json.loads(Path("s/steering_config.json").read_text())["extra"]["seed"] == 9


def test_a_fit_that_was_done_already_is_said_to_be(cli, cut):
    done = cli(*cut)
    assert done.code == 0
    assert "resumed after the last step: the fit was done" in done.err
    assert "fitting from the start" not in done.err
