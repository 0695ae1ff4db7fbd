"""Tiny random models built from their configs, and random steerings for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
)

from equipoise.models.backbone import Site, norm_sites
from equipoise.steering import Affine, Steering

VOCABULARY, PAD = 61, 0
_SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": None,
}


def llama(**settings: object) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**{**_SIZE, **settings}))


def qwen2(**settings: object) -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**{**_SIZE, **settings}))


def gemma3(**settings: object) -> PreTrainedModel:
    sizes = {**_SIZE, "head_dim": 8, "sliding_window": 4, "initializer_range": 0.15}
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(**{**sizes, "layer_types": kinds, **settings}))


def gemma3_vlm(**settings: object) -> PreTrainedModel:
    """A vision-language model: its backbone gets a dict of 4-D masks, never the 2-D one."""
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    # The image tokens lie beyond the text vocabulary that prompts are drawn from.
    tokens = {"image_token_id": 63, "boi_token_index": 62, "eoi_token_index": 61}
    config = Gemma3Config(
        text_config=gemma3(vocab_size=64, **settings).config,
        vision_config=SiglipVisionConfig(**vision),
        mm_tokens_per_image=4,
        **tokens,
    )
    return Gemma3ForConditionalGeneration(config)


def gpt2(**settings: object) -> PreTrainedModel:
    sizes = {
        "vocab_size": VOCABULARY,
        "n_embd": 24,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 64,
        "initializer_range": 0.3,
        "pad_token_id": PAD,
        "bos_token_id": 1,
        "eos_token_id": None,
    }
    return GPT2LMHeadModel(GPT2Config(**{**sizes, **settings}))


def opt() -> PreTrainedModel:
    sizes = {k: v for k, v in _SIZE.items() if k not in ("intermediate_size", "initializer_range")}
    config = OPTConfig(**sizes, ffn_dim=32, word_embed_proj_dim=24, init_std=0.3)
    return OPTForCausalLM(config)


def mamba() -> PreTrainedModel:
    sizes = {k: _SIZE[k] for k in ("vocab_size", "hidden_size", "num_hidden_layers")}
    tokens = {k: _SIZE[k] for k in ("pad_token_id", "bos_token_id", "eos_token_id")}
    return MambaForCausalLM(MambaConfig(**sizes, **tokens, state_size=4, initializer_range=0.3))


FAMILIES: dict[str, Callable[..., PreTrainedModel]] = {
    "llama": llama,
    "qwen2": qwen2,
    "gemma3": gemma3,
    "gemma3-vlm": gemma3_vlm,
    "gpt2": gpt2,
}


def build(family: str, **settings: object) -> PreTrainedModel:
    """A seeded model in eval mode, frozen as ``equipoise.load`` leaves it."""
    torch.manual_seed(0)
    model = {**FAMILIES, "opt": opt, "mamba": mamba}[family](**settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_" in name:  # trained norms are not all ones and zeros
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def random_steering(model: PreTrainedModel, scale: float = 0.3, **settings: object) -> Steering:
    """Affine, slope and bias, at every norm."""
    generator = torch.Generator().manual_seed(1)

    def vector(site: Site) -> torch.Tensor:
        return scale * torch.randn(site.width, generator=generator)

    sites = norm_sites(model)
    return Steering({s.key: Affine(vector(s), vector(s)) for s in sites}, **settings)


def prompts() -> list[list[int]]:
    """Prompts of different lengths, longer and shorter than Gemma's sliding window of 4."""
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in (3, 9, 6)]


def padded(rows: list[list[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, padded on a side."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), PAD)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, where] = torch.tensor(row)
        mask[i, where] = 1
    return ids, mask
