"""DSO under a gate: what it learns, what a shut gate leaves alone, and how often it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairsteer_runs import asked, openings_of
from lettered_task import lettered_task

from equipoise.decisions import ladder
from equipoise.decisions.decide import decide, score_texts
from equipoise.decisions.sample import sample_answers, sample_log_probs
from equipoise.errors import EquipoiseError
from equipoise.methods import METHODS, Anchors, FitOutcome, FitRequest
from equipoise.methods.dso.config import DSOConfig
from equipoise.methods.dso.passes import Draw
from equipoise.methods.dso.train import Trainer
from equipoise.models import Model
from equipoise.steering import Steering


def gated_dso(model: Model, request: FitRequest | None = None, **settings: Any) -> FitOutcome:
    method = METHODS.get("dso")
    small = {"steps": 4, "twins_per_step": 4, "anchors_per_step": 3, "force_gate": True}
    config = method.configure(**small | {"gate": "hard"} | settings)
    return method.fit(request or asked(model), config)


@pytest.mark.parametrize(
    ("gate", "reads"), [("hard", "mean"), ("soft", "mean"), ("hard", "attended")]
)
def test_dso_learns_under_its_gate(tiny: Model, tmp_path: Path, gate: str, reads: str) -> None:
    outcome = gated_dso(tiny, gate=gate, gate_reads=reads)
    steering = outcome.steering
    assert steering.gate is not None
    assert steering.gate.site in ("model.layers.0", "model.layers.1")
    assert steering.n_nonzero > 0
    assert any("left out" in note for note in outcome.notes)
    assert set(steering.info.extra["gate"]["train"]) >= {"positive", "unambiguous: nurse"}
    items = lettered_task().split("test")
    steering.save_pretrained(tmp_path)
    again = Steering.from_pretrained(tmp_path)
    one, other = (decide(tiny, items, steering=s, strengths=[1.0])[0] for s in (steering, again))
    np.testing.assert_array_equal(one.scores, other.scores)


def test_a_shut_gate_leaves_prompts_as_they_were(tiny: Model) -> None:
    """Where the gate is shut: the base's decision; where it is open: the ungated map's."""
    steering = gated_dso(tiny, learning_rate=0.05, kl_ambiguous=5.0, kl_anchor=5.0).steering
    items = list(lettered_task().split("validation", "test"))
    opens = np.array([openings_of(tiny, steering, [item])[0] for item in items])
    assert 0 < opens.mean() < 1
    (base,) = decide(tiny, items)
    (gated,) = decide(tiny, items, steering=steering, strengths=[1.0])
    free = Steering(steering.transforms)
    (ungated,) = decide(tiny, items, steering=free, strengths=[1.0])
    np.testing.assert_allclose(gated.scores[opens == 0], base.scores[opens == 0], atol=1e-5)
    np.testing.assert_allclose(gated.scores[opens == 1], ungated.scores[opens == 1], atol=1e-5)
    assert np.abs(ungated.scores - base.scores).max() > 1e-3


def test_gate_layer_and_refusals(tiny: Model) -> None:
    steering = gated_dso(tiny, gate_layer=1, steps=1).steering
    assert steering.gate is not None
    assert steering.gate.site == "model.layers.1"
    with pytest.raises(EquipoiseError, match="blocks 0 to 1"):
        gated_dso(tiny, gate_layer=2)


# ---- asked once


def asking(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows the gate is asked about, pass by pass."""
    from equipoise.steering.attach import row_gate as module

    rows: list[int] = []
    read = module.read_rows

    def counting(*args: Any) -> torch.Tensor:
        found = read(*args)
        rows.append(len(found))
        return found

    monkeypatch.setattr(module, "read_rows", counting)
    return rows


