"""Where the bias of a norm site can live in an ordinary checkpoint.

A norm with a bias of its own takes it. Otherwise the linears that read the norm can take it
(bias += ω W b), if *all* of its readers are linears whose class has a bias, or gets one by a
configuration flag that ``from_pretrained`` honours. Where neither holds, b has no home: a stock
class would drop it on loading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from equipoise.models.backbone import Site, text_config
from equipoise.models.model import Model, unwrap

_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_GATE_UP = ("mlp.gate_proj", "mlp.up_proj")


@dataclass(frozen=True)
class Home:
    """Where a site's bias goes.

    Attributes:
        linears: Paths of the linears that take it; empty: the norm's own bias.
        flags: Settings of the text configuration that must hold for those biases to exist.
    """

    linears: tuple[str, ...] = ()
    flags: Mapping[str, bool] = field(default_factory=dict)


_ATTENTION = {"input_layernorm": Home(_QKV, {"attention_bias": True})}
_ATTENTION_OWN = {"input_layernorm": Home(_QKV)}
_LATENT_ATTENTION = {
    "input_layernorm": Home(
        ("self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa"), {"attention_bias": True}
    )
}
_MLP = {"post_attention_layernorm": Home(_GATE_UP, {"mlp_bias": True})}
_ERNIE = {
    "input_layernorm": Home(_QKV, {"use_bias": True}),
    "post_attention_layernorm": Home(_GATE_UP, {"use_bias": True}),
}
_MAMBA = {"norm": Home(("mixer.in_proj",), {"use_bias": True})}
_FEED_FORWARD = {
    "pre_ff_layernorm": Home(("feed_forward.gate_proj", "feed_forward.up_proj"), {"mlp_bias": True})
}

# By model type of the text configuration, then by the norm's name within its block: the readers,
# relative to the block. A norm that is not listed, or a block that lacks a listed reader (another
# kind of layer, a mixture of experts), has no home there. ``scripts/walk_architectures.py`` folds
# biases into every one of these and compares logits.
READERS: dict[str, Mapping[str, Home]] = {
    "apertus": {"attention_layernorm": _ATTENTION["input_layernorm"]},
    "arcee": {
        **_ATTENTION,
        "post_attention_layernorm": Home(("mlp.up_proj",), {"mlp_bias": True}),
    },
    "cwm": _MLP,
    "minicpm3": {**_LATENT_ATTENTION, **_MLP},
    "modernbert-decoder": {
        "attn_norm": Home(("attn.q_proj", "attn.k_proj", "attn.v_proj"), {"attention_bias": True}),
        "mlp_norm": Home(("mlp.Wi",), {"mlp_bias": True}),
    },
    "recurrent_gemma": {
        "temporal_pre_norm": Home(("temporal_block.linear_x", "temporal_block.linear_y")),
        "channel_pre_norm": Home(("mlp_block.gate_proj", "mlp_block.up_proj")),
    },
}
for _readers, _model_types in (
    (
        {**_ATTENTION, **_MLP},
        "chameleon doge evolla granite granite4_vision_text granite_docling_text granite_swa "
        "helium hyperclovax internlm3 iquestcoder llama seed_oss smollm3",
    ),
    (
        _ATTENTION,
        "aria_text deepseek_ocr2_text diffllama dots1 flint gemma gemma2 gemma3_text gemma4_text "
        "gemma4_unified_text glm glm4 glm4_moe glm4v_moe_text glm4v_text gpt_oss granitemoe "
        "granitemoe_swa granitemoeshared hunyuan_v1_dense hunyuan_v1_moe hunyuan_vl_text "
        "llama4_text mellum mimo_v2_flash olmoe qwen3 qwen3_5_moe_text qwen3_5_text qwen3_moe "
        "qwen3_next qwen3_omni_moe_text qwen3_vl_moe_text qwen3_vl_text solar_open "
        "unlimited_ocr_text vaultgemma",
    ),
    (_ATTENTION_OWN, "qwen2 qwen2_5_omni_text qwen2_5_vl_text qwen2_moe qwen2_vl_text"),
    (_LATENT_ATTENTION, "axk1 deepseek_v2 deepseek_v3 glm4_moe_lite mistral4 youtu"),
    (_ERNIE, "ernie4_5 paddleocr_vl_text"),
    (_MAMBA, "falcon_mamba mamba mamba2"),
    (_FEED_FORWARD, "bamba falcon_h1"),
):
    READERS.update((name, _readers) for name in _model_types.split())


def bias_home(model: Model | nn.Module, site: Site) -> Home | None:
    """Where the bias of a norm site can live, or None where it has no home.

    Args:
        model: The model the site is in.
        site: A norm site.

    Returns:
        A home whose paths start at the model's root.
    """
    root = unwrap(model)
    module = root.get_submodule(site.path)
    if isinstance(getattr(module, "bias", None), nn.Parameter):
        return Home()
    block, _, name = site.path.rpartition(".")
    home = READERS.get(text_config(model).model_type, {}).get(name)
    if home is None or site.layer is None:
        return None
    linears = tuple(f"{block}.{linear}" for linear in home.linears)
    have = dict(root.get_submodule(block).named_modules(prefix=block))
    if not all(isinstance(have.get(linear), nn.Linear) for linear in linears):
        return None
    return Home(linears, home.flags)
