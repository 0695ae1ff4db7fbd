"""A fit as a whole: what it may touch, how it resumes, what it refuses."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from equipoise.decisions import Decisions
from equipoise.decisions.decide import decide, score_texts
from equipoise.errors import EquipoiseError
from equipoise.fairness import per_occupation_bias
from equipoise.methods import METHODS, Anchors, FitOutcome, FitRequest
from equipoise.methods.dso.config import DSOConfig
from equipoise.methods.dso.passes import Draw
from equipoise.methods.dso.pools import Stratified
from equipoise.methods.dso.train import Trainer
from equipoise.models import Model
from equipoise.steering import Steering
from equipoise.study.anchors import anchors_of
from equipoise.tasks import Task
from equipoise.tasks.item import Item
from small_tasks import small_task

SMALL: dict[str, Any] = {"steps": 6, "twins_per_step": 4, "anchors_per_step": 3}
TEXTS = ("The nurse said that she left the office.", "He was at the station. " * 8)


def request(model: Model, task: Task, **given: Any) -> FitRequest:
    anchors = anchors_of(task, (), "train")
    held_out = anchors_of(task, (), "validation")
    return FitRequest(model, task, **({"anchors": anchors, "held_out_anchors": held_out} | given))


def fit(model: Model, settings: dict[str, Any] | None = None, **given: Any) -> FitOutcome:
    method = METHODS.get("dso")
    config = method.configure(**SMALL | (settings or {}))
    return method.fit(request(model, given.pop("task", small_task()), **given), config)


def tensors_equal(one: Steering, other: Steering) -> bool:
    mine, theirs = one.tensors(), other.tensors()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


# ---- what a fit touches


def test_base_and_global_generator_are_untouched(tiny: Model) -> None:
    before = copy.deepcopy(tiny.hf.state_dict())
    torch.manual_seed(7)
    state = torch.get_rng_state()
    fit(tiny, {"estimator": "reinforce", "answers": "text", "steps": 2, "max_new_tokens": 3})
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in tiny.hf.state_dict().items())
    for module in tiny.hf.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert not any(p.requires_grad or p.grad is not None for p in tiny.hf.parameters())


def test_base_is_read_once(tiny: Model) -> None:
    """No unsteered pass between the first step and the last."""
    passes: list[str] = []
    steered = _Watched(passes)
    tiny.hf.register_forward_pre_hook(steered.note)
    fit(
        tiny,
        {"estimator": "ppo"},
        anchors=Anchors(small_task().split("train")[-4:], TEXTS),
        report=lambda phase, step, of, figures: passes.append(f"{phase} {step}"),
    )
    first, last = passes.index("fit 1"), passes.index("fit 6")
    assert passes[first:last].count("steered") == 5 * 2 * 2  # steps × epochs × (items, texts)
    assert "base" not in passes[first:last]
    assert "base" in passes[:first]


class _Watched:
    def __init__(self, passes: list[str]) -> None:
        self.passes = passes

    def note(self, module: torch.nn.Module, _args: Any) -> None:
        backbone = module.get_submodule("model")
        self.passes.append("steered" if hasattr(backbone, "_equipoise_runtime") else "base")


def test_same_seed_same_steering(tiny: Model) -> None:
    one, again = fit(tiny, seed=3), fit(tiny, seed=3)
    assert one.history == again.history
    assert tensors_equal(one.steering, again.steering)
    assert not tensors_equal(one.steering, fit(tiny, seed=4).steering)


def test_every_step_draws_anew(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, ...]] = []
    draw = Stratified.draw

    def noting(self: Stratified, n: int, generator: torch.Generator) -> Any:
        found = draw(self, n, generator)
        drawn.append(tuple(found[0]))
        return found

    monkeypatch.setattr(Stratified, "draw", noting)
    fit(tiny, task=small_task((4, 4, 4, 4)))
    assert len(set(drawn)) == 6


# ---- what a step is made of


@pytest.mark.parametrize("settings", [{}, {"estimator": "reinforce"}, {"gate": "soft"}])
def test_a_step_in_chunks_is_the_step(tiny: Model, settings: dict[str, Any]) -> None:
    """Rows read chunk by chunk, in bounded memory, give the gradient of one pass over all."""
    gradients = []
    for batch_tokens in (4096, 60, 1):
        config = DSOConfig(
            **SMALL | settings, batch_tokens=batch_tokens, force_gate=True, gate_layer=0
        )
        anchors = Anchors(small_task().split("train")[-4:], TEXTS)
        trainer = Trainer(request(tiny, small_task(), anchors=anchors), config)
        for transform in trainer.state.steering.transforms.values():
            torch.nn.init.normal_(transform.a, std=0.1, generator=torch.Generator().manual_seed(0))
        with trainer.state.steering.applied(tiny, strength=1.0) as trainer._attachment:
            trainer._ask_gate()
            figures = trainer._step()
        parameters = trainer.state.steering.parameters()
        gradients.append((figures, [p.grad for p in parameters if p.grad is not None]))
    (whole, expected), *others = gradients
    assert sum(float(g.abs().sum()) for g in expected) > 0
    for figures, found in others:
        assert figures == pytest.approx(whole, rel=1e-4, abs=1e-6)
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


def test_twins_of_any_size_count_the_same(tiny: Model) -> None:
    """Items said twice within some of the twins change neither the loss nor the majority."""
    task = small_task((2, 2, 1, 1))
    twice = [
        replace(item, id=f"{item.id}-again")
        for item in task.split("train")
        if item.ambiguous and item.contexts == ("nurse",)
    ]
    more = task.with_items([*task.items, *twice])
    # Two steps: rounding, which Adam makes much of, has no time to grow.
    config = DSOConfig(**SMALL | {"twins_per_step": 4, "steps": 2})
    one, other = (Trainer(request(tiny, t), config) for t in (task, more))
    first, second = one.run().history, other.run().history
    for mine, theirs in zip(first, second, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=2e-5)


def test_the_loss_is_the_sum_of_its_terms(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reward, a nat of each pool at the price of its budget, abstention lost, gap of the twins."""
    config = DSOConfig(
        **SMALL | {"steps": 3, "learning_rate": 0.1, "kl_weight": 0.8},
        kl_ambiguous=0.6,
        kl_anchor=0.2,
        abstention_weight=30.0,
        twin_weight=1000.0,  # of a random model's twins, which differ by little
    )
    trainer = Trainer(request(tiny, small_task()), config)
    drawn: list[list[int]] = []
    draw = trainer.draws.draw

    def watched(n: int, generator: torch.Generator) -> Any:
        found = draw(n, generator)
        drawn.append(found[0])
        return found

    monkeypatch.setattr(trainer.draws, "draw", watched)
    (base,) = decide(tiny, trainer.items)
    abstains = base.probabilities()[:, 2]  # "unknown" comes last in the small task
    drifts = []
    for step, rows in zip(trainer.run().history, drawn, strict=True):
        drift = step["abstention"] - abstains[rows].mean()  # of twins of two: all count alike
        drifts.append(abs(drift))
        kl = 0.4 * step["kl_ambiguous"] + 0.4 * (0.6 / 0.2) * step["kl_anchor"]
        terms = -step["reward"] + kl + 30 * drift**2 + 1000 * step["twin_gap"]
        assert step["loss"] == pytest.approx(terms, rel=1e-4, abs=1e-6)
    assert min(step["kl_anchor"], step["kl_ambiguous"], 1000 * step["twin_gap"]) > 1e-2
    assert 30 * max(drifts) ** 2 > 1e-2


