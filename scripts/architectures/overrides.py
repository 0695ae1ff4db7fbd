"""Where shrinking by field names is not enough: settings by model type, as dotted paths.

Applied after ``shrink``; a path through ``text_config`` also applies where an architecture is
walked as a language model alone.
"""

from __future__ import annotations

from typing import Any

_HYBRID = ["mamba", "hybrid", "mamba", "hybrid"]
_SHARED_GEMMA = {
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "intermediate_size": 96,
    "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
}
_GEMMA_ASSISTANT = {
    "text_config.layer_types": ["sliding_attention", "full_attention"],
    "text_config.num_hidden_layers": 2,
    "text_config.num_kv_shared_layers": 2,
    "text_config.hidden_size_per_layer_input": 0,
    "text_config.vocab_size_per_layer_input": 0,
    "text_config.enable_moe_block": False,
    "text_config.use_double_wide_mlp": False,
}
_COMPASS_ROPE = {
    "full_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
}
# The default sections of a multimodal rotary embedding are for heads of 128.
_ROPE_SECTIONS = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
_MROPE = {"text_config.rope_parameters": _ROPE_SECTIONS}
_SCALED_ROPE = {
    "rope_type": "default",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 64,
    "llama_4_scaling_beta": 0.1,
}
_DOTS3 = {
    "num_key_value_heads": 4,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4,
    "swa_q_lora_rank": 16,
    "swa_kv_lora_rank": 16,
    "swa_head_dim": 16,
    "swa_qk_nope_head_dim": 8,
    "swa_v_head_dim": 16,
}
_QWEN4 = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 8,
    "indexer_compress_ratio": 4,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "num_hidden_layers": 3,
}
_IMAGE_WORDS = {"<image>": 100, "<|extra_200|>": 101, "<|image token|>": 102}

# What a default configuration cannot be made without.
STARTS: dict[str, dict[str, Any]] = {
    "gemma4_assistant": {
        "text_config": {k.removeprefix("text_config."): v for k, v in _GEMMA_ASSISTANT.items()}
    },
}

OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 8},
    "chameleon": {"vocabulary_map": {"<image>": 100, "IMGIMGA": 101}},
    "cohere_compass": {"text_config.rope_parameters": _COMPASS_ROPE},
    "cohere_compass_text": {"rope_parameters": _COMPASS_ROPE},
    "dbrx": {
        "attn_config.kv_n_heads": 2,
        "attn_config.rope_theta": 10000.0,
        "attn_config.clip_qkv": 8.0,
        "ffn_config.hidden_size": 64,
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "deepseek_ocr2": {
        "text_config.mlp_layer_types": ["dense", "sparse"],
        "text_config.num_experts_per_tok": 2,
        "text_config.n_group": 1,
        "text_config.topk_group": 1,
    },
    "diffusion_gemma": {
        "text_config.num_experts": 4,
        "text_config.top_k_experts": 2,
        "text_config.moe_intermediate_size": 32,
    },
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note": {
        **{f"text_config.{k}": v for k, v in _DOTS3.items()},
        "vision_config.adapter_in_dim": 64,
        "vision_config.adapter_out_dim": 64,
        "audio_config.adapter_out_dim": 64,
    },
    "dots3_note_text": _DOTS3,
    "emu3": {"vocabulary_map": _IMAGE_WORDS, "text_config.pad_token_id": 0},
    "ernie4_5_vl_moe": {
        "text_config.rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [3, 3, 2],
        },
        "text_config.moe_intermediate_size": [32, 32],
    },
    "falcon_h1": {"mamba_n_heads": 6, "mamba_d_head": 16},
    "florence2": {
        "vision_config.embed_dim": [16, 32],
        "vision_config.depths": [1, 1],
        "vision_config.num_heads": [2, 2],
        "vision_config.num_groups": [2, 2],
        "vision_config.patch_size": [7, 3],
        "vision_config.patch_stride": [4, 2],
        "vision_config.patch_padding": [3, 1],
        "vision_config.patch_prenorm": [False, True],
    },
    "gemma3n": {f"text_config.{k}": v for k, v in _SHARED_GEMMA.items()},
    "gemma3n_text": _SHARED_GEMMA,
    "gemma4_assistant": _GEMMA_ASSISTANT,
    "gemma4_unified_assistant": _GEMMA_ASSISTANT,
    "glm5_next": {"text_config.num_key_value_heads": 4, "text_config.index_kpool": 4},
    "glm46v": _MROPE,
    "glm4v": _MROPE,
    "glm4v_moe": {"text_config.rope_parameters": {**_ROPE_SECTIONS, "mrope_section": [2, 1, 1]}},
    "glm_ocr": _MROPE,
    "glmga": _MROPE,
    "granite4_vision": {
        "deepstack_layer_map": [(-1, 0)],
        "spatial_target_layers": [1],
        "downsample_rate": "1/2",
    },
    "granitemoehybrid": {"mamba_n_heads": 8, "layers_block_type": ["mamba", "attention"]},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "hunyuan_vl": {"text_config.head_dim": 16, **_MROPE},
    "jamba": {"attn_layer_offset": 1, "expert_layer_offset": 1, "num_hidden_layers": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"], "num_hidden_layers": 3},
    "mamba2": {"num_heads": 8},
    "ministral": {"head_dim": 16},
    "ministral3": {"rope_parameters": _SCALED_ROPE},
    "mistral4": {"rope_parameters": _SCALED_ROPE},
    "mllama": {"text_config.cross_attention_layers": [1]},
    "molmo2": {"adapter_config.vision_feature_layer": [-1, -2]},
    "musicgen": {"decoder.num_codebooks": 1},
    "musicgen_melody": {"decoder.num_codebooks": 1},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 16},
    "nemotron_h_omni": {"vision_config.video_temporal_patch_size": 2},
    "paddleocr_vl": _MROPE,
    "qwen2_5_omni_thinker": _MROPE,
    "qwen2_5_vl": _MROPE,
    "qwen2_vl": _MROPE,
    "qwen4_exp": {f"text_config.{k}": v for k, v in _QWEN4.items()},
    "qwen4_exp_text": _QWEN4,
    "reformer": {
        "is_decoder": True,
        "num_hidden_layers": 2,
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [32, 32],
        "attn_layers": ["local", "lsh"],
        "num_buckets": 2,
    },
    "step3p7": {"text_config.sliding_window": 8},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": _HYBRID,
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
    },
    "zamba2": {"n_mamba_heads": 8, "attention_hidden_size": 128, "attention_head_dim": 32},
}
