"""What can be steered in a model: its language backbone and the sites in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from equipoise.errors import SteeringError
from equipoise.models.model import Model, unwrap

Role = Literal["norm", "final_norm", "residual", "mlp", "heads"]

# Norms inside attention or a state-space mixer: of queries, keys, values and their latents
# (DeepSeek's ``q_a_layernorm``), of the step size and the B and C of a selective scan.
_INNER_NORM = re.compile(
    r"(q|k|v|kv|qk|query|key|value|dt|b|c|o)(_[ab])?_?(norm|layernorm|layer_norm)(_\w+)?"
    r"|(norm|layernorm|ln)_(q|k|v)|k_rope_only_layernorm|groupnorm|multihead_norm"
)
# Side computations of a block (routing, hyper-connections, per-layer embeddings), norms that a
# decoder without an encoder never reaches, and what is beside the language backbone.
_ASIDE = re.compile(
    r"router|^gate$|_hc$|^hc_head$|^indexer$|^experts$|_expert_norm$|^(attention|mlp|final)_input$"
    r"|^per_layer_projection_norm$|^(encoder|cross)_attn_layer_norm$|^encoder_decoder_attention$"
    r"|vision|visual|^(img|image|audio|speech|protein)_|resampler|^adapter$|_extend$"
)
_MLP = ("mlp", "feed_forward", "ffn", "ff", "block_sparse_moe", "moe", "feedforward", "shared_mlp")
_ATTENTION = re.compile(r"attn|attention")
_OUTPUT_PROJECTIONS = ("o_proj", "out_proj", "c_proj", "dense", "wo", "attn_out", "proj")


@dataclass(frozen=True)
class Site:
    """A place where an activation is read or changed.

    Attributes:
        path: Module path from the model's root.
        width: Size d of the activation's last dimension.
        role: What the module is.
        layer: Index of the decoder block it belongs to; None outside the blocks.
        end: Whether the module's output or its input is meant.
        heads: Number of query heads along the width (``role="heads"``).
    """

    path: str
    width: int
    role: Role = "norm"
    layer: int | None = None
    end: Literal["output", "input"] = "output"
    heads: int | None = None

    @property
    def key(self) -> str:
        """How a steering names the site: ``path``, or ``path@input``."""
        return self.path if self.end == "output" else f"{self.path}@input"

    def head(self, index: int) -> str:
        """Key of one query head of an attention-head site.

        With grouped queries several query heads share a key/value head; the input of the output
        projection still has one slice per *query* head, and that is what is named here.
        """
        if self.heads is None or not 0 <= index < self.heads:
            raise SteeringError(f"{self.path} has {self.heads or 0} query heads; got head {index}")
        size = self.width // self.heads
        return f"{self.key}[{index * size}:{(index + 1) * size}]"


def language_backbone(model: Model | nn.Module) -> tuple[str, nn.Module]:
    """Path and module of the language backbone: the owner of the input embeddings and the blocks.

    Raises:
        SteeringError: The model has no input embeddings, or no stack of blocks beside them.
    """
    root: Any = unwrap(model)
    name = type(root).__name__
    try:
        embedding = root.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        embedding = None
    if embedding is None:
        raise SteeringError(f"{name} has no input embeddings: not a language model to steer")
    path = next(p for p, m in root.named_modules() if m is embedding)
    # Usually the direct parent; some models wrap the embeddings, or the stack, in a module.
    while path:
        path = path.rpartition(".")[0]
        owner = root.get_submodule(path)
        if _stacks(owner):
            return path, owner
    raise SteeringError(f"{name} has no stack of decoder blocks beside its input embeddings")


def decoder_blocks(model: Model | nn.Module) -> list[tuple[str, nn.Module]]:
    """Path and module of each decoder block, in order."""
    prefix, backbone = language_backbone(model)
    name, stack = max(
        _stacks(backbone), key=lambda pair: sum(p.numel() for p in pair[1].parameters())
    )
    return [(_join(prefix, name, str(i)), block) for i, block in enumerate(stack.children())]


def norm_sites(model: Model | nn.Module, *, final: bool = True) -> list[Site]:
    """Norm modules of the language backbone, in module order.

    These are the leaf modules whose class (or a base of it) is called ...RMSNorm or ...LayerNorm,
    less the norms inside the embedding, attention, state-space mixers and routers.

    Args:
        model: A model with input embeddings.
        final: Include the norm after the last block.

    Raises:
        SteeringError: There is none.
    """
    prefix, backbone = language_backbone(model)
    hidden = text_config(model).hidden_size
    root: Any = unwrap(model)
    embedding = set(root.get_input_embeddings().modules())
    sites: list[Site] = []
    for name, module in backbone.named_modules():
        # A norm within the embedding may act before the backbone's pass: a VLM embeds by itself.
        if not _is_norm(module) or _is_inner(name) or module in embedding:
            continue
        layer = re.search(r"(?:^|\.)(\d+)(?:\.|$)", name)
        path = _join(prefix, name)
        width = norm_width(module) or hidden
        sites.append(Site(path, width, "norm", int(layer[1]) if layer else None))
    outside = [i for i, s in enumerate(sites) if s.layer is None and "emb" not in s.path.lower()]
    if outside:
        last = sites[outside[-1]]
        sites[outside[-1]] = Site(last.path, last.width, "final_norm")
    if not final:
        sites = [s for s in sites if s.role != "final_norm"]
    if not sites:
        raise SteeringError(f"{type(unwrap(model)).__name__}: no norm in its language backbone")
    return sites


def residual_sites(model: Model | nn.Module) -> list[Site]:
    """The residual stream after each decoder block."""
    width = text_config(model).hidden_size
    return [Site(path, width, "residual", i) for i, (path, _) in enumerate(decoder_blocks(model))]


def mlp_sites(model: Model | nn.Module) -> list[Site]:
    """Output of the feed-forward (or mixture-of-experts) module of each decoder block.

    Raises:
        SteeringError: No block has one under a known name.
    """
    width = text_config(model).hidden_size
    sites = [
        Site(f"{path}.{name}", width, "mlp", i)
        for i, (path, block) in enumerate(decoder_blocks(model))
        for name, _ in block.named_children()
        if name in _MLP
    ]
    return _some(sites, model, "feed-forward modules")


def head_sites(model: Model | nn.Module) -> list[Site]:
    """Input of each attention output projection: the query heads' outputs, side by side.

    Raises:
        SteeringError: No block has one under a known name.
    """
    heads: int = getattr(text_config(model), "num_attention_heads", 0)
    sites: list[Site] = []
    for i, (path, block) in enumerate(decoder_blocks(model) if heads else []):
        for name, module in block.named_modules():
            parent, _, leaf = name.rpartition(".")
            if leaf not in _OUTPUT_PROJECTIONS or not _ATTENTION.search(parent.lower()):
                continue
            width = in_features(module)
            if width is not None and width % heads == 0:
                sites.append(Site(f"{path}.{name}", width, "heads", i, "input", heads))
    return _some(sites, model, "attention output projections")


def text_config(model: Model | nn.Module) -> Any:
    """The configuration of the language backbone (VLMs nest it)."""
    config: Any = unwrap(model).config
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def drops_out(model: nn.Module) -> bool:
    """Whether a model drops activations at random while it is in training mode."""
    rates = (rate for name, rate in vars(text_config(model)).items() if "drop" in name)
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def weights_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of a model's first weights that are not integers (quantised)."""
    return next(p.dtype for p in model.parameters() if p.is_floating_point())


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _stacks(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Lists of blocks in a module, the nearest ones, with their paths in it."""
    level: list[tuple[str, nn.Module]] = list(module.named_children())
    while level:
        found: list[tuple[str, nn.Module]] = [
            (n, m) for n, m in level if isinstance(m, nn.ModuleList) and len(m) > 0
        ]
        if found:
            return found
        level = [
            (f"{name}.{child}", inner)
            for name, outer in level
            if not _is_aside(name)
            for child, inner in outer.named_children()
        ]
    return []


def _is_norm(module: nn.Module) -> bool:
    leaf = next(module.children(), None) is None
    return leaf and any(c.__name__.endswith(("RMSNorm", "LayerNorm")) for c in type(module).__mro__)


def _is_inner(name: str) -> bool:
    return _is_aside(name) or any(_INNER_NORM.fullmatch(part) for part in name.lower().split("."))


def _is_aside(name: str) -> bool:
    return any(_ASIDE.search(part) for part in name.lower().split("."))


def norm_width(module: nn.Module) -> int | None:
    """Width of what a norm module returns, where it tells; None for any other module."""
    if not _is_norm(module):
        return None
    weight = getattr(module, "weight", None)
    if weight is not None:
        return weight.shape[-1]
    shape = getattr(module, "normalized_shape", None)
    return shape[-1] if shape else None


def in_features(module: nn.Module) -> int | None:
    """Width of what a linear module takes, where it tells."""
    size: Any = getattr(module, "in_features", None)
    if size is not None:
        return size
    weight = getattr(module, "weight", None)
    # Conv1D of GPT-2 keeps its weight as [in, out].
    return weight.shape[0] if type(module).__name__ == "Conv1D" and weight is not None else None


def _some(sites: list[Site], model: Model | nn.Module, what: str) -> list[Site]:
    if not sites:
        raise SteeringError(
            f"{type(unwrap(model)).__name__}: no {what} under a known name; name the sites by hand"
        )
    return sites


def token_ids(config: Mapping[str, Any]) -> Iterator[int]:
    """Ids of the special tokens a configuration (as a dict, its parts included) speaks of."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from token_ids(value)
        elif str(name).endswith(("token_id", "token_index")) and isinstance(value, int):
            yield value
