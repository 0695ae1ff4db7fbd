"""Make a tiny configuration of any architecture from its default one, by the names of its fields.

A handful of sizes is used for everything (a hidden size of 64, 4 heads of 16, 2 or 3 layers, 4
experts), in text, vision and audio parts alike, so that parts that meet have widths that meet.
What a rule by name gets wrong for one architecture is put right in ``overrides.py``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

VOCABULARY = 128
HIDDEN, HEADS, KEY_VALUE_HEADS, HEAD_DIM, INTERMEDIATE, EXPERTS = 64, 4, 2, 16, 96, 4
POSITIONS, WINDOW = 64, 8

# First match wins; the field's last part is matched, whole.
RULES: list[tuple[str, int]] = [
    (r"(unpadded_|decoder_|mel_)?vocab_size\w*|codebook_size|num_embeddings", VOCABULARY),
    (r"audio_vocab_size|encoder_hash_byte_group_vocab|shape_vocab_size", VOCABULARY),
    (r"pronunciation_vocab_size|vocab_offset", VOCABULARY),
    (r"(decoder_|encoder_|max_)?(num_)?(source_|target_)?n?_?positions", POSITIONS),
    (r"max_position_embeddings|max_2d_position_embeddings|n_ctx|max_seq_len", POSITIONS),
    (r"model_max_length|context_length|original_max_position_embeddings", POSITIONS),
    (r"max_source_positions|max_target_positions|num_position_embeddings", POSITIONS),
    (r"(attention_|sliding_|local_attention_|keep_)?(sliding_)?window(_size|_len)?", WINDOW),
    (r"attention_window_size|local_attention|attention_chunk_size|mem_len", WINDOW),
    (r"(mamba_)?chunk_size|block_size", WINDOW),
    (r"(num_|n_)?(key_value|kv)_heads|swa_num_key_value_heads|num_query_groups", KEY_VALUE_HEADS),
    (r"\w*(num_attention|num_sliding_attention|attention|index_n|n|num)_heads?", HEADS),
    (r"(mamba|resampler|linear)_(n|num)_?(key|value)?_?heads|mamba_n_heads", HEADS),
    (r"linear_num_(key|value)_heads|n_mamba_heads|resampler_heads", HEADS),
    (r"\w*head_dim|\w*headdim|kv_channels|d_kv|d_head|mamba_d_head|dim_head", HEAD_DIM),
    (r"attention_head_size|rotary_dim|query_pre_attn_scalar|\w*_dim_head", HEAD_DIM),
    (r"(kv|q|o)_lora_rank|\w*_rank|\w*lowrank|mamba_dt_rank", HEAD_DIM),
    (r"mamba_d_state|state_size|ssm_state_size|d_rel|rel_extent", HEAD_DIM),
    (r"(moe_|shared_|shared_expert_|dense_|expert_|encoder_|decoder_|alignment_)*"
     r"(intermediate|ffn|ffn_hidden|feed_forward)_(size|dim)(_mlp)?", INTERMEDIATE),
    (r"\w*intermediate_size|dff|d_ff|dim_ff|d_inner|mlp_dim|n_inner", INTERMEDIATE),
    (r"mamba_d_ssm|expert_ffn_hidden_size|share_expert_dim|merged_hidden_size", INTERMEDIATE),
    (r"num_(hidden|decoder|encoder)_layers|(encoder_|decoder_|n_|num_)?layers?", 2),
    (r"depth|num_blocks|num_layers_per_stack|num_global_layers|resampler_depth", 2),
    (r"conf_num_hidden_layers|aligner_num_add_layers", 2),
    (r"(moe_)?(num|n)_(routed_|local_)?experts|moe_num_experts|zero_expert_num", EXPERTS),
    (r"(num_)?experts_per_tok(en)?|num_experts_per_tok\w*|moe_k|moe_topk|top_k_experts", 2),
    (r"n_group|topk_group|num_expert_group|n_groups|o_groups", 1),
    (r"index_topk|index_topk_blocks", WINDOW),
    (r"attn_layer_period|expert_layer_period|layer_group_size", 2),
    (r"(max_|min_)?(image|img|crop)_size|resolution|max_img_size", 32),
    (r"patch_size|encoder_stride", 16),
    (r"(mm_tokens_per_image|num_image_tokens|image_seq_length|num_query_tokens)", 4),
    (r"\w*(hidden|embed|embedding|projection|output|out|model)_?(size|dim|width)", HIDDEN),
    (r"hidden_size_\w+|\w*_hidden_dim|d_model|n_embd|dim|emb_dim|embedding_dim|embed_dim", HIDDEN),
    (r"\w*(input|projector)_(size|dim)|lru_width|\w*_embed_dim|word_embed_proj_dim", HIDDEN),
    (r"attention_hidden_size|output_channels|codebook_dim|latent_channels", HIDDEN),
    (r"(base|\w*_conv|\w*_separable_out|ext_pw_out)_channels?", 32),
    (r"time_step_rank|num_filters|num_mel_bins|n_mel_bins", 16),
]  # fmt: skip
_RULES = [(re.compile(pattern), size) for pattern, size in RULES]
_TOKEN = re.compile(r"\w*token_(id|index)|\w*_token_(ids|indices)|im_\w+_id|image_patch_id")
_ROPE_KEPT = ("partial_rotary_factor", "mrope_interleaved", "llama_4_scaling_beta")
_FIXED_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth", "encoder_layers")


def shrink(config: PretrainedConfig) -> dict[str, Any]:
    """Arguments that make a tiny configuration of the same class.

    Args:
        config: The default configuration; parts of it are shrunk alike.
    """
    given: dict[str, Any] = {}
    fields = {k: v for k, v in vars(config).items() if not k.startswith("_")}
    inverse = {v: k for k, v in (getattr(config, "attribute_map", None) or {}).items()}
    layers = next((fields[n] for n in _LAYERS if isinstance(fields.get(n), int)), None)
    pattern = _pattern(fields, layers)
    tokens = iter(range(VOCABULARY - 1, 2, -1))
    for name, value in fields.items():
        if isinstance(value, PretrainedConfig):
            given[name] = {"model_type": value.model_type, **shrink(value)}
        elif isinstance(value, bool) or value is None:
            continue
        elif _TOKEN.fullmatch(name):
            given[name] = _token(name, value, tokens)
        elif name in ("rope_parameters", "rope_scaling") and isinstance(value, dict):
            given[name] = _rope(value)
        elif isinstance(value, int):
            size = _size(inverse.get(name, name), name)
            if size is not None:
                given[name] = min(value, size) if value > 0 else value
        elif isinstance(value, list | tuple) and layers and value:
            short = _per_layer(value, layers, pattern)
            if short is not None:
                given[name] = short
    for name in _LAYERS:
        if name in given and pattern > 2:
            given[name] = pattern
    if "kv_lora_rank" in fields:  # latent attention: a key and value per query head
        given.update({k: HEADS for k in ("num_key_value_heads",) if k in fields})
        given.update({k: 2 * HEAD_DIM for k in ("qk_head_dim",) if k in fields})
    return given


def _size(*names: str) -> int | None:
    for name in names:
        for rule, size in _RULES:
            if rule.fullmatch(name):
                return size
    return None


def _pattern(fields: Mapping[str, Any], layers: int | None) -> int:
    """Number of layers: enough to hold one of every kind, and one more of the first."""
    kinds = [
        len(dict.fromkeys(v))
        for v in fields.values()
        if isinstance(v, list | tuple) and len(v) == layers and all(isinstance(x, str) for x in v)
    ]
    return max([2, *(k + 1 for k in kinds)])


def _per_layer(value: Any, layers: int, n: int) -> Any:
    """A list with an entry per layer, or of layer numbers, for ``n`` layers."""
    kind = type(value)
    if all(isinstance(v, int) and not isinstance(v, bool) for v in value):
        rising = all(a < b for a, b in itertools.pairwise(value)) and len(value) > 1
        if rising and value[-1] <= layers:
            return kind(sorted({v * n // (layers + 1) for v in value}))
    if len(value) != layers:
        return None
    kinds = list(dict.fromkeys(value)) if all(_plain(v) for v in value) else list(value)
    return kind(kinds[i % len(kinds)] for i in range(n))


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


def _token(name: str, value: Any, tokens: Any) -> Any:
    if name in _FIXED_TOKENS:
        return _FIXED_TOKENS[name]
    if isinstance(value, list | tuple):
        return type(value)(next(tokens) for _ in value)
    return next(tokens) if isinstance(value, int) and value >= 0 else value


def _rope(value: dict[str, Any]) -> dict[str, Any]:
    if any(isinstance(v, dict) for v in value.values()):
        return {k: _rope(v) if isinstance(v, dict) else v for k, v in value.items()}
    kept = {k: v for k, v in value.items() if k in _ROPE_KEPT}
    if "mrope_section" in value:
        kept["mrope_section"] = [4, 2, 2][: len(value["mrope_section"])]
    return {"rope_type": "default", "rope_theta": value.get("rope_theta", 10000.0), **kept}