def test_divergence_of_anchors_is_that_of_each_alone(tiny: Model) -> None:
    """Items and texts count alike; of an item that of its decision too, times its weight."""
    items = small_task().split("train")[-4:]
    config = DSOConfig(
        **SMALL | {"steps": 2, "learning_rate": 0.1, "anchors_per_step": 4},
        decision_weight=3.0,
        text_positions=256,
    )
    trainer = Trainer(request(tiny, small_task(), anchors=Anchors(items, TEXTS)), config)
    steering = trainer.run().steering
    draws = trainer.anchors.draw(torch.Generator().manual_seed(1))
    with steering.applied(tiny, 1.0) as trainer._attachment, torch.no_grad():
        read = trainer._read(draws)
        found = trainer.anchors.divergence(draws, read.options, read.kl)
    how: dict[str, Any] = {"steering": steering, "strengths": [0.0, 1.0]}
    each = []
    for place in draws[0].index:
        base, now = decide(tiny, [items[place]], **how)
        p, q = now.probabilities()[0], base.probabilities()[0]
        each.append(now.kl[0] + 3 * (p * np.log(p / q)).sum())
    for place in draws[1].index:
        each.append(score_texts(tiny, [TEXTS[place]], **how).kl[1, 0])
    assert [len(draw.index) for draw in draws] == [2, 2]
    assert float(found) == pytest.approx(np.mean(each), rel=1e-3)


