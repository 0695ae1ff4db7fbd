"""The loop end to end, and who may see which items."""

from __future__ import annotations

import copy
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.decisions import Decisions
from equipoise.decisions.decide import decide, score_texts
from equipoise.decisions.decode import seeded_hash
from equipoise.errors import EquipoiseError
from equipoise.fairness import Choice, shares
from equipoise.methods import Anchors
from equipoise.models import Model, load
from equipoise.steering import Steering
from equipoise.study import Result, Settings, audit, fit, run, sweep
from equipoise.study import measure as measuring
from equipoise.study.anchors import MAX_ANCHORS, allowed, anchors_of
from equipoise.tasks import Capability, Task, load_capability, load_task
from equipoise.tasks.documents import Document
from equipoise.tasks.item import Item, Split
from equipoise.tasks.splits import assign_splits
from small_tasks import OCCUPATIONS, anchor, small_task, twin

TINY: dict[str, Any] = {"steps": 2, "twins_per_step": 4, "anchors_per_step": 4}
TEXT = "The nurse said that she left the office, and he was late."
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
READING = Capability(
    name="perplexity:x",
    kind="perplexity",
    documents=tuple(Document(f"{TEXT} {s}", s) for s in SPLITS for _ in range(3)),
)
SKILL = Capability(
    name="places",
    kind="accuracy",
    items=tuple(anchor(number, split) for split in SPLITS for number in range(6)),
)


def whole_task() -> Task:
    """Three splits, and one occupation that is held out of them."""
    task = small_task((3, 3, 3))
    held_out = [item for number in range(3) for item in twin("carpenter", number, "unseen")]
    asked = [item for item in task.items if "carpenter" not in item.contexts]
    return task.with_items([*asked, *held_out])


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [n for inner in value.values() for n in numbers(inner)]
    if isinstance(value, list):
        return [n for inner in value for n in numbers(inner)]
    return [value] if isinstance(value, float) else []


# ---- the contract


BIAS = {"estimate", "low", "high", "plug_in", "parity"}
LIMITS = {"estimate", "low", "high"}
ROW = {
    "per_occupation_bias": BIAS,
    "per_occupation_bias_greedy": BIAS,
    "per_occupation_bias_answered": BIAS,
    "stereotype_gap": LIMITS,
    "twins": {"distance", "greedy_flips"},
    "shares": {"first_option", "classes"},
    "unambiguous_accuracy": LIMITS | {"answered_only", "coverage"},
    "abstention": LIMITS,
    "capability": {"places", "perplexity:x"},
    "kl": {"ambiguous", "anchor"},
    "by_occupation": {"nurse", "mechanic", "secretary"},
}


