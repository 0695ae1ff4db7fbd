"""Where the slope and the bias of a norm site can live in an ordinary checkpoint.

A norm takes them into a scale and a bias of its own. Where it lacks one, the linears that read the
norm can take them: the slope into the columns of their weights, W (h + ωa ⊙ h) = W diag(1 + ωa) h,
if *all* of its readers are linears; the bias into theirs (bias += ω W b), if besides their class
has one, or gets one by a configuration flag that ``from_pretrained`` honours. Where neither holds,
there is no home: a stock class would drop the bias on loading.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from equipoise.models.backbone import Site, text_config
from equipoise.models.model import Model, unwrap
from equipoise.steering.fold.edits import scale_norm

_PROBE_ROWS = 8
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_GATE_UP = ("mlp.gate_proj", "mlp.up_proj")


@dataclass(frozen=True)
class Home:
    """Where a site's slope or bias goes.

    Attributes:
        linears: Paths of the linears that take it, all that read the norm; empty: the norm itself.
        flags: Settings of the text configuration that must hold for their biases to exist.
        biased: Whether they have biases, or get them by the flags.
    """

    linears: tuple[str, ...] = ()
    flags: Mapping[str, bool] = field(default_factory=dict)
    biased: bool = True


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
# relative to the block, or to the model where the norm is in none. A norm that is not listed, or a
# block that lacks a listed reader (another kind of layer, a mixture of experts), has no home there.
# ``scripts/walk_architectures.py`` folds into every one of these and compares logits.
READERS: dict[str, Mapping[str, Home]] = {
    "apertus": {"attention_layernorm": _ATTENTION["input_layernorm"]},
    "arcee": {
        **_ATTENTION,
        "post_attention_layernorm": Home(("mlp.up_proj",), {"mlp_bias": True}),
    },
    "cwm": _MLP,
    "hrm_text": {
        "input_layernorm": Home((*_QKV, "self_attn.gate_proj"), {"attention_bias": True}),
        **_MLP,
    },
    "minicpm3": {**_LATENT_ATTENTION, **_MLP},
    "modernbert-decoder": {
        "attn_norm": Home(("attn.q_proj", "attn.k_proj", "attn.v_proj"), {"attention_bias": True}),
        "mlp_norm": Home(("mlp.Wi",), {"mlp_bias": True}),
    },
    # NanoChat's last norm is its first one, too: it feeds the residual stream.
    "nanochat": {**_ATTENTION, "post_attention_layernorm": Home(("mlp.fc1",), biased=False)},
    "olmo": {
        **_ATTENTION,
        "post_attention_layernorm": Home(_GATE_UP, biased=False),
        "norm": Home(("lm_head",), biased=False),
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


class Homes:
    """Where the parts of a steering can live in a model's checkpoint.

    Args:
        model: The model; looked through once, so that its weights must stay tied as they are.
    """

    def __init__(self, model: Model | nn.Module) -> None:
        root = unwrap(model)
        self._modules = dict(root.named_modules(remove_duplicate=False))
        self._readers = READERS.get(text_config(root).model_type, {})
        self._owners = Counter(
            id(parameter)
            for module in root.modules()
            for parameter in module.parameters(recurse=False)
        )

    def bias(self, site: Site) -> Home | None:
        """Of the bias of a norm site, with paths from the model's root; None: nowhere."""
        norm = self._modules[site.path]
        if isinstance(getattr(norm, "bias", None), nn.Parameter):
            return None if self.shares(norm) else Home()
        readers = self._known_readers(site)
        return readers if readers is not None and readers.biased else None

    def slope(self, site: Site) -> Home | None:
        """Of the slope of a norm site, likewise."""
        norm = self._modules[site.path]
        if scale_offset(norm) is not None:
            return None if self.shares(norm) else Home()
        return self._known_readers(site)

    def shares(self, module: nn.Module) -> bool:
        """Whether another module holds a parameter of this one, too (a tied head does)."""
        return any(self._owners[id(p)] > 1 for p in module.parameters(recurse=False))

    def _known_readers(self, site: Site) -> Home | None:
        """The linears that are all that reads a norm; None: not known, or not theirs alone."""
        block, _, name = site.path.rpartition(".")
        home = self._readers.get(name)
        if home is None:
            return None
        prefix = "" if site.layer is None else f"{block}."
        linears = tuple(f"{prefix}{linear}" for linear in home.linears)
        takers = [self._modules.get(linear) for linear in linears]
        if not all(isinstance(taker, nn.Linear) and not self.shares(taker) for taker in takers):
            return None
        return replace(home, linears=linears)


def scale_offset(norm: nn.Module) -> float | None:
    """How a norm stores its scale, found by trying: scale it and see what it returns.

    Class names do not tell: some architectures store γ, some γ − 1, some no γ at all, and some one
    that scales what the norm reads.

    Returns:
        o, where the norm scales what it returns by ``o + weight``; None where it does not. A weight
        that is offloaded, so that nothing can be tried, is taken for γ: folding loads it first.
    """
    weight = getattr(norm, "weight", None)
    if not isinstance(weight, nn.Parameter):
        return None
    if weight.is_meta:
        return 0.0
    # A copy in float32 on the CPU, whatever the model's dtype and device.
    norm = copy.deepcopy(norm).to("cpu", torch.float32)
    generator = torch.Generator().manual_seed(0)
    width = weight.shape[-1]
    h = torch.randn(_PROBE_ROWS, width, generator=generator)
    gain = 1 + 0.5 * torch.rand(width, generator=generator)
    for offset in (0.0, 1.0):
        scaled = copy.deepcopy(norm)
        scale_norm(scaled, gain.double(), torch.zeros(width), offset)
        with torch.no_grad(), suppress(TypeError, ValueError, RuntimeError):
            # Suppressed: a norm that asks for more than an activation cannot be tried.
            if torch.allclose(scaled(h), gain * norm(h), rtol=1e-4, atol=1e-5):
                return offset
    return None