def test_anchors_under_a_gate_count_as_if_it_leaked(tiny: Model) -> None:
    """Held even where the gate is shut; a gate half open steers half, a quarter of the KL."""
    items = small_task().split("train")[-4:]
    config = DSOConfig(**SMALL | {"anchors_per_step": 8, "gate_false_firing": 0.2})
    trainer = Trainer(request(tiny, small_task(), anchors=Anchors(items, TEXTS)), config)
    opens = torch.tensor([0.0, 1.0, 0.5, 0.0]), torch.tensor([0.0, 1.0])
    trainer.anchors.opens = opens
    draws = trainer.anchors.draw(torch.Generator().manual_seed(0))
    for draw, open_by in zip(draws, opens, strict=True):
        wanted = (0.2 + 0.8 * open_by[draw.index] ** 2) / 6
        assert len(draw.index) == len(open_by)
        torch.testing.assert_close(draw.weight, wanted)
        assert draw.opens is not None
        assert bool((draw.opens == 1).all())  # read under the open gate


def test_an_item_alone_does_not_dilute_the_gap_of_twins(tiny: Model) -> None:
    task = small_task((2, 2))
    alone = [item for item in task.items if item.twin != "train-nurse-0" or "-he" in item.id]
    config = DSOConfig(**SMALL | {"steps": 1, "twins_per_step": 64})
    trainer = Trainer(request(tiny, task.with_items(alone)), config)
    (base,) = decide(tiny, trainer.items)
    logs = dict(zip((i.id for i in trainer.items), np.log(base.probabilities()), strict=True))
    gaps = {}
    for twin in ("train-nurse-1", "train-mechanic-0", "train-mechanic-1"):
        he, she = logs[f"{twin}-he"], logs[f"{twin}-she"]
        gaps[twin] = ((np.exp(he) + np.exp(she)) / 2 * (he - she) ** 2).sum()
    drawn = trainer.draws.draw(64, torch.Generator().manual_seed(0))[0]
    twins = [trainer.items[row].twin for row in drawn]
    wanted = np.mean([gaps[twin] for twin in twins if twin in gaps])
    assert len(set(twins)) == 4
    assert trainer.run().history[0]["twin_gap"] == pytest.approx(wanted, rel=1e-2)