def test_run_writes_the_contract(tiny: Model, tmp_path: Path) -> None:
    task = whole_task()
    seen: list[tuple[str, int, int]] = []
    result, steering = run(
        tiny,
        task,
        strengths=[1.0, 0.5, 1.0],
        capability=[SKILL, READING],
        max_capability_drop=1.0,
        report=lambda phase, done, of, figures: seen.append((phase, done, of)),
        **TINY,
    )
    path = tmp_path / "results.json"
    result.save(path)
    data = json.loads(path.read_text())
    assert data["schema"] == "equipoise/results/1"
    assert data["model"].keys() >= {"name", "fingerprint"}
    assert data["task"]["name"] == "small"
    assert data["task"]["digest"] == task.digest
    ambiguous = sum(item.ambiguous for item in task.items)
    assert data["task"]["items"] == {
        "ambiguous": ambiguous,
        "unambiguous": len(task.items) - ambiguous,
    }
    assert data["method"] == "dso"
    assert data["steering"] == {
        "digest": steering.digest,
        "sites": len(steering.transforms),
        "parameters": steering.n_parameters,
        "nonzero": steering.n_nonzero,
    }
    assert set(data["wall_seconds"]) == {"audit", "fit", "sweep"}
    assert data["wall_seconds"]["fit"] > 0
    assert data["environment"]["packages"]["torch"]
    assert len(data["fit"]["history"]) == 2
    for rows in (data["sweep"], data["validation"]):
        assert [row["strength"] for row in rows] == [0.0, 0.5, 1.0]
        for row in rows:
            for name, keys in ROW.items():
                assert keys <= set(row[name]), name
            for bars in row["by_occupation"].values():
                assert {"n", "pro", "anti", "abstain"} <= set(bars)
            for name in SKILL.name, READING.name:
                assert set(row["capability"][name]) >= LIMITS
    assert all(math.isfinite(n) for n in numbers(data))
    base, top = data["sweep"][0], data["sweep"][-1]
    assert base["kl"] == {"ambiguous": 0.0, "anchor": 0.0}
    assert top["kl"]["ambiguous"] > 0
    assert base["unambiguous_accuracy"]["drop"]["estimate"] == 0
    none = {"estimate": 0.0, "low": 0.0, "high": 0.0}  # the base itself: no doubt either
    for metric in (base["unambiguous_accuracy"], *base["capability"].values()):
        assert metric["drop"] == none
    # Occupations no fit has seen stand on their own.
    assert "carpenter" not in base["by_occupation"]
    assert set(base["held_out"]) == {
        "per_occupation_bias",
        "per_occupation_bias_greedy",
        "unambiguous_accuracy",
        "by_occupation",
    }
    assert set(base["held_out"]["by_occupation"]) == {"carpenter"}
    assert "held_out" not in data["validation"][0]
    assert data["chosen"]["strength"] in {0.0, 0.5, 1.0}
    assert data["chosen"]["rule"]
    assert steering.info.recommended_strength == data["chosen"]["strength"]
    assert steering.info.task_digest == task.digest
    assert steering.info.extra["config"]["steps"] == 2
    for phase in ("fit", "choose", "sweep"):
        done = [(d, of) for p, d, of in seen if p == phase]
        assert done[-1][0] == done[-1][1]


def test_rows_are_of_the_split_they_say(tiny: Model) -> None:
    """Test items are not measured for the choice, nor the others for the report."""
    sizes: dict[Split, int] = {"train": 4, "validation": 2, "test": 3}
    items = [
        item
        for split, size in sizes.items()
        for occupation in OCCUPATIONS
        for number in range(size)
        for item in twin(occupation, number, split)
    ]
    result = sweep(tiny, Task("x", tuple(items)), Steering.identity(tiny), [1.0, 0.0])
    assert [row["by_occupation"]["nurse"]["n"] for row in result.rows] == [6, 6]
    assert [row["by_occupation"]["nurse"]["n"] for row in result.validation] == [4, 4]
    assert result.rows[0]["unambiguous_accuracy"] is None


