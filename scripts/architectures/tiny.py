"""Build a tiny model of any architecture, with random weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel

from architectures.overrides import OVERRIDES, STARTS
from architectures.shrink import shrink

MAX_PARAMETERS = 8_000_000


def build(model_type: str, class_name: str) -> PreTrainedModel:
    """A seeded tiny model in eval mode, its parameters frozen.

    Raises:
        ValueError: Shrinking left it with millions of parameters.
    """
    model_class = getattr(transformers, class_name)
    config = tiny_config(model_type, model_class)
    with torch.device("meta"):
        size = {n: p.numel() for n, p in model_class(copy.deepcopy(config)).named_parameters()}
    if sum(size.values()) > MAX_PARAMETERS:
        largest = max(size, key=lambda name: size[name])
        raise ValueError(f"not shrunk: {sum(size.values())} parameters, most in {largest}")
    torch.manual_seed(0)
    model = model_class(config).eval().requires_grad_(False)
    _enliven(model)
    return model


def tiny_config(model_type: str, model_class: Any) -> PretrainedConfig:
    """The tiny configuration a class is built from."""
    config_class = CONFIG_MAPPING[model_type]
    given = shrink(_default(model_type))
    for path, value in OVERRIDES.get(model_type, {}).items():
        *parents, leaf = path.split(".")
        node = given
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    config = config_class(**given)
    # A composite configuration registered for its language model alone.
    wanted = model_class.config_class
    if wanted is not None and not isinstance(config, wanted):
        text = config.get_text_config(decoder=True)
        config = text if isinstance(text, wanted) else config
    return config


def _default(model_type: str) -> PretrainedConfig:
    return CONFIG_MAPPING[model_type](**copy.deepcopy(STARTS.get(model_type, {})))


def _enliven(model: PreTrainedModel) -> None:
    """Make every part matter: fresh weights are so small or plain that mistakes would not show.

    Matrices get a standard deviation of 0.2 where they are narrower; norms are moved off their
    ones and zeros.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.is_floating_point():
                continue
            if parameter.ndim >= 2 and float(parameter.std()) < 0.15:
                parameter.normal_(0, 0.2)
            elif parameter.ndim == 1 and "norm" in name.lower():
                parameter.add_(0.1 * torch.randn_like(parameter))