def test_a_bias_moves_in_units_of_its_site(tiny: Model) -> None:
    """Adam's first step is its rate in every entry: of a slope as it is, of a bias × usual size."""
    for name, weight in tiny.hf.named_parameters():
        if name.endswith("input_layernorm.weight"):
            weight.fill_(5.0)
    settings = SMALL | {"steps": 1, "learning_rate": 0.01, "l1": 0.0, "foldable": False}
    trainer = Trainer(request(tiny, small_task()), DSOConfig(**settings))
    sizes = {key: float(scale.mean()) for key, scale in trainer.scale.items()}
    assert max(sizes.values()) > 3 * min(sizes.values())
    for key, transform in trainer.run().steering.transforms.items():
        a, b = (value.detach().abs().max().item() for value in transform.parameters())
        assert a == pytest.approx(0.01, rel=0.02)
        assert b == pytest.approx(0.01 * sizes[key], rel=0.02)


# ---- checkpoints


class Interrupted(Exception):
    pass


def stop_after(step: int) -> Any:
    def report(phase: str, done: int, of: int, figures: dict[str, float]) -> None:
        if (phase, done) == ("fit", step):
            raise Interrupted

    return report


SETTINGS = [
    {},
    {"estimator": "ppo", "kl_control": "dual", "l1": 0.0},
    {"estimator": "reinforce", "answers": "text", "max_new_tokens": 2, "rollouts": 2, "steps": 4},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["exact", "ppo", "text"])
def test_resumed_is_the_uninterrupted_fit(
    tiny: Model, tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings = settings | {"checkpoint_every": 2}
    anchors = Anchors(small_task().split("train")[-4:], TEXTS)
    whole = fit(tiny, settings, anchors=anchors)
    folder = tmp_path / "deep" / "checkpoint"
    with pytest.raises(Interrupted):
        fit(tiny, settings, anchors=anchors, checkpoint=folder, report=stop_after(3))
    steps: list[tuple[str, int]] = []
    resumed = fit(
        tiny,
        settings,
        anchors=anchors,
        checkpoint=folder,
        report=lambda phase, step, of, figures: steps.append((phase, step)),
    )
    assert next(step for phase, step in steps if phase == "fit") == 3
    assert steps[-1][0] == "hold"
    assert resumed.history == whole.history
    assert resumed.notes == whole.notes
    assert tensors_equal(resumed.steering, whole.steering)
    assert resumed.steering.digest == whole.steering.digest
    assert [path.name for path in folder.iterdir()] == ["fit.safetensors"]


def test_checkpoint_of_another_run_is_ignored(tiny: Model, tmp_path: Path) -> None:
    kept = {"checkpoint_every": 1, "steps": 2}
    with pytest.raises(Interrupted):
        fit(tiny, kept, checkpoint=tmp_path, report=stop_after(2))
    for change in (
        {"settings": kept | {"learning_rate": 0.01}},
        {"seed": 5},
        {"task": small_task((2, 2, 2, 1))},
        {"anchors": Anchors(texts=TEXTS)},
    ):
        steps: list[tuple[str, int]] = []
        given: dict[str, Any] = {"settings": kept} | change
        clean = fit(tiny, **given)
        copy_of = tmp_path / "copy"
        copy_of.mkdir(exist_ok=True)
        (copy_of / "fit.safetensors").write_bytes((tmp_path / "fit.safetensors").read_bytes())
        found = fit(
            tiny,
            **given,
            checkpoint=copy_of,
            report=lambda phase, step, of, figures, steps=steps: steps.append((phase, step)),
        )
        assert next(step for phase, step in steps if phase == "fit") == 1
        assert tensors_equal(found.steering, clean.steering)


def test_checkpoint_under_another_chat_template_is_ignored(tiny: Model, tmp_path: Path) -> None:
    def templated(user: str) -> Model:
        tokenizer = copy.deepcopy(tiny.tokenizer)
        tokenizer.chat_template = user + " {{ messages[0]['content'] }} Answer:"
        return replace(tiny, tokenizer=tokenizer, chat=True)

    settings = {"checkpoint_every": 1, "steps": 3}
    with pytest.raises(Interrupted):
        fit(templated("User"), settings, checkpoint=tmp_path, report=stop_after(2))
    for user, first in (("Human", 1), ("User", 3)):
        folder = tmp_path / user
        folder.mkdir()
        (folder / "fit.safetensors").write_bytes((tmp_path / "fit.safetensors").read_bytes())
        steps: list[int] = []
        fit(
            templated(user),
            settings,
            checkpoint=folder,
            report=lambda phase, step, of, _, steps=steps: steps.append(step * (phase == "fit")),
        )
        assert next(filter(None, steps)) == first


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_damaged_checkpoint_is_named(tiny: Model, tmp_path: Path, damage: str) -> None:
    with pytest.raises(Interrupted):
        fit(tiny, {"checkpoint_every": 1}, checkpoint=tmp_path, report=stop_after(2))
    path = tmp_path / "fit.safetensors"
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-50], "empty": b"", "text": b"not a checkpoint at all"}[damage])
    with pytest.raises(EquipoiseError, match=r"fit\.safetensors: not a complete checkpoint"):
        fit(tiny, {"checkpoint_every": 1}, checkpoint=tmp_path)


