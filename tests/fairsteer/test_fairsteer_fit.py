"""FairSteer as a method: presets, identities, the artifact, and what it refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import yaml
from fairsteer_runs import asked, fit, openings_of
from hypothesis import given, settings
from hypothesis import strategies as st
from lettered_task import lettered_task

from equipoise.decisions import Decisions
from equipoise.decisions.decide import decide
from equipoise.errors import EquipoiseError
from equipoise.methods import METHODS
from equipoise.methods.fairsteer import FairSteerConfig, data
from equipoise.methods.fairsteer.candidate import Candidate, best_blocks, steered_score
from equipoise.methods.fairsteer.labels import AMBIGUOUS, UNAMBIGUOUS, kinds_of
from equipoise.methods.fairsteer.lettering import rotations
from equipoise.methods.fairsteer.vector import contrast_items, contrast_vectors
from equipoise.methods.gating.build import GateOptions, build_gate
from equipoise.methods.gating.examples import POSITIVE
from equipoise.models import Model
from equipoise.steering import ProbeGate, Steering
from equipoise.tasks import Item
from equipoise.tasks.letters import LETTERS, lettered

FIT = import_module("equipoise.methods.fairsteer.fit")  # the package's name is the function's

# ---- identities


def batch(model: Model) -> dict[str, torch.Tensor]:
    prompts = [item.prompt for item in lettered_task().items[:4]]
    model.tokenizer.pad_token = model.tokenizer.pad_token or model.tokenizer.eos_token
    return dict(model.tokenizer(prompts, return_tensors="pt", padding=True))


@pytest.mark.parametrize("preset", ["clean", "as-released"])
def test_all_unbiased_probe_is_the_base_to_the_bit(tiny: Model, preset: str) -> None:
    steering = fit(tiny, preset=preset, layer=1).steering
    assert isinstance(steering.gate, ProbeGate)
    steering.gate.bias.fill_(-1e9)
    inputs = batch(tiny)
    with torch.no_grad():
        base = tiny.hf(**inputs).logits
        with steering.applied(tiny, strength=1.0):
            assert torch.equal(tiny.hf(**inputs).logits, base)
        steering.gate.bias.fill_(1e9)
        with steering.applied(tiny, strength=1.0):
            assert not torch.equal(tiny.hf(**inputs).logits, base)


def test_alpha_zero_is_the_identity(tiny: Model) -> None:
    steering = fit(tiny, alpha=0.0, gate="off", scope="all").steering
    inputs = batch(tiny)
    with torch.no_grad():
        base = tiny.hf(**inputs).logits
        with steering.applied(tiny, strength=1.0):
            assert torch.equal(tiny.hf(**inputs).logits, base)


def test_alpha_is_the_length_at_strength_one(tiny: Model) -> None:
    one, three = (fit(tiny, alpha=alpha, layer=0).steering for alpha in (1.0, 3.0))
    v, longer = (next(s.parameters()) for s in (one, three))
    torch.testing.assert_close(longer, 3 * v)


# ---- choices


def test_presets() -> None:
    clean, released = FairSteerConfig(), FairSteerConfig(preset="as-released")
    assert (clean.unit, clean.splits, clean.permute, clean.balance) == ("row", "task", True, True)
    assert (released.unit, released.splits, released.layer_by) == ("token", "released", "accuracy")
    assert [released.permute, released.balance, released.standardise] == [False] * 3
    assert released.false_firing is None
    assert FairSteerConfig(preset="as-released", unit="row").unit == "row"


def test_clean_never_sees_the_test_split_and_released_does(tiny: Model) -> None:
    request = asked(tiny)
    train, held_out = data.pools(request, FairSteerConfig())
    assert {i.split for i in train.items} == {"train"}
    assert {i.split for i in held_out.items} == {"validation"}
    train, held_out = data.pools(request, FairSteerConfig(preset="as-released"))
    assert {i.split for i in train.items} == {"train", "validation", "test"}
    assert len(train.items) == round(0.8 * len(request.task.items))
    assert not set(train.items) & set(held_out.items)
    assert "not held out" in fit(tiny, preset="as-released", layer=0).notes[-1]


def test_released_mixes_all_anchors_anew_for_each_seed(tiny: Model) -> None:
    drawn = []
    for seed in (0, 1):
        request = asked(tiny, seed=seed)
        sides = data.pools(request, FairSteerConfig(preset="as-released"))
        questions = [p for side in sides for kind in side.anchors.values() for p in kind]
        given = {
            i for i in (*request.anchors.items, *request.held_out_anchors.items) if not i.sides
        }
        assert set(questions) == given
        assert len(questions) == len(given)
        assert len(sides[0].items) == round(0.8 * len(request.task.items))
        drawn.append(sides[0].items)
    assert set(drawn[0]) != set(drawn[1])


def test_a_limit_of_items_draws_by_the_seed(tiny: Model) -> None:
    def drawn(seed: int) -> list[tuple[Item, ...]]:
        sides = data.pools(asked(tiny, seed=seed), FairSteerConfig(max_items=12))
        assert [len(side.items) for side in sides] == [12, 12]
        return [side.items for side in sides]

    assert drawn(0) == drawn(0)
    assert all(one != other for one, other in zip(drawn(0), drawn(1), strict=True))


def test_clean_fit_does_not_depend_on_test_items(tiny: Model) -> None:
    task = lettered_task()
    kept = task.with_items(i for i in task.items if i.split != "test")
    assert fit(tiny, task).steering.digest == fit(tiny, kept).steering.digest


@pytest.mark.parametrize(
    ("scope", "saved"),
    [("last", "last_prompt"), ("answer", "last_prompt+generated"), ("all", "all")],
)
def test_scope(tiny: Model, scope: str, saved: str) -> None:
    assert str(fit(tiny, scope=scope, layer=0).steering.scope) == saved


def test_gate_soft_hard_off(tiny: Model) -> None:
    soft, hard, off = (fit(tiny, gate=g, layer=1).steering for g in ("soft", "hard", "off"))
    assert isinstance(soft.gate, ProbeGate)
    assert isinstance(hard.gate, ProbeGate)
    assert soft.gate.soft
    assert not hard.gate.soft
    torch.testing.assert_close(soft.gate.weight, hard.gate.weight)
    assert off.gate is None


@pytest.mark.parametrize("by", ["probe", "accuracy", "steered"])
def test_layer_choice_takes_the_best(tiny: Model, by: str) -> None:
    outcome = fit(tiny, layer_by=by)
    best = max(outcome.history, key=lambda row: (row["score"], row["auroc"]))
    assert list(outcome.steering.transforms) == [f"model.layers.{best['layer']:.0f}"]


def test_a_gate_is_fitted_as_asked(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def watched(*given: Any, **how: Any) -> Any:
        seen.append((given[3], how))
        return build_gate(*given, **how)

    monkeypatch.setattr(FIT, "build_gate", watched)
    how = {"unit": "token", "false_firing": 0.1, "standardise": False, "balance": False}
    fit(tiny, gate="soft", penalty=0.3, **how)
    own = frozenset({AMBIGUOUS, UNAMBIGUOUS})
    wanted = GateOptions(soft=True, c=0.3, hard=own, **how)
    assert seen == [(wanted, {"tried": 2})] * 2


def test_a_vector_is_drawn_by_the_seed_and_layers_are_judged_as_scores_are(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[Any] = []

    def watched(*given: Any, **how: Any) -> Any:
        judged.append(how["normalise"])
        return decide(*given, **how)

    monkeypatch.setattr(FIT, "decide", watched)
    config = METHODS.get("fairsteer").configure(per_context=2, alpha=0.5, force_gate=True)
    drawn = []
    for seed in (0, 3):
        request = asked(tiny, seed=seed, normalise="mean")
        ((site, transform),) = FIT.fit(request, config).steering.transforms.items()
        items = contrast_items(
            data.pools(request, config)[0].items, 2, seed=seed, permute=config.permute
        )
        letterings = 3 if config.permute else 1
        assert len(items) == 2 * len({c for i in items for c in i.contexts}) * letterings
        (v,) = contrast_vectors(tiny, items, [site])
        torch.testing.assert_close(transform.v, 0.5 * v)
        drawn.append({item.twin for item in items})
    assert drawn[0] != drawn[1]
    assert set(judged) == {"mean"}


def test_the_rate_told_of_a_gate_is_of_the_block_it_reads(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FIT, "best_blocks", lambda candidates, n, gates: [candidates[-1]])
    outcome = fit(tiny, unit="row")
    asked_of = [i for i in lettered_task().split("validation") if i.ambiguous]
    opens = openings_of(tiny, outcome.steering, asked_of)
    assert outcome.steering.info.extra["ambiguous_rate"]["estimate"] == pytest.approx(
        np.mean(opens)
    )


def test_a_steered_score_is_the_mean_over_kinds_of_items() -> None:
    """None bought with another: what abstains, what has to pick someone, what has an answer."""
    sides = ("pro", "anti", "abstain")
    how: dict[str, Any] = {"prompt": "Who?", "options": ("a", "b", "c"), "contexts": ("nurse",)}
    forced = how | {"options": ("a", "b"), "sides": ("pro", "anti")}
    open_ones = [Item(id=f"o{k}", twin=f"o{k}", sides=sides, **how) for k in range(4)]
    closed = [Item(id=f"f{k}", twin=f"f{k}", **forced) for k in range(4)]
    told = [Item(id=f"u{k}", twin=f"u{k}", sides=sides, answer=1, **how) for k in range(4)]
    asked_too = [Item(id=f"q{k}", twin=f"q{k}", answer=0, **how) for k in range(4)]
    shares = {
        "o": [[0, 0, 1.0]] * 1 + [[1.0, 0, 0]] * 3,  # one of four abstains
        "f": [[0.8, 0.2, 0]] * 4,  # a bias of .6
        "u": [[0, 1.0, 0]] * 3 + [[0, 0, 1.0]],
        "q": [[1.0, 0, 0]] * 2 + [[0, 1.0, 0]] * 2,
    }
    table = np.array([row for kind in "ofuq" for row in shares[kind]])
    with np.errstate(divide="ignore"):
        scores = np.log(table)
    found = Decisions((*open_ones, *closed, *told, *asked_too), scores)
    assert steered_score(found) == pytest.approx(np.mean([0.25, 1 - 0.6, 0.75, 0.5]))


def test_every_phase_is_told_of_to_its_end(tiny: Model) -> None:
    seen: dict[str, tuple[int, int]] = {}

    def report(phase: str, done: int, of: int, figures: dict[str, float]) -> None:
        assert done >= seen.get(phase, (0, of))[0]
        seen[phase] = (done, of)

    request = asked(tiny, report=report)
    method = METHODS.get("fairsteer")
    outcome = method.fit(request, method.configure(force_gate=True))
    assert list(seen) == ["vector", "read", "probe", "fit"]
    assert all(done == of for done, of in seen.values())
    assert seen["fit"][1] == seen["probe"][1] == len(outcome.history)
    sides = (request.anchors, request.held_out_anchors)
    own = set(request.task.split("train", "validation"))
    others = sum(len(set(side.items) - own) + len(side.texts) for side in sides)
    assert seen["read"][1] == len(own) + others


def test_several_layers_have_their_gate_first(tiny: Model) -> None:
    steering = fit(tiny, n_layers=2).steering
    assert list(steering.transforms) == ["model.layers.0", "model.layers.1"]
    assert steering.gate is not None
    assert steering.gate.site == "model.layers.0"
    with steering.applied(tiny) as attachment:
        assert attachment.gate_first


def candidates(*pairs: tuple[float, float]) -> list[Candidate]:
    """Blocks with a score and the AUROC of a probe."""
    site, v = "model.layers.{}", torch.ones(2)
    return [
        Candidate(k, site.format(k), v, None, SimpleNamespace(auroc=auroc), score)  # type: ignore[arg-type]
        for k, (score, auroc) in enumerate(pairs)
    ]


@pytest.mark.parametrize(
    ("n", "gates", "wanted"),
    [
        (1, range(4), [1]),  # of equal scores the better probe
        (1, [0, 3], [0]),  # only the gate must beat chance
        (2, range(3), [1, 2]),
        (2, [0, 1, 2], [1, 2]),
        (3, [0, 1], [0, 1, 2]),
        (3, [0], [0, 1, 2]),
    ],
)
def test_best_blocks(n: int, gates: Sequence[int], wanted: list[int]) -> None:
    blocks = candidates((0.5, 0.6), (0.5, 0.9), (0.5, 0.8), (0.4, 1.0))
    assert [c.layer for c in best_blocks(blocks, n, gates)] == wanted


def test_only_the_gate_must_beat_chance(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    able = {"model.layers.0"}

    def built(site: str, *args: Any, **known: Any) -> Any:
        gate, report = build_gate(site, *args, **known)
        return gate, replace(report, p_value=0.0 if site in able else 1.0)

    monkeypatch.setattr(FIT, "build_gate", built)
    outcome = fit(tiny, n_layers=2, layer_by="probe", force_gate=False)
    assert list(outcome.steering.transforms) == ["model.layers.0", "model.layers.1"]
    assert any("probes of 1 of 2 blocks do not beat chance" in note for note in outcome.notes)
    able.add("model.layers.1")
    able.remove("model.layers.0")
    with pytest.raises(EquipoiseError, match="set n_layers to 1 at most"):
        fit(tiny, n_layers=2, force_gate=False)
    assert list(fit(tiny, force_gate=False).steering.transforms) == ["model.layers.1"]


def test_settings_that_yaml_reads_otherwise() -> None:
    assert FairSteerConfig(**yaml.safe_load("gate: off")).gate == "off"
    given = yaml.safe_load("{layer: none, false_firing: none, max_items: none}")
    config = FairSteerConfig(**given)
    assert (config.layer, config.false_firing, config.max_items) == (None, None, None)


def test_report_names_every_kind(tiny: Model) -> None:
    outcome = fit(tiny)
    gate = outcome.steering.info.extra["gate"]
    kinds = {AMBIGUOUS, UNAMBIGUOUS, "questions: when", "questions: where"}
    assert set(gate["false_firing"]) == set(gate["left_out"]) == kinds
    assert {"auroc", "balanced_accuracy", "brier", "calibration_error"} <= set(gate)
    ambiguous = outcome.steering.info.extra["ambiguous_rate"]
    assert ambiguous["n"] == sum(i.ambiguous for i in lettered_task().split("validation"))
    assert 0 <= ambiguous["low"] <= ambiguous["estimate"] <= ambiguous["high"] <= 1


# ---- labels and letters


def test_labels_on_a_hand_made_table() -> None:
    sides = ("pro", "anti", "abstain")
    items, answers, wanted = zip(
        *[
            (Item(id=f"{i}", prompt="p", options=LETTERS[:3], sides=sides, answer=right), said, y)
            for i, (right, said, y) in enumerate(
                [
                    (None, 0, POSITIVE),
                    (None, 1, None),
                    (None, 2, AMBIGUOUS),
                    (0, 0, UNAMBIGUOUS),  # the stereotyped answer is right
                    (1, 0, POSITIVE),
                    (1, 1, UNAMBIGUOUS),
                    (0, 1, None),
                    (0, 2, None),
                ]
            )
        ],
        strict=True,
    )
    assert kinds_of(Decisions(items, np.eye(3)[list(answers)])) == list(wanted)


def test_without_an_abstention_the_other_answer_is_fair() -> None:
    item = Item(id="x", prompt="p", options=("he", "she"), sides=("pro", "anti"))
    assert kinds_of(Decisions((item, item), np.eye(2))) == [POSITIVE, AMBIGUOUS]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text("abc .:\n", min_size=1, max_size=8), min_size=3, max_size=5),
    st.text("xyz\n. ", max_size=20),
)
def test_rotations_put_every_choice_under_every_letter(texts: list[str], question: str) -> None:
    sides = ("pro", "anti", "abstain", None, None)[: len(texts)]
    prompt = lettered(question, texts)
    item = Item(id="x", prompt=prompt, options=LETTERS[: len(texts)], sides=sides)
    turned = rotations(item)
    assert turned[0] == item
    if any("\n" in text for text in texts):
        return
    assert len(turned) == len(texts)
    for side, text in zip(sides[:3], texts, strict=False):
        under = [other.sides.index(side) for other in turned if other.sides]
        assert sorted(under) == list(range(len(texts)))
        for other, place in zip(turned, under, strict=True):
            assert f"\n{LETTERS[place]}. {text}\n" in f"\n{other.prompt}"


def test_options_in_words_are_left_alone() -> None:
    item = Item(id="x", prompt="Who?\nAnswer:", options=("he", "she"), sides=("pro", "anti"))
    assert rotations(item) == (item,)


# ---- the artifact


@pytest.mark.parametrize("preset", ["clean", "as-released"])
def test_artifact_keeps_the_gate(tiny: Model, tmp_path: Path, preset: str) -> None:
    outcome = fit(tiny, preset=preset, alpha=2.0)
    outcome.steering.save_pretrained(tmp_path)
    again = Steering.from_pretrained(tmp_path)
    assert again.digest == outcome.steering.digest
    assert again.structure() == outcome.steering.structure()
    items = lettered_task().split("test")
    one, other = (
        decide(tiny, items, steering=s, strengths=[1.0]) for s in (outcome.steering, again)
    )
    np.testing.assert_array_equal(one[0].scores, other[0].scores)


# ---- what is refused


def reading_only_letters(model: Model) -> Model:
    """All words look alike to the model, but for the letters it answers with."""
    letters = {model.tokenizer.encode(f"x: {letter}")[-1] for letter in "ABC"}
    embedding = model.hf.get_input_embeddings().weight
    alike = [token for token in range(len(embedding)) if token not in letters]
    embedding[alike] = embedding[0].clone()
    return model


def test_probes_at_chance_are_refused_before_blocks_are_tried(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading_only_letters(tiny)
    monkeypatch.setattr(FIT._Fit, "_score", Mock(side_effect=AssertionError))
    with pytest.raises(EquipoiseError, match=r"does not beat chance.*at the best of 2 sites"):
        fit(tiny, permute=False, layer_by="accuracy", force_gate=False)


def test_a_probe_at_chance_is_refused_unless_forced(tiny: Model) -> None:
    chance = {"layer": 0, "permute": False}
    reading_only_letters(tiny)
    with pytest.raises(EquipoiseError, match=r"does not beat chance.*force_gate=true"):
        fit(tiny, **chance, force_gate=False)
    assert any("forced" in note for note in fit(tiny, **chance).notes)
    assert fit(tiny, **chance, gate="off", force_gate=False).steering.gate is None


def test_permuted_letters_leave_no_letter_in_the_vector(tiny: Model) -> None:
    reading_only_letters(tiny)
    norms = []
    for permute in (False, True):
        items = contrast_items(lettered_task().items, 10, seed=0, permute=permute)
        norms.append(float(contrast_vectors(tiny, items, ["model.layers.1"]).norm()))
    assert norms[0] > 0.1
    assert norms[1] < 1e-4


def test_one_class_only(tiny: Model) -> None:
    """A model that never follows the stereotype leaves a probe nothing to tell apart."""
    task = lettered_task()
    (found,) = decide(tiny, task.items)
    turned = {
        0: ("abstain", "pro", "anti"),
        1: ("anti", "abstain", "pro"),
        2: ("pro", "anti", "abstain"),
    }
    fair = [
        replace(item, sides=turned[k], answer=None if item.ambiguous else k)
        for item, k in zip(task.items, found.scores.argmax(1).tolist(), strict=True)
    ]
    with pytest.raises(EquipoiseError, match=r"no answer is stereotyped among .* one class"):
        fit(tiny, task.with_items(fair))
    assert fit(tiny, task.with_items(fair), gate="off").steering.gate is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sides": None}, "no item of its train split has sides"),
        ({"sides": ("anti", "anti", "abstain")}, "no ambiguous item"),
    ],
)
def test_items_that_cannot_tell(tiny: Model, change: dict[str, Any], said: str) -> None:
    task = lettered_task()
    items = [replace(item, **change) for item in task.items]
    with pytest.raises(EquipoiseError, match=said):
        fit(tiny, task.with_items(items))


def test_a_vector_without_length(tiny: Model) -> None:
    letters = [tiny.tokenizer.encode(f"x: {letter}")[-1] for letter in "ABC"]
    embedding = tiny.hf.get_input_embeddings().weight
    embedding[letters] = embedding[letters[0]].clone()
    with pytest.raises(EquipoiseError, match="norm 0: fair and stereotyped answers look alike"):
        fit(tiny, layer=0, gate="off")


def test_letters_that_tokenise_apart(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    original = type(tiny.tokenizer).__call__

    def apart(self: Any, texts: list[str], **kwargs: Any) -> Any:
        out = original(self, texts, **kwargs)
        for row, text in enumerate(texts):
            if text.endswith((": A", ": B", ": C")):
                ids = out["input_ids"][row]
                out["input_ids"][row] = [*ids[:-1], ids[1], ids[-1]]
        return out

    monkeypatch.setattr(type(tiny.tokenizer), "__call__", apart)
    with pytest.raises(EquipoiseError, match=r"reads the letter '[ABC]' after .* as 2 tokens"):
        fit(tiny, layer=0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"layer": 7}, "blocks 0 to 1"),
        ({"layer": 1, "n_layers": 2}, "layer names one block"),
        ({"n_layers": 3}, "the model has 2 blocks"),
        ({"alpha": -1}, "alpha"),
        ({"alpha": float("inf")}, "alpha"),
        ({"alpha": 1e39, "gate": "off", "layer": 0}, "lower alpha"),
        ({"alpha": 1e39, "gate": "off"}, "lower alpha"),
        ({"per_context": 1, "twins": 20}, "per_context=1 leaves no item"),
        ({"max_items": 5, "twins": 20}, "max_items=5 leaves no item"),
        ({"gate": True}, "'hard', 'soft' or 'off'"),
        ({"preset": "fast"}, "preset"),
        ({"scoop": "all"}, "did you mean 'scope'"),
    ],
)
def test_settings_are_checked(tiny: Model, given: dict[str, Any], said: str) -> None:
    task = lettered_task()
    if size := given.get("twins"):
        twin = {item.id: f"{item.split}-{k // size}" for k, item in enumerate(task.items)}
        task = task.with_items([replace(item, twin=twin[item.id]) for item in task.items])
        given = {name: value for name, value in given.items() if name != "twins"}
    with pytest.raises(EquipoiseError, match=said):
        METHODS.get("fairsteer").fit(asked(tiny, task), METHODS.get("fairsteer").configure(**given))


def test_answers_are_labelled_as_they_are_measured(tiny: Model) -> None:
    """By the mean over an option's tokens, where that is asked for."""
    words = {"A": "the nurse at the station", "B": "unknown", "C": "her"}
    task = lettered_task()
    items = [replace(i, options=tuple(words[o] for o in i.options)) for i in task.items]
    task = task.with_items(items)
    method = METHODS.get("fairsteer")
    config = method.configure(force_gate=True, layer=0)
    trained = {}
    for normalise in ("sum", "mean"):
        (found,) = decide(tiny, task.split("train"), normalise=normalise)
        labels = Counter(kind for kind in kinds_of(found) if kind)
        request = replace(asked(tiny, task), normalise=normalise)
        trained[normalise] = method.fit(request, config).steering.info.extra["gate"]["train"]
        assert labels.items() <= trained[normalise].items()
    assert trained["sum"] != trained["mean"]


def test_a_model_that_overflows(tiny: Model) -> None:
    tiny.hf.model.layers[1].mlp.down_proj.weight[0, 0] = torch.inf
    for options in ({}, {"gate": "off", "layer": 1}):
        with pytest.raises(EquipoiseError, match="not finite"):
            fit(tiny, **options)
