"""Models that are a Llama under another name, as ``LlamaForCausalLM``.

Llama's class can switch biases on at all of its linears but the head (``attention_bias``,
``mlp_bias``), so that a steering's bias finds a home there which, say, Qwen2's class lacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from equipoise.errors import SteeringError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Same computation as Llama's, biases and sliding windows apart.
_SAME = ("qwen2", "mistral")


def fits_llama(model: nn.Module) -> bool:
    """Whether the Llama class computes exactly what this model does."""
    config = getattr(model, "config", None)
    if getattr(config, "model_type", None) not in _SAME:
        return False
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return set(kinds) == {"full_attention"}
    return getattr(config, "sliding_window", None) is None


def as_llama_model(model: nn.Module) -> PreTrainedModel:
    """The same weights in a ``LlamaForCausalLM``; they are shared, not copied.

    Raises:
        SteeringError: The model is not a Llama under another name.
    """
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    if not fits_llama(model):
        raise SteeringError(
            f"{type(model).__name__} is no Llama under another name: --as-llama works for "
            f"{' and '.join(_SAME)} models whose attention has no sliding window"
        )
    base = cast("PreTrainedModel", model)
    config = LlamaConfig(**_settings(base))
    config._attn_implementation = base.config._attn_implementation
    with torch.device("meta"):
        llama = LlamaForCausalLM(config)
    given = {
        name: nn.Parameter(p.detach(), requires_grad=p.requires_grad)
        for name, p in model.named_parameters()
    }
    # Biases that only Llama has (attention_bias brings one for the output projection).
    for name, parameter in llama.named_parameters():
        if name not in given and name.endswith(".bias"):
            like = given[name.removesuffix("bias") + "weight"]
            zeros = torch.zeros(parameter.shape, dtype=like.dtype, device=like.device)
            given[name] = nn.Parameter(zeros, requires_grad=like.requires_grad)
    # A tied head has no entry of its own; anything else that does not match is a bug to hear of.
    result = llama.load_state_dict(given, strict=False, assign=True)
    llama.tie_weights()
    if result.unexpected_keys or any(p.is_meta for p in llama.parameters()):
        raise SteeringError(f"{type(model).__name__} has weights that Llama's class has not")
    # Buffers were made on meta; Llama's are computed from the configuration alone.
    llama.model.rotary_emb = type(llama.model.rotary_emb)(config).to(base.device)
    if base.generation_config is not None:
        llama.generation_config = GenerationConfig.from_dict(base.generation_config.to_dict())
    return llama.eval()


def _settings(model: PreTrainedModel) -> dict[str, Any]:
    given = model.config.to_dict()
    for name in ("model_type", "architectures", "layer_types", "sliding_window"):
        given.pop(name, None)
    given = {k: v for k, v in given.items() if "sliding" not in k and k != "max_window_layers"}
    first = next(module for name, module in model.named_modules() if name.endswith("q_proj"))
    given["attention_bias"] = getattr(first, "bias", None) is not None
    given["head_dim"] = first.out_features // model.config.num_attention_heads
    return given