def test_folder_that_cannot_be_made_is_named(tiny: Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EquipoiseError, match="file"):
        fit(tiny, {"checkpoint_every": 1}, checkpoint=tmp_path / "file" / "deeper")


# ---- parameters, budgets, stopping


@pytest.mark.parametrize("parameters", ["both", "slope", "bias"])
def test_parameters(tiny: Model, parameters: str) -> None:
    outcome = fit(tiny, {"parameters": parameters, "steps": 2})
    names = {name.rpartition(":")[2] for name, _ in outcome.steering.named_parameters()}
    assert names == {"both": {"a", "b"}, "slope": {"a"}, "bias": {"b"}}[parameters]
    assert outcome.steering.n_nonzero > 0


def test_foldable_leaves_out_what_has_no_home(tiny: Model) -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(tiny.tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    hf = MistralForCausalLM(config).eval().requires_grad_(False)
    mistral = Model(hf, tiny.tokenizer, name="mistral")
    steps = {"steps": 1}
    names = [name for name, _ in fit(mistral, steps).steering.named_parameters()]
    assert len(names) == 3
    assert all(name.endswith(":a") for name in names)
    free = fit(mistral, steps | {"foldable": False}).steering
    assert sum(name.endswith(":b") for name, _ in free.named_parameters()) == 3
    with pytest.raises(EquipoiseError, match="foldable"):
        fit(mistral, steps | {"parameters": "bias"})


def test_sparsity(tiny: Model) -> None:
    dense = fit(tiny, {"l1": 0.0}).steering
    sparse = fit(tiny, {"l1": 0.5}).steering
    assert dense.n_nonzero == dense.n_parameters
    assert 0 < sparse.n_nonzero < dense.n_nonzero
    pruned = fit(tiny, {"l1": 0.0, "keep_share": 0.25}).steering
    assert pruned.n_nonzero == round(0.25 * pruned.n_parameters)


def test_projection_holds_the_budgets_on_held_out_prompts(tiny: Model) -> None:
    task = small_task()
    budgets = {"kl_ambiguous": 0.05, "kl_anchor": 0.01}
    outcome = fit(tiny, budgets | {"learning_rate": 0.05}, task=task)
    held_out = task.split("validation")
    (found,) = decide(tiny, held_out, steering=outcome.steering, strengths=[1.0])
    ambiguous = [kl for item, kl in zip(held_out, found.kl, strict=True) if item.ambiguous]
    assert sum(ambiguous) / len(ambiguous) <= 0.05 + 1e-6
    assert outcome.steering.n_nonzero > 0
    (note,) = outcome.notes
    assert "held-out" in note
    assert "budget 0.05" in note


def test_budgets_are_checked_on_the_held_out_anchors(tiny: Model) -> None:
    """The KL a fit reports, and shrinks its map by, is of prompts it did not train on."""
    held_out = Anchors(tuple(i for i in small_task().split("test") if not i.ambiguous), TEXTS[:1])
    outcome = fit(tiny, {"kl_anchor": 10.0, "kl_ambiguous": 10.0}, held_out_anchors=held_out)
    how: dict[str, Any] = {"steering": outcome.steering, "strengths": [1.0]}
    (found,) = decide(tiny, held_out.items, **how)
    kl = np.concatenate([found.kl, score_texts(tiny, held_out.texts, **how).kl[0]]).mean()
    assert f"{kl:.4f} nat anchors (budget 10.0)" in outcome.notes[0]


def test_no_validation_items_is_said(tiny: Model) -> None:
    task = small_task(splits=("train",))
    (note,) = fit(tiny, {"steps": 2}, task=task).notes
    assert "held-out" not in note
    assert "none held out" in note


@pytest.mark.parametrize(("budget", "rises"), [(1e-6, True), (1e3, False)])
def test_dual_ascent(tiny: Model, budget: float, rises: bool) -> None:
    settings = {"kl_control": "dual", "kl_ambiguous": budget, "kl_anchor": budget}
    config = DSOConfig(**SMALL | settings | {"dual_rate": 0.1})
    trainer = Trainer(request(tiny, small_task()), config)
    trainer.state.multipliers = torch.tensor([1.0, 1.0])
    multipliers = trainer.run().multipliers
    assert (multipliers > 1).all() if rises else ((multipliers >= 0) & (multipliers < 0.5)).all()


def test_dual_ascent_says_whether_it_held(tiny: Model) -> None:
    (loose,) = fit(tiny, {"kl_control": "dual", "kl_ambiguous": 1e3, "kl_anchor": 1e3}).notes
    (tight,) = fit(tiny, {"kl_control": "dual", "kl_ambiguous": 1e-9, "kl_anchor": 1e-9}).notes
    assert "NOT" not in loose
    assert "NOT held" in tight


def test_distributions_are_kept_of_what_will_be_drawn(tiny: Model) -> None:
    """A vocabulary at each position of every item of a large task would fill any memory."""
    config = DSOConfig(**SMALL | {"steps": 2, "twins_per_step": 1})
    trainer = Trainer(request(tiny, small_task((4, 4))), config)
    drawn: set[int] = set()
    draw = trainer.draws.draw

    def watched(n: int, generator: torch.Generator) -> Any:
        found = draw(n, generator)
        drawn.update(found[0])
        return found

    trainer.draws.draw = watched  # type: ignore[method-assign]
    assert trainer.run().step == 2
    kept = {i for i, nodes in enumerate(trainer.ambiguous.nodes) if nodes.numel()}
    assert kept == drawn
    assert len(kept) < len(trainer.items)


def test_early_stop(tiny: Model) -> None:
    assert len(fit(tiny, {"stop_bias": 2.0, "patience": 2}).history) == 2
    assert len(fit(tiny, {"stop_bias": 0.0, "patience": 2}).history) == 6


def test_early_stop_wants_calm_steps_in_a_row(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(
        request(tiny, small_task()), DSOConfig(**SMALL | {"stop_bias": 0.1, "patience": 2})
    )
    biases = iter([0.05, 0.2, 0.05, 0.05, 0.05, 0.05])
    monkeypatch.setattr(trainer.state.majority, "bias", lambda: next(biases))
    assert trainer.run().step == 4


def test_uneven_contexts_and_options(tiny: Model) -> None:
    """One occupation with a twin, one with six; items of two and of three options."""
    few, more = small_task((1, 6, 2), abstain=False), small_task((0, 0, 0, 3))
    task = few.with_items([*few.items, *more.items])
    outcome = fit(tiny, {"steps": 3, "twins_per_step": 2, "anchors_per_step": 1}, task=task)
    assert len(outcome.history) == 3


@pytest.mark.parametrize("texts", [(), TEXTS], ids=["items", "items and texts"])
def test_anchors_of_either_kind(tiny: Model, texts: tuple[str, ...]) -> None:
    items = small_task().split("train")[-4:]
    both = fit(tiny, {"steps": 2, "anchors_per_step": 1}, anchors=Anchors(items, texts))
    assert both.history[-1]["kl_anchor"] > 0
    only = fit(tiny, {"steps": 2}, anchors=Anchors(texts=TEXTS), held_out_anchors=Anchors())
    assert only.history[-1]["kl_anchor"] > 0
    assert only.history[0]["kl_anchor"] == pytest.approx(0, abs=1e-6)


# ---- what is refused


def test_no_anchors(tiny: Model) -> None:
    with pytest.raises(
        EquipoiseError, match=r"no anchors.* nor is there a capability with a train"
    ):
        fit(tiny, task=small_task(anchors=0))


def test_nothing_ambiguous_to_fit_on(tiny: Model) -> None:
    with pytest.raises(EquipoiseError, match="no ambiguous items in its train split"):
        fit(tiny, task=small_task(splits=("validation", "test")))


def test_loss_that_is_not_finite_names_the_step(tiny: Model) -> None:
    with pytest.raises(EquipoiseError, match=r"not finite at step 2; lower learning_rate"):
        fit(tiny, {"learning_rate": 1e25, "l1": 0.0})
    broken = copy.deepcopy(tiny.hf)
    broken.lm_head.weight.fill_(float("nan"))
    with pytest.raises(EquipoiseError, match="not finite at step 1"):
        fit(Model(broken, tiny.tokenizer, name="broken"))
    for module in tiny.hf.modules():
        assert not module._forward_hooks


def test_a_fit_that_no_gradient_reaches_is_none(tiny: Model) -> None:
    """As under linears that are quantised at run time, which have no backward pass."""
    cut = copy.deepcopy(tiny.hf)
    cut.lm_head.register_forward_pre_hook(lambda module, args: (args[0].detach(),))
    with pytest.raises(EquipoiseError, match="no gradient reaches the steering"):
        fit(Model(cut, tiny.tokenizer, name="cut"))


def test_map_that_is_not_finite_is_no_fit_and_no_checkpoint(tiny: Model, tmp_path: Path) -> None:
    """The last step's loss was still fine."""
    settings = {"learning_rate": 3e38, "l1": 0.0, "steps": 1, "checkpoint_every": 1}
    with pytest.raises(EquipoiseError, match=r"the map is not finite at step 1; lower"):
        fit(tiny, settings, checkpoint=tmp_path)
    assert not list(tmp_path.iterdir())


def test_steering_that_the_budgets_empty_is_warned_about(tiny: Model) -> None:
    with pytest.warns(UserWarning, match=r"the steering is empty .* \(raise kl_anchor"):
        found = fit(tiny, {"kl_anchor": 1e-12, "kl_ambiguous": 1e-12})
    assert found.steering.n_nonzero == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"stepz": 3}, "dso has no setting .stepz. \\(did you mean .steps.\\?\\)"),
        ({"steps": 0}, "dso: steps: input should be greater"),
        ({"estimator": "magic"}, "dso: estimator: "),
        ({"answers": "text"}, "^dso: answers='text' are sampled"),
        ({"learning_rate": float("inf")}, "dso: learning_rate: input should be a finite number"),
        ({"kl_weight": float("nan")}, "dso: kl_weight: "),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(EquipoiseError, match=said):
        METHODS.get("dso").configure(**settings)


