"""Capabilities that lm-eval asks and judges: its own numbers, at every strength, and mistakes."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from equipoise.errors import EquipoiseError
from equipoise.models import Model
from equipoise.steering import Additive, ProbeGate, Steering
from equipoise.study import audit, sweep
from equipoise.tasks import load_capability
from small_tasks import small_task

pytest.importorskip("lm_eval")

PLACES = ("station", "old theater", "office", "shop", "school by the park")
FIELDS: dict[str, Any] = {
    "task": "places",
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "validation_split": "validation",
    "test_split": "test",
    "doc_to_text": "The {{who}} was at the {{place}}. Where was the {{who}}?",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "gold",
    "metric_list": [
        {"metric": name, "aggregation": "mean", "higher_is_better": True}
        for name in ("acc_norm", "acc", "exact_match")
    ]
    + [{"metric": "brier_score", "higher_is_better": False}],
}


def task_file(folder: Path, counts: dict[str, int], **fields: Any) -> Path:
    """An lm-eval task of our own on local data."""
    files = {}
    for part, count in counts.items():
        rows = [
            {
                "who": ("nurse", "mechanic", "secretary")[n % 3],
                "place": PLACES[n % 5],
                "choices": [*PLACES[n % 3 :], "park", "museum"][:4],
                "gold": n % 3,
            }
            for n in range(count)
        ]
        path = folder / f"{part}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[part] = str(path)
    told = {k: v for k, v in (FIELDS | fields).items() if v is not None}
    path = folder / f"{told['task']}.yaml"
    path.write_text(yaml.safe_dump(told | {"dataset_kwargs": {"data_files": files}}))
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets are prepared in a folder that goes away."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def steering(scope: str = "all", gate: bool = False) -> Steering:
    torch.manual_seed(1)
    probe = ProbeGate("model.layers.0", torch.randn(32), 0.0, unit="row") if gate else None
    return Steering({"model.layers.1": Additive(3 * torch.randn(32))}, scope=scope, gate=probe)


def by_lm_eval(model: Model, path: Path, metric: str, **options: Any) -> list[bool]:
    """Right or wrong per document, by lm-eval alone, one request at a time."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        HFLM(model.hf, tokenizer=model.tokenizer, batch_size=1),
        tasks=[str(path)],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
        **options,
    )
    assert found is not None
    (samples,) = found["samples"].values()
    return [bool(one[metric]) for one in samples]


@pytest.mark.parametrize(
    ("metric", "shots"), [("acc", None), ("acc_norm", None), ("exact_match", None), ("acc", 2)]
)
def test_lm_eval_s_own_answers_at_every_strength(tiny, tmp_path, metric, shots) -> None:
    from equipoise.decisions.lm_eval import right_at

    path = task_file(tmp_path, {"validation": 12, "test": 18})
    harness = load_capability(f"lm-eval:{path}", metric=metric, num_fewshot=shots).harness
    assert harness is not None
    strengths = [0.0, 0.4, 1.0]
    how = steering()
    found = right_at(tiny, harness, "test", steering=how, strengths=strengths, batch_tokens=300)
    assert found.shape == (3, 18)
    for row, strength in zip(found, strengths, strict=True):
        with how.applied(tiny, strength=strength):
            wanted = by_lm_eval(tiny, path, metric, num_fewshot=shots)
        assert row.tolist() == wanted
    # exact_match may be all wrong: few answers are the greedy ones.
    assert metric == "exact_match" or 0 < found.mean() < 1


def test_sums_are_those_of_items_under_a_gate_and_a_scope(tiny, tmp_path, monkeypatch) -> None:
    """A gate reads the prompt and not the answers: as for items with the same texts."""
    from equipoise.decisions import lm_eval
    from equipoise.decisions.decide import decide
    from equipoise.tasks.item import Item

    path = task_file(tmp_path, {"test": 6}, validation_split=None)
    harness = load_capability(f"lm-eval:{path}").harness
    assert harness is not None
    said: dict[tuple[str, str], Any] = {}
    ask = lm_eval._Harness.loglikelihood

    def listening(self, requests, disable_tqdm=False):
        found = ask(self, requests, disable_tqdm)
        said.update(self._known)
        return found

    monkeypatch.setattr(lm_eval._Harness, "loglikelihood", listening)
    how = steering("last_prompt", gate=True)
    strengths = [0.0, 1.0]
    lm_eval.right_at(tiny, harness, "test", steering=how, strengths=strengths)
    prompts = dict.fromkeys(prompt for prompt, _ in said)
    items = [
        Item(
            id=prompt,
            prompt=prompt,
            options=tuple(answer.strip() for context, answer in said if context == prompt),
        )
        for prompt in prompts
    ]
    moved = 0.0
    for k, decided in enumerate(decide(tiny, items, steering=how, strengths=strengths)):
        for item, scores in zip(items, decided.scores, strict=True):
            ours = [said[item.prompt, f" {option}"][k][0] for option in item.options]
            np.testing.assert_allclose(ours, scores[: len(ours)], atol=1e-4)
            moved = max(moved, abs(ours[0] - said[item.prompt, f" {item.options[0]}"][0][0]))
    assert moved > 0.01