def test_audit_of_a_task_file(tiny: Model, tmp_path: Path) -> None:
    rows = [
        {
            "id": item.id,
            "context": list(item.contexts),
            "prompt": item.prompt,
            "options": list(item.options),
            "sides": list(item.sides or ()),
            "twin": item.twin,
        }
        for item in small_task(anchors=0).items
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    task = load_task(path)
    result = audit(tiny, task)
    (row,) = result.rows
    assert row["strength"] == 0
    assert row["kl"] == {"ambiguous": None, "anchor": None}
    assert row["unambiguous_accuracy"] is None
    assert row["capability"] == {}
    assert sum(bars["n"] for bars in row["by_occupation"].values()) == len(rows)
    assert result.data["steering"] is None
    assert result.data["method"] == "none"
    assert result.data["split"] == "all"
    assert len(result.data["worst_items"]) == 12
    json.dumps(result.to_dict(), allow_nan=False)
    choice = result.choose(0.1)
    assert choice.strength == 0
    assert "never by the test split" in choice.rule


def test_audit_of_one_split(tiny: Model) -> None:
    both = [SKILL, READING]
    (row,) = audit(tiny, whole_task(), split="test", capability=both).rows
    assert row["by_occupation"]["nurse"]["n"] == 6
    assert row["capability"]["places"]["n"] == 6
    assert row["capability"][READING.name]["n"] == 3
    (row,) = audit(tiny, whole_task(), capability=both).rows
    assert row["capability"][READING.name]["n"] == 9  # nothing was fitted on documents
    with pytest.raises(EquipoiseError, match="'small' has nothing in its test split to measure"):
        audit(tiny, small_task(splits=("train",)), split="test")


def test_settings_add_what_they_ask_for(tiny: Model) -> None:
    settings = Settings(temperature=0.5, fair_decoding=False, normalise="mean")
    (row,) = audit(tiny, small_task(), settings=settings).rows
    assert row["at_temperature"]["temperature"] == 0.5
    assert "seeded_hash" not in row
    (row,) = audit(tiny, small_task()).rows
    assert "at_temperature" not in row
    assert set(row["seeded_hash"]) == {
        "per_occupation_bias",
        "twins",
        "shares",
        "unambiguous_accuracy",
    }


# ---- what a task cannot tell


def fixed(monkeypatch: pytest.MonkeyPatch, log_share: Any) -> None:
    """Every item is decided by a rule: log_share(item, option's index)."""

    def decide(_model: Model, items: list[Item], **given: Any) -> list[Decisions]:
        width = max(len(item.options) for item in items)
        scores = np.full((len(items), width), -np.inf)
        for i, item in enumerate(items):
            scores[i, : len(item.options)] = [log_share(item, k) for k in range(len(item.options))]
        return [
            Decisions(tuple(items), scores, np.zeros(len(items)), w) for w in given["strengths"]
        ]

    monkeypatch.setattr(measuring, "decide", decide)


def test_a_model_that_always_abstains_has_no_bias_to_tell(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed(monkeypatch, lambda item, k: 0.0 if item.options[k] == "unknown" else -100.0)
    result = audit(tiny, small_task())
    (row,) = result.rows
    assert row["per_occupation_bias_answered"] is None
    assert row["per_occupation_bias"] is None
    assert row["per_occupation_bias_greedy"] is None
    assert row["abstention"]["estimate"] == pytest.approx(1)
    json.dumps(result.to_dict(), allow_nan=False)


def test_an_occupation_with_one_twin_is_left_out_and_said(tiny: Model) -> None:
    (row,) = audit(tiny, small_task((1, 3, 3, 3), splits=("test",))).rows
    bias = row["per_occupation_bias"]
    assert list(bias["left_out"]) == ["nurse"]
    assert bias["contexts"] == 3
    assert row["by_occupation"]["nurse"]["n"] == 2


def test_capability_without_documents_in_a_split_is_null(tiny: Model) -> None:
    short = Capability(name="p", kind="perplexity", documents=(Document(TEXT, "test"),))
    result = sweep(tiny, small_task(), Steering.identity(tiny), [0, 1], capability=[short])
    assert [row["capability"]["p"] for row in result.validation] == [None, None]
    assert result.rows[1]["capability"]["p"]["estimate"] > 1


def test_diverged_model_is_an_error(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed(monkeypatch, lambda item, k: float("nan"))
    with pytest.raises(EquipoiseError, match="does so unsteered: load it in another dtype"):
        audit(tiny, small_task())


def test_float64() -> None:
    """transformers' plain attention is NaN in it where a row is padded."""
    rows = audit(load("builtin:", dtype="float64"), small_task()).rows
    assert rows[0]["per_occupation_bias"]["estimate"] == pytest.approx(
        audit(load("builtin:"), small_task()).rows[0]["per_occupation_bias"]["estimate"], abs=1e-5
    )


def test_a_model_that_drops_out_at_random_is_warned_of(tiny: Model) -> None:
    training = Model(copy.deepcopy(tiny.hf).train(), tiny.tokenizer)
    audit(training, small_task())  # its rates are 0: a warning would be an error here
    training.hf.config.attention_dropout = 0.1
    with pytest.warns(UserWarning, match=r"in training mode.*call eval\(\)"):
        audit(training, small_task())


# ---- strengths


def test_drops_are_against_strength_0_wherever_it_stands(tiny: Model) -> None:
    steering = fit(tiny, small_task(), **TINY)
    with pytest.warns(UserWarning, match="extrapolates"):
        result = sweep(tiny, small_task(), steering, [2.0, 0.0, -3.0], capability=[SKILL, READING])
    assert [row["strength"] for row in result.rows] == [-3.0, 0.0, 2.0]
    base = result.row(0.0)
    for row in result.rows:
        accuracy, reading = row["unambiguous_accuracy"], row["capability"][READING.name]
        assert accuracy["drop"]["estimate"] == pytest.approx(
            base["unambiguous_accuracy"]["estimate"] - accuracy["estimate"]
        )
        assert reading["drop"]["estimate"] == pytest.approx(
            reading["estimate"] / base["capability"][READING.name]["estimate"] - 1
        )


def test_fair_decoding_has_the_seed_and_the_temperature_of_the_settings(tiny: Model) -> None:
    task = small_task((8, 8, 8, 8))
    (found,) = decide(tiny, [item for item in task.split("test") if item.ambiguous])

    def first_option(seed: int, temperature: float) -> float:
        told = shares(seeded_hash(found, seed=seed, temperature=temperature))
        assert told is not None
        return float(told["first_option"])

    asked = Settings(hash_seed=3, temperature=4.0)
    (row,) = audit(tiny, task, split="test", settings=asked).rows
    assert row["seeded_hash"]["shares"]["first_option"] == pytest.approx(first_option(3, 4.0))
    assert first_option(3, 4.0) not in (first_option(0, 4.0), first_option(3, 1.0))


def test_worst_items_are_those_of_the_strength_that_is_shown(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The most one-sided where the page starts, whatever they were unsteered."""
    steering, task = Steering.identity(tiny, foldable=False), small_task()
    torch.manual_seed(0)
    with torch.no_grad():
        for value in steering.parameters():
            value.normal_(std=0.3)
    asked = [item for item in task.split("test") if item.ambiguous]

    def most_one_sided(strength: float) -> list[str]:
        (found,) = decide(tiny, asked, steering=steering, strengths=[strength])
        lean = {
            item.id: abs(p[item.sides.index("pro")] - p[item.sides.index("anti")])
            for item, p in zip(asked, found.probabilities(), strict=True)
        }
        return sorted(lean, key=lean.__getitem__, reverse=True)[:12]

    ladder = [0.0, 0.5, 1.0]
    for chosen, shown in ((None, 1.0), (0.0, 1.0), (0.5, 0.5)):
        if chosen is not None:
            choice = Choice(chosen, "as told", None, {})
            monkeypatch.setattr(
                "equipoise.study.results.choose_strength", lambda *a, c=choice, **k: c
            )
        budget = None if chosen is None else 0.05
        found = sweep(tiny, task, steering, ladder, max_capability_drop=budget).data["worst_items"]
        assert [item["id"] for item in found] == most_one_sided(shown)
    assert len({tuple(most_one_sided(strength)) for strength in ladder}) == 3


def test_divergence_of_documents_counts_their_tokens(tiny: Model) -> None:
    """A capability's is a mean over tokens, that of anchors one over documents, as a fit has it."""
    steering = fit(tiny, small_task(), **TINY)
    texts = (TEXT, "He left.", f"{TEXT} {TEXT} {TEXT}")
    read = score_texts(tiny, texts, steering=steering, strengths=[1.0])
    assert read.kl is not None
    task = Task("no anchors", tuple(i for i in small_task().items if i.ambiguous))
    for more in ((), ("nurse",)):  # a document of a single token says nothing
        documents = tuple(Document(text, "test") for text in (*texts, *more))
        capability = Capability(name="text", kind="perplexity", documents=documents)
        row = sweep(tiny, task, steering, [1.0], capability=[capability]).row(1.0)
        mean = (read.kl[0] * read.tokens).sum() / read.tokens.sum()
        assert row["capability"]["text"]["kl"] == pytest.approx(mean, rel=1e-3)
        assert row["kl"]["anchor"] == pytest.approx(read.kl[0].mean(), rel=1e-3)
    assert mean != pytest.approx(read.kl[0].mean(), rel=1e-2)


def test_the_strengths_a_steering_was_verified_at_are_all_that_were_measured(tiny: Model) -> None:
    with pytest.warns(UserWarning, match="extrapolates"):
        _, found = run(tiny, small_task(), strengths=[-0.5, 0.5], **TINY)
    assert found.info.verified_strengths == (-0.5, 0.5)


def test_a_run_fits_with_its_seed_and_as_it_measures(tiny: Model) -> None:
    items = small_task().items
    longer = [replace(i, options=(f"{i.options[0]} of the town", *i.options[1:])) for i in items]
    task = replace(small_task(), items=tuple(longer))
    means = Settings(normalise="mean")
    _, found = run(tiny, task, strengths=[1.0], settings=means, seed=4, **TINY)
    wanted, *others = (
        fit(tiny, task, normalise=how, seed=seed, **TINY).digest
        for how, seed in (("mean", 4), ("sum", 4), ("mean", 0))
    )
    assert found.digest == wanted
    assert wanted not in others


def test_strengths_are_sorted_and_measured_once(tiny: Model) -> None:
    result = sweep(tiny, small_task(), Steering.identity(tiny), [1, 0.2, 1.0, 0.2])
    # The base is measured without being asked: a choice has to beat it.
    for rows in (result.rows, result.validation):
        assert [row["strength"] for row in rows] == [0.0, 0.2, 1.0]
    # The identity changes nothing.
    assert result.row(0.2)["unambiguous_accuracy"]["drop"]["estimate"] == 0
    assert result.choose(0.5).strength == 0
    with pytest.raises(EquipoiseError, match=r"strength 0\.4 was not measured; there is 0, 0\.2"):
        result.row(0.4)


def test_a_steering_worse_than_the_base_is_not_chosen(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worse(_model: Model, items: Sequence[Item], **given: Any) -> list[Decisions]:
        def share(item: Item, option: int, strength: float) -> float:
            side = (item.sides or (None,) * len(item.options))[option]
            return {"pro": strength + 0.1}.get(str(side), 0.0)

        width = max(len(item.options) for item in items)
        tables = []
        for w in given["strengths"]:
            scores = np.full((len(items), width), -np.inf)
            for i, item in enumerate(items):
                for k in range(len(item.options)):
                    scores[i, k] = share(item, k, w) - 5
            tables.append(Decisions(tuple(items), scores, np.zeros(len(items)), w))
        return tables

    monkeypatch.setattr(measuring, "decide", worse)
    result = sweep(tiny, small_task((3, 3, 3, 3)), Steering.identity(tiny), [0.5, 1.0])
    assert result.choose(1.0).strength == 0


@pytest.mark.parametrize(("lost_from", "chosen"), [(0.9, 0.75), (0.6, 0.5)])
def test_an_interpolated_strength_is_measured_and_chosen_only_if_it_fits(
    tiny: Model, monkeypatch: pytest.MonkeyPatch, lost_from: float, chosen: float
) -> None:
    """Bias falls evenly; from some strength on every unambiguous answer is wrong."""

    def share(item: Item, option: int, strength: float) -> float:
        if item.sides:
            return {"pro": 1.1 - strength}.get(str(item.sides[option]), 0.0) - 5
        return -1.0 if (option == item.answer) == (strength < lost_from) else -9.0

    asked: list[list[float]] = []

    def decided(_model: Model, items: Sequence[Item], **given: Any) -> list[Decisions]:
        asked.append(list(given["strengths"]))
        width = max(len(item.options) for item in items)
        tables = []
        for w in given["strengths"]:
            scores = np.full((len(items), width), -np.inf)
            for i, item in enumerate(items):
                scores[i, : len(item.options)] = [
                    share(item, k, w) for k in range(len(item.options))
                ]
            tables.append(Decisions(tuple(items), scores, np.zeros(len(items)), w))
        return tables

    monkeypatch.setattr(measuring, "decide", decided)
    task, steering = small_task((3, 3, 3, 3)), Steering.identity(tiny)
    result = sweep(
        tiny, task, steering, [0.5, 1], max_capability_drop=0.7017, interpolate=True
    )  # unchanged answers leave .403 of 4, lost ones 1: the line crosses .7017 halfway
    assert asked == [[0.0, 0.5, 1.0], [0.0, 0.75], [0.0, 0.5, 0.75, 1.0]]
    for rows in (result.rows, result.validation):
        assert [row["strength"] for row in rows] == [0.0, 0.5, 0.75, 1.0]
    found = result.data["chosen"]
    assert (found["strength"], found["interpolated"]) == (chosen, False)
    drop = next(row for row in result.validation if row["strength"] == chosen)
    assert found["limits"] == {"unambiguous_accuracy": drop["unambiguous_accuracy"]["drop"]["high"]}
    # Without the model nothing is measured, and the rule says so.
    del result.data["sweep"][2], result.validation[2]
    guess = result.choose(0.7017, interpolate=True)
    assert guess.interpolated
    assert "not measured" in guess.rule


@pytest.mark.parametrize(
    ("strengths", "said"),
    [
        ([], "no strengths"),
        (["a"], r"must be numbers.*\['a'\]"),
        ([None], "must be numbers"),
        (0.5, "must be numbers"),
        ([0, math.nan], "must be finite"),
    ],
)
def test_bad_strengths_are_said_before_anything_is_measured_or_fitted(
    tiny: Model, monkeypatch: pytest.MonkeyPatch, strengths: Any, said: str
) -> None:
    monkeypatch.setattr(measuring, "decide", None)
    with pytest.raises(EquipoiseError, match=said):
        sweep(tiny, small_task(), Steering.identity(tiny), strengths)
    with pytest.raises(EquipoiseError, match=said):
        run(tiny, small_task(), strengths=strengths, **TINY)


# ---- several capabilities, and what an artifact says of its data


def reading(folder: Path, text: str) -> Capability:
    folder.mkdir()
    (folder / "x.txt").write_text("\n\n".join(f"{text} {n}" for n in range(10)))
    return load_capability(f"perplexity:{folder / 'x.txt'}")


def test_capabilities_of_one_name_are_all_measured(tiny: Model, tmp_path: Path) -> None:
    one, two = reading(tmp_path / "da", TEXT), reading(tmp_path / "db", "He was a nurse.")
    (row,) = audit(tiny, small_task(), capability=[one, two, SKILL]).rows
    assert set(row["capability"]) == {"perplexity:da/x.txt", "perplexity:db/x.txt", "places"}
    (alone,) = audit(tiny, small_task(), capability=[two]).rows
    assert alone["capability"]["perplexity:x.txt"] == row["capability"]["perplexity:db/x.txt"]


def test_a_capability_twice_is_an_error_before_the_fit(tiny: Model) -> None:
    for call in (audit, run):
        with pytest.raises(EquipoiseError, match="'places' is given twice"):
            call(tiny, small_task(), capability=[SKILL, READING, SKILL])


def test_an_artifact_says_what_data_it_was_fitted_on(tiny: Model) -> None:
    mine = Anchors((), (TEXT,))
    first = fit(tiny, small_task(), capability=[SKILL, READING], anchors=mine, **TINY).info
    assert set(first.data_digests) == {"places", "perplexity:x", "anchors"}
    assert first.data_digests["places"] == SKILL.digest
    other = replace(SKILL, items=SKILL.items[1:])
    second = fit(tiny, small_task(), capability=[other, READING], anchors=mine, **TINY).info
    changed = {k for k, v in first.data_digests.items() if second.data_digests[k] != v}
    assert changed == {"places"}
    assert fit(tiny, small_task(), **TINY).info.data_digests == {}


# ---- null, never 0


def test_the_shares_a_bias_is_measured_against_stand_beside_it(tiny: Model) -> None:
    task = whole_task()
    assert audit(tiny, task).data["task"]["target"] is None
    wanted = {"pro": 0.25, "anti": 0.75}
    assert audit(tiny, replace(task, target=wanted)).data["task"]["target"] == wanted


def test_what_was_not_timed_is_null(tiny: Model) -> None:
    def timed(result: Result) -> set[str]:
        assert set(result.data["wall_seconds"]) == {"audit", "fit", "sweep"}
        return {name for name, seconds in result.data["wall_seconds"].items() if seconds}

    assert timed(audit(tiny, small_task())) == {"audit"}
    result, steering = run(tiny, small_task(), strengths=[1.0], **TINY)
    assert timed(result) == {"fit", "sweep"}
    assert result.data["wall_seconds"]["audit"] is None
    assert timed(sweep(tiny, small_task(), steering, [1.0])) == {"sweep"}


def test_texts_are_anchors_too(tiny: Model) -> None:
    steering = fit(tiny, small_task(), capability=[READING], **TINY)
    ambiguous = Task("x", tuple(item for item in small_task().items if item.ambiguous))
    row = sweep(tiny, ambiguous, steering, [1.0], capability=[READING]).row(1.0)
    assert row["kl"]["anchor"] == pytest.approx(row["capability"][READING.name]["kl"], rel=1e-6)
    assert row["kl"]["anchor"] > 0
    both = sweep(tiny, small_task(), steering, [1.0], capability=[READING]).row(1.0)["kl"]["anchor"]
    items = sweep(tiny, small_task(), steering, [1.0]).row(1.0)["kl"]["anchor"]
    texts = len(READING.texts("test"))
    assert both == pytest.approx((4 * items + texts * row["kl"]["anchor"]) / (4 + texts))


def choosable(strength: float, bias: float, limit: float) -> dict[str, Any]:
    drop = {"estimate": 0.0, "low": 0.0, "high": limit}
    return {
        "strength": strength,
        "per_occupation_bias": {"estimate": bias, "low": bias, "high": bias},
        "unambiguous_accuracy": {"estimate": 1.0, "drop": drop},
        "capability": {},
    }


def test_strength_is_chosen_by_the_validation_rows_alone() -> None:
    validation = [choosable(0, 0.5, 0), choosable(0.5, 0.3, 0.01), choosable(1, 0.1, 0.2)]
    test = [choosable(0, 0.5, 0), choosable(0.5, 0.4, 0.5), choosable(1, 0.0, 0.0)]
    result = Result({"sweep": test}, validation)
    assert result.choose(0.02).strength == 0.5
    assert result.data["chosen"]["strength"] == 0.5
    assert result.data["chosen"]["split"] == "validation"
    assert result.choose(0.2).strength == 1
    assert Result({"sweep": test}).choose(0.02).strength == 0
    between = result.choose(0.1, interpolate=True)
    assert 0.5 < between.strength < 1


# ---- who sees what


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from(OCCUPATIONS)), max_size=60))
def test_splits_share_no_twin_and_anchors_no_split(drawn: list[tuple[int, str]]) -> None:
    items = [item for n, name in dict.fromkeys(drawn) for item in twin(name, n, "test")]
    plain = [anchor(n, "test") for n, _ in dict.fromkeys(drawn)]
    task = Task("x", assign_splits([*items, *plain], held_out={"carpenter"}), texts=(TEXT,))
    where = defaultdict(set)
    for item in task.items:
        where[item.twin].add(item.split)
        if "carpenter" in item.contexts:
            assert item.split == "unseen"
    assert all(len(splits) == 1 for splits in where.values())
    for split in ("train", "validation"):
        found = anchors_of(task, [SKILL, READING], split)
        assert {item.split for item in found.items} <= {split}
        assert all(item.answer is not None for item in found.items)
        wanted = {d.text for d in READING.documents if d.split == split}
        assert set(found.texts) == wanted | ({TEXT} if split == "train" else set())


@pytest.mark.parametrize("name", ["coreference", "pronouns"])
def test_built_in_tasks_keep_their_splits_apart(name: str) -> None:
    task = load_task(name)
    where = defaultdict(set)
    for item in task.items:
        where[item.twin].add(item.split)
    assert all(len(splits) == 1 for splits in where.values())
    seen = {c for item in task.split(*SPLITS) for c in item.contexts if item.ambiguous}
    assert not seen & task.held_out_contexts
    assert task.held_out_contexts
    train = {(item.prompt, item.options) for item in anchors_of(task, (), "train").items}
    later = {(item.prompt, item.options) for item in task.split("validation", "test", "unseen")}
    assert not train & later


def test_a_fit_reads_train_and_validation_only(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from equipoise.decisions import decide as deciding
    from equipoise.methods.dso import pools

    read: dict[str, set[str]] = {"train": set(), "check": set()}
    encode = deciding.encode_items

    def noting(where: str) -> Any:
        def encode_items(model: Model, items: Sequence[Item]) -> Any:
            read[where].update(item.split for item in items)
            return encode(model, items)

        return encode_items

    monkeypatch.setattr(pools, "encode_items", noting("train"))
    monkeypatch.setattr(deciding, "encode_items", noting("check"))
    anchors = Anchors((*whole_task().items, *SKILL.items))
    with pytest.warns(UserWarning, match="left out of 90 anchors given"):
        steering = fit(tiny, whole_task(), capability=[SKILL], anchors=anchors, **TINY)
    assert read == {"train": {"train"}, "check": {"validation"}}
    assert "anchors" not in steering.info.data_digests  # none of these was left


def test_anchors_by_hand_are_for_training_and_there_are_enough() -> None:
    mine = Anchors(tuple(replace(anchor(n, "train"), id=str(n)) for n in range(2000)), (TEXT,))
    found = anchors_of(small_task(), (), "train", mine)
    assert len(found.items) == MAX_ANCHORS
    assert found.texts == (TEXT,)
    places = [int(item.id) for item in found.items if item.id.isdigit()]
    assert 3 <= min(np.diff(places)) <= max(np.diff(places)) <= 4  # evenly spread
    assert len(found.items) - len(places) == 4  # the task's own: not crowded out
    assert not anchors_of(small_task(anchors=0), (), "validation", mine)


def test_anchors_by_hand_are_neither_held_out_nor_what_is_to_change() -> None:
    def own(item: Item) -> Item:
        return replace(item, prompt=f"{item.split}: {item.prompt}")

    task = Task("x", tuple(map(own, whole_task().items)))
    skill = replace(SKILL, items=tuple(map(own, SKILL.items)))
    mine = replace(anchor(0, "train"), id="mine", twin="mine", prompt="Where was she?")
    test_item = task.split("test")[0]
    partner = replace(mine, id="a partner", twin=test_item.twin)
    namesake = replace(mine, id="test-anchor-0", twin="test-anchor-0")  # as line numbers are
    spaced = replace(mine, prompt=f" {test_item.prompt.replace(' ', '  ')}\n")
    items = (*task.items, *skill.items, mine, partner, namesake, spaced)
    texts = (*READING.texts(), "A text of mine.", test_item.prompt)
    with pytest.warns(UserWarning, match="left out of") as caught:
        kept = allowed(Anchors(items, texts), task, [skill, READING])
    plain = [item for item in task.split("train") if not item.ambiguous]
    assert kept.items == (*plain, *skill.questions("train"), mine, namesake)
    assert kept.texts == (*READING.texts("train"), "A text of mine.")
    (warning,) = caught
    ambiguous = len(task.split("train")) - len(plain)
    held_out = len(items) + len(texts) - len(kept.items) - len(kept.texts) - ambiguous
    assert f"{ambiguous} ambiguous in the task" in str(warning.message)
    assert f"{held_out} of a validation, test or unseen part" in str(warning.message)


def test_bad_method_and_setting_are_named(tiny: Model) -> None:
    with pytest.raises(EquipoiseError, match=r"unknown method 'dos'.*did you mean"):
        fit(tiny, small_task(), "dos")
    with pytest.raises(EquipoiseError, match="did you mean 'steps'"):
        fit(tiny, small_task(), step=3)


def test_an_audit_of_a_steered_model_says_so(tiny: Model) -> None:
    steering = Steering.identity(tiny)
    with steering.applied(tiny, 1.0), pytest.warns(UserWarning, match="of the steered model"):
        audit(tiny, small_task())