def test_unknown_method() -> None:
    with pytest.raises(EquipoiseError, match="did you mean 'dso'"):
        METHODS.get("dsoo")


# ---- it learns


@pytest.fixture
def biased(tiny: Model) -> Model:
    """After "she" it says nurse, after "he" mechanic, because two coordinates say so."""
    hf, encode = tiny.hf, tiny.tokenizer.encode
    she, he, nurse, mechanic = (
        encode(f" {word}", add_special_tokens=False)[-1]
        for word in ("she", "he", "nurse", "mechanic")
    )
    for name, weight in hf.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight[:2] = 0.0  # nothing else writes to them
    embedding, head = hf.model.embed_tokens.weight, hf.lm_head.weight
    embedding[:, :2] = 0.0
    embedding[she, :2] = torch.tensor([8.0, 8.0])
    embedding[he, :2] = torch.tensor([-8.0, 8.0])
    head.mul_(0.1)
    head[nurse] = head[mechanic] = 0.0
    head[nurse, :2] = torch.tensor([1.5, 8.0])
    head[mechanic, :2] = torch.tensor([-1.5, 8.0])
    return tiny


def last_word_task() -> Task:
    items = [
        Item(
            id=f"{split}{number}{pronoun}",
            twin=f"{split}{number}",
            prompt=f"The nurse met the mechanic at the {place}. Who left? It was {pronoun}",
            options=("nurse", "mechanic"),
            sides=("pro", "anti") if pronoun == "she" else ("anti", "pro"),
            contexts=("nurse", "mechanic"),
            split=split,
        )
        for split in ("train", "validation")
        for number, place in enumerate(["station", "office", "park", "school"])
        for pronoun in ("he", "she")
    ]
    return Task("last word", (*items, *(i for i in small_task().items if not i.ambiguous)))


