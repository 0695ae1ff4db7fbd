"""How often a gate opens on what a sweep measures, against asking it one prompt at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equipoise.decisions.encode import encode_text
from equipoise.decisions.openings import openings
from equipoise.fairness.interval import proportion_interval
from equipoise.models import Model
from equipoise.steering import Additive, ProbeGate, Steering
from equipoise.study import sweep
from equipoise.tasks import Capability
from equipoise.tasks.documents import Document
from small_tasks import anchor, small_task

TEXTS = ("The nurse said that she left.", "A carpenter met the mechanic at the park, and he left.")
READING = Capability(
    name="perplexity:x",
    kind="perplexity",
    documents=tuple(Document(text, "test") for text in TEXTS),
)
SKILL = Capability(name="skill", kind="accuracy", items=(anchor(3, "test"),))


def gated(model: Model, *, soft: bool = False) -> Steering:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(32, generator=generator)
    gate = ProbeGate("model.layers.0", weight, soft=soft)
    return Steering({"model.layers.1": Additive(torch.ones(32))}, gate=gate)


def opened(model: Model, steering: Steering, prompt: str) -> float:
    ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])
    with steering.applied(model) as attachment, torch.no_grad():
        model.hf(ids)
        assert attachment.decisions is not None
        return float(attachment.decisions[0])


@pytest.mark.parametrize("soft", [False, True])
def test_rates_are_those_of_single_prompts(tiny: Model, soft: bool) -> None:
    task, steering = small_task(), gated(tiny, soft=soft)
    steering.info.extra |= {"gate": {"threshold": 0.5}, "notes": ["of its fit"]}
    found = sweep(tiny, task, steering, [0, 1], capability=[SKILL, READING]).data
    assert found["steering"]["gate"] == {"threshold": 0.5}
    assert found["notes"] == ["of its fit"]
    pools = {
        "ambiguous": [i.prompt for i in task.split("test") if i.ambiguous],
        "unambiguous": [i.prompt for i in task.split("test") if not i.ambiguous],
    }
    capability = {"skill": [SKILL.items[0].prompt], "perplexity:x": list(TEXTS)}
    for name, prompts in (pools | capability).items():
        rate = found["gate"][name] if name in pools else found["gate"]["capability"][name]
        wanted = [opened(tiny, steering, prompt) for prompt in prompts]
        assert rate["n"] == len(prompts)
        assert rate["estimate"] == pytest.approx(sum(wanted) / len(wanted), abs=1e-5)
        assert 0 <= rate["low"] <= rate["estimate"] <= rate["high"] <= 1
    openings = [opened(tiny, steering, prompt) for prompt in pools["ambiguous"]]
    assert 0 < sum(openings) < len(openings)  # or nothing is compared


def test_ungated_steerings_have_no_rates(tiny: Model) -> None:
    steering = Steering({"model.layers.1": Additive(torch.ones(32))})
    found = sweep(tiny, small_task(), steering, [0, 1]).data
    assert found["gate"] is None
    assert found["notes"] == []


def test_windows_of_a_document_are_no_independent_prompts(tiny: Model) -> None:
    """Four documents are four units, into however many windows they are cut."""
    parts = ("The nurse said that she left. ", "He was at the park. ", "A doctor met him. ", "No. ")
    texts = [part * (1200 // len(part)) for part in parts]
    capability = Capability(
        name="perplexity:x",
        kind="perplexity",
        documents=tuple(Document(text, "test") for text in texts),
    )
    steering = gated(tiny)
    rate = sweep(tiny, small_task(), steering, [0, 1], capability=[capability]).data["gate"]
    rows = [(k, row) for k, text in enumerate(texts) for row in encode_text(tiny, text)]
    opens = openings(tiny, [row for _, row in rows], steering, 4096) > 0
    assert len(rows) > 1.5 * len(texts)
    assert 0 < opens.mean() < 1
    wanted = proportion_interval(opens, np.array([k for k, _ in rows]))
    found = rate["capability"]["perplexity:x"]
    assert found == pytest.approx({**wanted.as_dict(), "n": len(rows)})
    apart = proportion_interval(opens, np.arange(len(rows)))
    assert found["low"] != pytest.approx(apart.low, abs=1e-2)
