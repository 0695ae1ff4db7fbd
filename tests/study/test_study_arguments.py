"""What the functions take: loaded things or their names, and one line for anything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equipoise.errors import EquipoiseError
from equipoise.methods import Anchors
from equipoise.models import Model
from equipoise.steering import Steering
from equipoise.study import Result, Settings, audit, can_run, fit, run, sweep
from equipoise.tasks import Capability, load_capability, write_jsonl
from small_tasks import anchor, small_task

SKILL = Capability(
    name="places", kind="accuracy", items=tuple(anchor(number, "test") for number in range(4))
)


def sweep_nothing(model: Any, task: Any, **given: Any) -> Any:
    return sweep(model, task, Steering.identity(small_model(model)), [0], **given)


def small_model(model: Any) -> Any:
    return getattr(model, "hf", model)


FUNCTIONS: list[Callable[..., Any]] = [audit, fit, run, sweep_nothing]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_no_model_task_or_capability_is_one_line(
    tiny: Model, function: Callable[..., Any]
) -> None:
    task = small_task()
    mistakes: list[tuple[Any, Any, dict[str, Any], str]] = [
        (tiny.hf, task, {}, r"a model that equipoise\.load\(NAME_OR_FOLDER\) returned; got Llama"),
        (tiny, [1], {}, r"a task or its name, .*; got list"),
        (tiny, "corefrence", {}, "did you mean 'coreference'"),
        (tiny, task, {"capability": 3}, "capabilities or their names; got int"),
        (tiny, task, {"capability": [SKILL, 3]}, "a capability or its name, .*; got int"),
        (tiny, task, {"capability": "builtn"}, "did you mean 'builtin'"),
    ]
    for model, asked, options, says in mistakes:
        with pytest.raises(EquipoiseError, match=says) as caught:
            function(model, asked, **options)
        assert "\n" not in str(caught.value)


def test_names_and_a_single_capability_do(tiny: Model, tmp_path: Path) -> None:
    task, steering = small_task(), Steering.identity(tiny)
    path, folder = tmp_path / "small.jsonl", tmp_path / "steering"
    write_jsonl(task, path)
    steering.save_pretrained(folder)
    assert set(audit(tiny, path, capability=SKILL).rows[0]["capability"]) == {"places"}
    assert set(audit(tiny, str(path), capability="builtin").rows[0]["capability"]) == {"builtin"}
    both = audit(tiny, task, capability=["builtin", SKILL]).rows[0]["capability"]
    assert set(both) == {"builtin", "places"}
    with pytest.raises(EquipoiseError, match="'builtin' is given twice"):
        audit(tiny, task, capability=["builtin", load_capability("builtin")])
    for named in (folder, f"{folder}/"):
        assert sweep(tiny, task, named, [0]).data["steering"]["digest"] == steering.digest
    with pytest.raises(EquipoiseError, match="the folder it was saved in; got int"):
        sweep(tiny, task, 3, [0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"temperature": "hot"}, "temperature must be a number from 0 on; got 'hot'"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"normalise": "Mean"}, r"normalise 'Mean' is none of sum, mean \(did you mean 'mean'"),
        ({"normalise": None}, "normalise None is none of sum, mean"),
        ({"fair_decoding": "no"}, "fair_decoding must be True or False; got 'no'"),
        ({"hash_seed": 0.5}, "hash_seed must be a whole number; got 0.5"),
        ({"batch_tokens": 0}, "batch_tokens must be a whole number from 1 on; got 0"),
        ({"max_new_tokens": "64"}, "max_new_tokens must be a whole number from 1 on; got '64'"),
        ({"scorer": "lexikon"}, "did you mean 'lexicon'"),
        ({"scorer": 3}, "unknown scorer '3'"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(EquipoiseError, match=says) as caught:
        Settings(**settings)
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_are_settings() -> None:
    assert Settings(temperature=np.float32(0.5), batch_tokens=np.int64(7)).batch_tokens == 7


def fitted(*_: Any) -> None:
    raise AssertionError("the fit was started")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"normalise": "max"}, "normalise 'max' is none of sum, mean"),
        ({"anchors": ["a text"]}, r"expected equipoise\.methods\.Anchors\(.*; got list"),
        ({"anchors": Anchors(texts="a text")}, "each a tuple; got str"),  # type: ignore[arg-type]
        ({"anchors": Anchors(items=("a",))}, "got str among the Items"),  # type: ignore[arg-type]
    ],
)
def test_a_fit_says_what_it_does_not_take(tiny: Model, options: dict[str, Any], says: str) -> None:
    with pytest.raises(EquipoiseError, match=says):
        fit(tiny, small_task(), report=fitted, **options)


@pytest.mark.parametrize(
    ("split", "hint"), [("tst", r" \(did you mean 'test'\?\)"), ("", ""), (3, "")]
)
def test_an_unknown_split_is_named(tiny: Model, split: Any, hint: str) -> None:
    says = f"split {split!r} is none of train, validation, test, unseen{hint}$"
    with pytest.raises(EquipoiseError, match=says):
        audit(tiny, small_task(), split=split)


def test_a_task_without_test_items_is_said_before_the_work(tiny: Model) -> None:
    task = small_task(splits=("train", "validation"))
    says = "has nothing in its test split to measure: give some rows the split 'test', or raise"
    with pytest.raises(EquipoiseError, match=says):
        run(tiny, task, report=fitted)
    with pytest.raises(EquipoiseError, match=says):
        sweep(tiny, task, Steering.identity(tiny), [0], report=fitted)


def test_what_a_run_needs_is_told_from_the_task() -> None:
    assert can_run(small_task(), ())
    assert not can_run(small_task(splits=("train", "validation")), ())
    assert not can_run(small_task(splits=("validation", "test")), ())
    assert not can_run(small_task(anchors=0), [SKILL])  # which has a test part only
    assert can_run(small_task(anchors=0), [load_capability("builtin")])


def test_a_budget_is_checked_before_the_fit(tiny: Model) -> None:
    with pytest.raises(EquipoiseError, match="not a share"):
        run(tiny, small_task(), max_capability_drop=5, report=fitted)
    with pytest.raises(EquipoiseError, match="interpolate needs a budget"):
        sweep(tiny, small_task(), Steering.identity(tiny), [0], interpolate=True)


def test_a_result_is_a_line_and_is_saved_where_it_is_told(tiny: Model, tmp_path: Path) -> None:
    result = sweep(tiny, small_task(), Steering.identity(tiny), [0, 1], max_capability_drop=0.5)
    assert f"task small, method {result.data['method']}, ω 0, 1, chosen ω = 0)" in repr(result)
    assert "\n" not in repr(result)
    assert len(repr(result)) < 200
    assert repr(Result({"sweep": []})) == "Result(model ?, task ?, method none, ω )"
    result.save(str(tmp_path / "results.json"))
    assert json.loads((tmp_path / "results.json").read_text())["chosen"]["strength"] == 0