def test_a_gate_is_asked_once_about_each_prompt(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = lettered_task().split("test")
    rows = asking(monkeypatch)
    steering = gated_dso(tiny, checked=1, kl_control="dual").steering
    own = lettered_task().split("train")
    asked_of = sum(i.ambiguous for i in own) + len(asked(tiny).anchors.items)
    # The fit's own passes, then the check of the budgets on held-out prompts.
    assert sum(rows[: np.cumsum(rows).tolist().index(asked_of) + 1]) == asked_of
    rows.clear()
    decide(tiny, items, steering=steering, strengths=[0.0, 0.3, 0.7, 1.0])
    assert sum(rows) == len(items)


@pytest.mark.parametrize("gate", ["hard", "soft"])
def test_asking_once_changes_nothing(
    tiny: Model, monkeypatch: pytest.MonkeyPatch, gate: str
) -> None:
    texts = ("The nurse said that she left the office.", "He was at the station. " * 8)
    request = asked(tiny)
    request = asked(tiny, anchors=Anchors(request.anchors.items, texts))
    items, rungs = lettered_task().split("test"), [0.0, 0.5, 1.0]

    def everything() -> list[np.ndarray]:
        steering = gated_dso(tiny, request, gate=gate).steering
        values = [tensor.numpy() for tensor in steering.tensors().values()]
        return [
            *values,
            *(d.scores for d in decide(tiny, items, steering=steering, strengths=rungs)),
        ]

    once = everything()
    monkeypatch.setattr(ladder, "row_decisions", lambda *a, **k: None)
    for a, b in zip(once, everything(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_row_gate_reads_a_text_whole(tiny: Model) -> None:
    texts = ("The nurse said that she left the office.", "He was at the station. " * 3)
    steering = gated_dso(tiny, asked(tiny), gate="soft").steering
    found = score_texts(tiny, texts, steering=steering, strengths=[1.0]).log_probability[0]
    for text, value in zip(texts, found, strict=True):
        ids = torch.tensor([tiny.tokenizer.encode(text)])
        with torch.no_grad(), steering.applied(tiny) as attachment:
            steps = tiny.hf(ids).logits[0, :-1].log_softmax(-1)
            assert 0 < float(attachment.decisions) < 1
        assert value == pytest.approx(float(steps.gather(1, ids[0, 1:, None]).sum()), rel=1e-4)


@pytest.mark.parametrize("gate", ["hard", "soft"])
def test_a_step_under_a_gate_asked_beforehand(tiny: Model, gate: str) -> None:
    """What was asked before the fit is what the gate says within a step's pass."""
    trainer = Trainer(asked(tiny), DSOConfig(steps=2, gate=gate, force_gate=True))
    trainer.run()
    with trainer.state.steering.applied(tiny, strength=1.0) as trainer._attachment:
        trainer._ask_gate()
        rows = [row for row, kept in enumerate(trainer.ambiguous.nodes) if len(kept)]
        told, asks = (
            trainer._read([Draw(trainer.ambiguous, rows, torch.ones(len(rows)), opens)])
            for opens in (trainer._opens[rows], None)
        )
    torch.testing.assert_close(told.options, asks.options, atol=1e-5, rtol=0)
    torch.testing.assert_close(told.kl, asks.kl, atol=1e-5, rtol=0)
    assert told.kl.max() > 1e-6


# ---- free text


def test_sampled_text_is_scored_as_it_was_drawn(tiny: Model) -> None:
    """Under a gate: log π of prompt and answer in one pass = token by token from the prompt."""
    steering = gated_dso(tiny, learning_rate=0.05, kl_ambiguous=5.0, kl_anchor=5.0).steering
    items = list(lettered_task().split("validation"))
    opens = openings_of(tiny, steering, items)
    assert 0 < sum(opens) < len(opens)
    with steering.applied(tiny, strength=1.0) as attachment:
        samples = sample_answers(tiny, items, rollouts=2, max_new_tokens=4)
        told = sample_answers(
            tiny,
            items,
            rollouts=2,
            max_new_tokens=4,
            attachment=attachment,
            decisions=torch.tensor(opens),
        )
        assert torch.equal(samples.tokens, told.tokens)
        with torch.no_grad():
            found = [sample_log_probs(tiny, s, attachment) for s in (samples, told)]
            wanted = [
                _token_by_token(tiny, row[mask.bool()], int(scored.sum()))
                for row, mask, scored in zip(
                    samples.tokens, samples.mask, samples.scored, strict=True
                )
            ]
    for one in found:
        np.testing.assert_allclose(one.reshape(-1), wanted, atol=1e-4)


def _token_by_token(model: Model, tokens: torch.Tensor, answer: int) -> float:
    """Log-probability of a row's last tokens, fed one at a time to a cache after its prompt."""
    start = len(tokens) - answer
    output = model.hf(tokens[None, :start], use_cache=True)
    total = 0.0
    for token in tokens[start:]:
        total += float(output.logits[0, -1].float().log_softmax(-1)[token])
        output = model.hf(token[None, None], past_key_values=output.past_key_values, use_cache=True)
    return total


@pytest.mark.parametrize("estimator", ["reinforce", "ppo"])
def test_free_text_is_learnt_under_a_gate(tiny: Model, estimator: str) -> None:
    settings = {"estimator": estimator, "answers": "text", "max_new_tokens": 3, "rollouts": 2}
    steering = gated_dso(tiny, **settings).steering
    assert steering.gate is not None
    assert steering.n_nonzero > 0