def test_in_an_audit_and_a_sweep(tiny: Model, tmp_path: Path) -> None:
    path = task_file(tmp_path, {"validation": 12, "test": 30})
    capability = load_capability(f"lm-eval:{path}", seed=0)
    seen: list[tuple[int, int]] = []
    found = audit(
        tiny,
        small_task((1, 1, 2)),
        capability=[capability],
        report=lambda phase, done, of, figures: seen.append((done, of)),
    ).rows[0]["capability"]["lm-eval:places"]
    assert (found["n"], found["metric"], found["unit"]) == (30, "acc", "accuracy")
    assert found["estimate"] == pytest.approx(np.mean(by_lm_eval(tiny, path, "acc")))
    assert found["low"] < found["estimate"] < found["high"]
    assert seen[-1][0] == seen[-1][1]
    result = sweep(tiny, small_task((1, 2, 2)), steering(), [0.5], capability=[capability])
    choosing = result.validation[1]["capability"]["lm-eval:places"]
    told = result.row(0.5)["capability"]["lm-eval:places"]
    assert (choosing["n"], told["n"]) == (12, 30)
    assert told["drop"]["low"] < told["drop"]["estimate"] < told["drop"]["high"]
    assert told["drop"]["estimate"] == pytest.approx(found["estimate"] - told["estimate"])


def test_documents_that_prompts_show_choose_nothing(tmp_path: Path) -> None:
    counts = {"validation": 12, "test": 30}
    path = task_file(tmp_path, counts)
    asked = load_capability(f"lm-eval:{path}", limit=7).harness
    shown = load_capability(f"lm-eval:{path}", num_fewshot=1).harness
    again = load_capability(f"lm-eval:{path}", limit=7).harness
    assert asked is not None
    assert shown is not None
    assert again is not None
    assert [asked.count("validation"), asked.count("test")] == [7, 7]
    assert again.documents == asked.documents
    assert [shown.count("validation"), shown.count("test")] == [0, 30]


def test_a_group_of_an_include_path(tiny: Model, tmp_path: Path, monkeypatch) -> None:
    import lm_eval.tasks

    from equipoise.decisions.lm_eval import right_at

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        task_file(tmp_path / name, {"validation": 3, "test": 4}, task=name)
    (tmp_path / "both.yaml").write_text("group: both\ntask: [one, two]\n")
    plain = lm_eval.tasks.TaskManager
    monkeypatch.setattr(  # lm-eval's own index takes its 10 s
        lm_eval.tasks, "TaskManager", lambda include_path, **_: plain(None, include_path, False)
    )
    capability = load_capability("lm-eval:both", include_path=str(tmp_path), limit=5)
    assert capability.name == "lm-eval:both"
    harness = capability.harness
    assert harness is not None
    assert sorted(len(them) for them in harness.documents["test"].values()) == [2, 3]
    right = right_at(tiny, harness, "test", steering=None, strengths=[0.0])
    assert right.shape == (1, 5)
    with pytest.raises(EquipoiseError, match=r"unknown lm-eval task 'bth' \(did you mean 'both'"):
        load_capability("lm-eval:bth", include_path=str(tmp_path))


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({}, {"metric": "acc_nrm"}, r"no metric 'acc_nrm' .* \(did you mean 'acc_norm'\?\)"),
        ({}, {"metric": "brier_score"}, "those that do: acc, acc_norm, exact_match"),
        ({}, {"num_fewshot": -1}, "num_fewshot must be 0 or more"),
        ({}, {"include_path": "/no/such"}, "/no/such: no such folder"),
        ({"num_fewshot": 0}, {"num_fewshot": 2}, "fixes its solved examples at 0"),
        ({"doc_to_target": "{{nobody"}, {}, "places.*cannot be loaded: TemplateSyntaxError: unexp"),
        ({"dataset_path": "no/such/loader", "test_split": "x"}, {}, "cannot be loaded"),
        ({"output_type": "generate_until", "doc_to_choice": None, "doc_to_target": "{{place}}",
          "metric_list": [{"metric": "exact_match"}]}, {}, "asks for generate_until; a capability"),
        ({"output_type": "loglikelihood_rolling", "doc_to_choice": None,
          "doc_to_target": "{{place}}", "metric_list": [{"metric": "word_perplexity"}]}, {},
         "give its text as perplexity:FILE"),
    ],
)  # fmt: skip
def test_mistakes_in_one_line(tmp_path, monkeypatch, fields, options, message) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = task_file(tmp_path, {"validation": 2, "test": 3}, **fields)
    with pytest.raises(EquipoiseError, match=message) as caught:
        load_capability(f"lm-eval:{path}", **options)
    assert "\n" not in str(caught.value)


def test_no_task_no_file_no_template_no_lm_eval(tiny: Model, tmp_path: Path, monkeypatch) -> None:
    from equipoise.decisions.lm_eval import right_at

    for spec, message in (
        ("lm-eval", "needs a task: lm-eval:TASK"),
        (f"lm-eval:{tmp_path / 'none.yaml'}", "none.yaml: no such file"),
    ):
        with pytest.raises(EquipoiseError, match=message):
            load_capability(spec)
    path = task_file(tmp_path, {"validation": 2, "test": 3})
    harness = load_capability(f"lm-eval:{path}", apply_chat_template=True).harness
    assert harness is not None
    monkeypatch.setattr(tiny.tokenizer, "chat_template", None)
    with pytest.raises(EquipoiseError, match="tokenizer has no template"):
        right_at(tiny, harness, "test", steering=None, strengths=[0.0])
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(EquipoiseError, match=r"pip install 'equipoise\[lm-eval\]'"):
        load_capability(f"lm-eval:{path}")


def test_lm_eval_is_imported_only_when_asked_for() -> None:
    for name in ("equipoise.tasks.capability", "equipoise.study.measure"):
        source = Path(str(importlib.import_module(name).__file__)).read_text()
        assert "\nfrom lm_eval" not in source
        assert "\nimport lm_eval" not in source
