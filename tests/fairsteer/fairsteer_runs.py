"""Tiny models that read letters, and fits of FairSteer and of gates on them."""

from __future__ import annotations

from typing import Any

import torch
from lettered_task import lettered_task, skills
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from equipoise.methods import METHODS, Anchors, FitOutcome, FitRequest
from equipoise.models import Model
from equipoise.steering import Steering
from equipoise.tasks import Task
from equipoise.tasks.item import Item, Split


def gpt2(tokenizer: PreTrainedTokenizerBase) -> Model:
    """A random three-layer GPT-2."""
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=24,
        n_layer=3,
        n_head=4,
        n_positions=256,
        initializer_range=0.3,
    )
    return Model(GPT2LMHeadModel(config).eval().requires_grad_(False), tokenizer, name="gpt2")


def anchors(task: Task, split: Split) -> Anchors:
    return Anchors((*(i for i in task.split(split) if not i.ambiguous), *skills(split)))


def asked(model: Model, task: Task | None = None, **given: Any) -> FitRequest:
    task = task or lettered_task()
    known = {"anchors": anchors(task, "train"), "held_out_anchors": anchors(task, "validation")}
    return FitRequest(model, task, **(known | given))


def fit(model: Model, task: Task | None = None, **settings: Any) -> FitOutcome:
    """Random models are near chance: the gate is forced unless told."""
    method = METHODS.get("fairsteer")
    config = method.configure(**{"force_gate": True} | settings)
    return method.fit(asked(model, task), config)


def openings_of(model: Model, steering: Steering, items: list[Item]) -> list[float]:
    """Row decisions of one left-padded batch."""
    tokenizer = model.tokenizer
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    inputs = tokenizer([i.prompt for i in items], return_tensors="pt", padding=True)
    mask = inputs["attention_mask"]
    with steering.applied(model) as attachment, torch.no_grad():
        model.hf(
            input_ids=inputs["input_ids"],
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        )
        assert attachment.decisions is not None
        return attachment.decisions.tolist()