@pytest.mark.parametrize(
    ("estimator", "answers", "reward"),
    [
        ("exact", "options", "ternary"),
        ("exact", "options", "paper"),
        ("reinforce", "options", "ternary"),
        ("ppo", "options", "ternary"),
        ("reinforce", "text", "ternary"),
        ("ppo", "text", "paper"),
    ],
)
def test_bias_falls(biased: Model, estimator: str, answers: str, reward: str) -> None:
    settings = {
        "estimator": estimator,
        "answers": answers,
        "reward": reward,
        "steps": 10,
        "twins_per_step": 4,
        "learning_rate": 0.05,
        "rollouts": 8,
        "max_new_tokens": 2,
        "twin_weight": 0.0,  # the policy gradient alone must do it
        "kl_ambiguous": 2.0,
    }
    task = last_word_task()
    outcome = fit(biased, settings, task=task)
    items = [item for item in task.split("validation") if item.ambiguous]
    base, now = decide(biased, items, steering=outcome.steering, strengths=[0.0, 1.0])
    before, after = plug_in(base), plug_in(now)
    assert before > 0.5
    assert after < 0.85 * before


def plug_in(decisions: Decisions) -> float:
    found = per_occupation_bias(decisions)
    assert found is not None
    return found.plug_in


# ---- how options are scored


def test_a_fit_scores_options_as_they_will_be_measured(tiny: Model) -> None:
    """Options of several tokens: the policy is the softmax of their means where these count."""
    task = small_task()
    longer = [
        replace(item, options=(f"{item.options[0]} of the old town", *item.options[1:]))
        for item in task.items
    ]
    task = replace(task, items=tuple(longer))
    config = DSOConfig(**SMALL)
    trainer = Trainer(request(tiny, task, normalise="mean"), config)
    (means,) = decide(tiny, trainer.items, normalise="mean")
    (sums,) = decide(tiny, trainer.items)
    assert not np.allclose(means.scores, sums.scores, atol=0.1)
    assert np.allclose(trainer.ambiguous.options.numpy(), means.scores, atol=1e-4)
    steering = trainer.run().steering
    (steered,) = decide(tiny, trainer.items, steering=steering, strengths=[1.0], normalise="mean")
    with steering.applied(tiny, strength=1.0) as trainer._attachment:
        rows = len(trainer.items)
        read = trainer._read([Draw(trainer.ambiguous, list(range(rows)), torch.ones(rows), None)])
        assert np.allclose(read.options.detach().numpy(), steered.scores, atol=1e-4)
