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


_ATTENTION_FLAG = Home(_QKV, {"attention_bias": True})
_ATTENTION_OWN = Home(_QKV)
_MLP_FLAG = Home(_GATE_UP, {"mlp_bias": True})

# By model type of the text configuration, then by the norm's name within its block: the readers,
# relative to the block. A norm that is not listed has no home there.
READERS: Mapping[str, Mapping[str, Home]] = {
    "llama": {"input_layernorm": _ATTENTION_FLAG, "post_attention_layernorm": _MLP_FLAG},
    "qwen2": {"input_layernorm": _ATTENTION_OWN},
    "qwen2_5_vl_text": {"input_layernorm": _ATTENTION_OWN},
    "qwen3": {"input_layernorm": _ATTENTION_FLAG},
    "gemma2": {"input_layernorm": _ATTENTION_FLAG},
    "gemma3_text": {"input_layernorm": _ATTENTION_FLAG},
}


def bias_home(model: Model | nn.Module, site: Site) -> Home | None:
    """Where the bias of a norm site can live, or None where it has no home.

    Args:
        model: The model the site is in.
        site: A norm site.

    Returns:
        A home whose paths start at the model's root.
    """
    module = unwrap(model).get_submodule(site.path)
    if isinstance(getattr(module, "bias", None), nn.Parameter):
        return Home()
    block, _, name = site.path.rpartition(".")
    home = READERS.get(text_config(model).model_type, {}).get(name)
    if home is None or site.layer is None:
        return None
    return Home(tuple(f"{block}.{linear}" for linear in home.linears), home.flags)
