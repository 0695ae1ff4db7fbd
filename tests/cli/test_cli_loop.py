"""run, audit, fit, sweep, fold, verify: what they leave, say, and repeat."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from cli_words import QUICK
from transformers import AutoModelForCausalLM

from equipoise import Steering
from equipoise.cli import inputs
from equipoise.cli.outcome import following
from equipoise.models import load
from equipoise.steering.transforms import Affine
from equipoise.study import Result, Settings, audit
from equipoise.tasks import load_task, write_jsonl
from small_tasks import small_task

RUN_FILES = {"config.yaml", "report.html", "results.json", "steering"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def without_times(results: dict) -> dict:
    return {k: v for k, v in results.items() if k not in ("wall_seconds", "command")}


def test_run_leaves_results_report_steering_and_config(cli, checkpoint, task_file):
    words = ("--task", task_file, "--out", "out", "--strengths", "0,1", *QUICK)
    done = cli("run", checkpoint, *words)
    assert done.code == 0, done.err
    out = Path("out")
    assert names(out) == RUN_FILES
    results = json.loads((out / "results.json").read_text())
    assert results["schema"] == "equipoise/results/1"
    assert [row["strength"] for row in results["sweep"]] == [0.0, 1.0]
    assert results["chosen"]["rule"] in done.out
    steering = Steering.from_pretrained(out / "steering")
    assert steering.digest == results["steering"]["digest"]
    assert steering.info.recommended_strength == results["chosen"]["strength"]
    assert (out / "steering" / "README.md").read_text().startswith("---\n")
    assert "<html" in (out / "report.html").read_text()
    for place in ("out/", "report.html", "results.json"):
        assert place in done.out
    phases = [line.split()[0] for line in done.err.splitlines()]
    # A line each where there is no terminal.
    assert phases == ["loading", "base", "fit", "hold", "choose", "sweep"]


def test_config_of_a_run_repeats_it(cli, checkpoint, task_file):
    first = cli(
        "run", checkpoint, "--task", task_file, "--out", "one", "--json", "--seed", 3,
        "--strengths", "0,0.5", "--score", "mean", "--no-fair-decoding", *QUICK,
    )  # fmt: skip
    assert first.code == 0, first.err
    again = cli("run", "--config", "one/config.yaml", "--out", "two", "--json")
    assert without_times(first.json) == without_times(again.json)
    assert Path("one/config.yaml").read_text() == Path("two/config.yaml").read_text()
    config = yaml.safe_load(Path("one/config.yaml").read_text())
    assert config["seed"] == 3
    assert config["score"] == "mean"
    assert config["fair_decoding"] is False
    assert config["method_settings"]["steps"] == 2
    assert "learning_rate" in config["method_settings"]  # defaults are recorded, too
    assert first.json["command"] == "equipoise run --config one/config.yaml --out one-again"


def test_json_is_all_there_is_on_stdout(cli, checkpoint, task_file, monkeypatch):
    from equipoise import study

    audit = study.audit

    def noisy(*args, **kwargs):
        print("a library prints")
        return audit(*args, **kwargs)

    monkeypatch.setattr(study, "audit", noisy)
    done = cli("audit", checkpoint, "--task", task_file, "--json")
    assert done.json == json.loads(Path("equipoise-audit/results.json").read_text())
    assert "a library prints" in done.err
    quiet = cli("audit", checkpoint, "--task", task_file, "--json", "--quiet", "--overwrite")
    assert quiet.json["sweep"] == done.json["sweep"]
    assert quiet.err == "a library prints\n"


def test_audit_measures_strength_0_only(cli, checkpoint, task_file):
    done = cli("audit", checkpoint, "--task", task_file, "--out", "a", "--quiet")
    assert done.code == 0
    assert names(Path("a")) == RUN_FILES - {"steering"}
    results = json.loads(Path("a/results.json").read_text())
    assert [row["strength"] for row in results["sweep"]] == [0.0]
    assert results["steering"] is None
    assert "equipoise run" in done.out  # what to type next
    assert done.err == ""


def test_a_run_that_cannot_work_is_not_what_to_type_next(cli, checkpoint):
    write_jsonl(small_task(anchors=0), "bare.jsonl")
    words = ("audit", checkpoint, "--task", "bare.jsonl", "--quiet", "--overwrite")
    assert "next" not in cli(*words).out
    anchored = cli(*words, "--capability", "builtin", "--batch-tokens", 16384)
    assert "--capability builtin" in anchored.out.rpartition("next ")[2]


@pytest.mark.parametrize("words", [
    ["a model", "--revision", "r1", "--dtype", "bfloat16", "--no-chat", "--trust-remote-code"],
    ["m", "--task", "bbq", "--data", "some where", "--limit", "9", "--score", "mean"],
    ["m", "--task-option", 'a="yes"', "--task-option", "b=[1, 2]", "--task-option", "c=x y"],
    ["m", "--capability", "mmlu", "--capability", "a b", "--capability-option", "mmlu.shots=0"],
])  # fmt: skip
def test_what_to_type_next_has_all_that_was_said(cli, monkeypatch, words):
    given = []
    monkeypatch.setattr(inputs, "with_defaults", lambda task, model: given.append((model, task)))
    assert cli("audit", *words).code != 0  # nothing can be loaded
    ((model, task),) = given
    assert [*model.words(), *task.words()] == words


def test_what_has_no_place_in_a_checkpoint_is_not_proposed_to_be_folded():
    norm = {"norm": Affine(torch.ones(2), None)}
    plain, scoped = Steering(norm), Steering(norm, scope="generated")
    named = ["m", "--steering", "s"]
    result = Result({"chosen": {"strength": 0.5}})
    told = [*named, "--strength", "0.5"]
    assert following(result, plain, named) == ["fold", *told, "--out", "folded"]
    assert following(result, scoped, named) == ["verify", *told]
    assert following(Result({"chosen": {"strength": 0.0}}), plain, named) == []


def test_fit_then_sweep_then_verify(cli, checkpoint, task_file, artifact):
    expected = {"README.md", "config.yaml", "steering.safetensors", "steering_config.json"}
    assert names(artifact) == expected
    words = (checkpoint, "--steering", artifact)
    swept = cli("sweep", *words, "--task", task_file, "--strengths", "0,1", "--json")
    assert swept.code == 0, swept.err
    assert swept.json["steering"]["digest"] == Steering.from_pretrained(artifact).digest
    assert swept.json["chosen"]["strength"] in (0.0, 1.0)
    checked = cli("verify", *words, "--json")
    assert checked.code == 0
    assert checked.json["ok"] is True


def test_fit_prints_counts_as_json(cli, checkpoint, task_file):
    words = ("fit", checkpoint, "--task", task_file, "--out", "deep/er/s", "--json")
    done = cli(*words, *QUICK)
    assert done.json["steering"]["digest"] == Steering.from_pretrained("deep/er/s").digest
    assert len(done.json["history"]) == 2


def test_verify_says_no_by_its_exit_code(cli, checkpoint, artifact):
    done = cli("verify", checkpoint, "--steering", artifact, "--strength", 0)
    assert done.code == 1  # at strength 0 there is no effect
    assert "FAILED" in done.out


def test_the_seed_is_that_of_fair_decoding_too(cli, checkpoint, task_file):
    words = ("audit", checkpoint, "--task", task_file, "--json")
    fair = [
        cli(*words, "--seed", seed, "--out", f"out{seed}").json["sweep"][0]["seeded_hash"]
        for seed in (0, 3)
    ]
    wanted = [
        audit(load(str(checkpoint)), load_task(task_file), settings=Settings(hash_seed=seed))
        for seed in (0, 3)
    ]
    assert fair == [result.rows[0]["seeded_hash"] for result in wanted]
    assert fair[0] != fair[1]


def test_strength_0_is_said_even_where_another_is_recommended(cli, checkpoint, artifact):
    steering = Steering.from_pretrained(artifact)
    steering.info = replace(steering.info, recommended_strength=0.5)
    steering.save_pretrained("chosen")
    done = cli("fold", checkpoint, "--steering", "chosen", "--strength", 0, "--out", "folded")
    assert done.code == 2
    assert "folding at strength 0 gives the base model" in done.last
    assert not Path("folded").exists()


def test_fold_leaves_a_checkpoint_that_plain_transformers_loads(cli, checkpoint, artifact):
    words = ("fold", checkpoint, "--steering", artifact, "--strength", 0.5)
    done = cli(*words, "--out", "folded", "--json")
    assert done.code == 0, done.err
    assert done.json["strength"] == 0.5
    AutoModelForCausalLM.from_pretrained("folded")
    assert yaml.safe_load(Path("folded/config.yaml").read_text())["strength"] == 0.5
    assert cli(*words, "--out", "folded").code == 2


def test_a_steering_of_another_model_is_refused_unless_allowed(
    cli, checkpoint, task_file, artifact, tmp_path
):
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    model.lm_head.weight.data += 0.01
    other = tmp_path / "tuned"
    model.save_pretrained(other)
    for file in checkpoint.glob("token*"):
        (other / file.name).write_bytes(file.read_bytes())
    words = ("sweep", other, "--steering", artifact, "--task", task_file, "--strengths", "1")
    refused = cli(*words)
    assert refused.code == 2
    assert not Path("equipoise-sweep").exists()
    assert cli(*words, "--allow-mismatch").code == 0


def test_the_bundled_model_brings_its_own_capability(cli):
    done = cli("audit", "builtin:", "--limit", 60, "--batch-tokens", 16384, "--json", "--quiet")
    assert done.code == 0, done.err
    assert list(done.json["sweep"][0]["capability"]) == ["builtin"]
    assert done.json["config"]["capability"] == ["builtin"]


def test_strengths_beyond_1_are_measured_with_one_warning(cli, checkpoint, task_file, artifact):
    words = ("sweep", checkpoint, "--steering", artifact, "--task", task_file)
    done = cli(*words, "--strengths", "0,1.5", "--quiet")
    assert done.code == 0
    assert done.err.count("\n") == 1
    assert done.err.startswith("equipoise: warning: strength outside [0, 1]")


def test_negative_strengths_are_measured_with_a_warning(cli, checkpoint, task_file, artifact):
    words = (checkpoint, "--steering", artifact)
    swept = cli("sweep", *words, "--task", task_file, "--strengths", "-0.5,0,1", "--quiet")
    assert swept.code == 0, swept.err
    assert swept.err.startswith("equipoise: warning: strength outside [0, 1]")
    results = json.loads(Path("equipoise-sweep/results.json").read_text())
    assert [row["strength"] for row in results["sweep"]] == [-0.5, 0.0, 1.0]
    assert "−0.5" in Path("equipoise-sweep/report.html").read_text()
    folded = cli("fold", *words, "--strength", "-0.5", "--out", "folded", "--json")
    assert folded.code == 0, folded.err
    assert folded.json["strength"] == -0.5
    again = cli("fold", "--config", "folded/config.yaml", "--out", "again")
    assert again.code == 0, again.err


def test_anchors_come_from_task_files_and_texts(cli, checkpoint, task_file):
    rows = [json.loads(line) for line in task_file.read_text().splitlines()]
    bare = [json.dumps(row) for row in rows if row.get("answer") is None]
    Path("bare.jsonl").write_text("\n".join(bare))
    Path("notes.txt").write_text("The nurse was at the station.\n\nThe carpenter left.")
    words = ("fit", checkpoint, "--task", "bare.jsonl", "--out", "s", *QUICK)
    without = cli(*words)
    assert without.code == 2
    assert "--anchors" in without.last
    assert not Path("s").exists()
    done = cli(*words, "--anchors", "notes.txt", "--anchors", task_file)
    assert done.code == 0, done.err
    # The 16 ambiguous ones of its train part have prompts that other parts of the task have too.
    assert "warning: left out of 22 anchors given: 16 of a validation, test" in done.err
    later = [json.dumps(row) for row in rows if row["split"] == "test"]
    Path("later.jsonl").write_text("\n".join(later))
    refused = cli(*words[: -len(QUICK)], "--overwrite", "--anchors", "later.jsonl")
    assert (refused.code, "no row has the split 'train'" in refused.last) == (2, True)


@pytest.mark.parametrize("name", ["json", "quiet", "overwrite"])
def test_how_it_is_said_is_not_part_of_the_config(cli, name):
    Path("c.yaml").write_text(f"{name}: true\n")
    assert cli("run", "--config", "c.yaml").code == 2
