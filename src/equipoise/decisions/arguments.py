"""What a model's forward pass takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.decisions.trials import differ, passes, probe
from equipoise.models.model import input_device, unwrap


def behind(model: nn.Module) -> Any:
    """The model that a wrapper hands its arguments on to, an adapter of PEFT included."""
    inner: Any = unwrap(model)
    while hasattr(inner, "get_base_model"):
        inner = unwrap(inner.get_base_model())
    return inner


def arguments(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    """The parameters of a model's ``forward``."""
    return inspect.signature(behind(model).forward).parameters


def takes_positions(model: nn.Module) -> bool:
    """Whether a model goes by the positions it is given: it names them, or is found to."""
    accepted = arguments(model)
    if "position_ids" in accepted:
        return True
    others = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    return others and passes(model, _goes_by_positions)


def learns_prompt(model: nn.Module) -> bool:
    """Whether an adapter of PEFT puts tokens of its own before every prompt, or their keys."""
    adapter = getattr(unwrap(model), "active_peft_config", None)
    return getattr(adapter, "is_prompt_learning", False)


def _goes_by_positions(model: nn.Module) -> bool | None:
    """Try a row with its positions, with others, and its end alone."""
    ids = torch.tensor([probe(model, 16)], device=input_device(model))
    step = torch.arange(16, device=ids.device)[None]

    def last(ids: Tensor, positions: Tensor) -> Tensor:
        mask = torch.ones_like(ids)
        output: Any = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
        )
        return output.logits[0, -1]

    told = last(ids, step)
    if differ(told, last(ids, 2 * step)):
        return True
    return False if differ(told, last(ids[:, 8:], step[:, :8])) else None
