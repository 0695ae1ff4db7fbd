"""The language backbone, its sites, and where a bias can live in a checkpoint."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from steering_zoo import VOCABULARY, build, prompts

from equipoise.errors import SteeringError
from equipoise.models.backbone import (
    decoder_blocks,
    head_sites,
    language_backbone,
    mlp_sites,
    norm_sites,
    residual_sites,
)
from equipoise.steering import Affine, Steering
from equipoise.steering.fold.homes import READERS, Homes

SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def olmo2():
    return hf.Olmo2ForCausalLM(hf.Olmo2Config(**{k: v for k, v in SIZE.items() if k != "head_dim"}))


def paths(model, **options):
    return [site.path for site in norm_sites(model, **options)]


@pytest.mark.parametrize(
    ("family", "per_block", "backbone"),
    [
        ("llama", 2, "model"),
        ("gemma3", 4, "model"),
        ("gpt2", 2, "transformer"),
        ("opt", 2, "model.decoder"),
        ("mamba", 1, "backbone"),
    ],
)
def test_block_norms_and_the_final_one(family, per_block, backbone):
    model = build(family)
    assert language_backbone(model)[0] == backbone
    sites = norm_sites(model)
    assert len(sites) == 3 * per_block + 1
    assert [s.role for s in sites].count("final_norm") == 1
    assert len(norm_sites(model, final=False)) == 3 * per_block
    assert sorted({s.layer for s in sites if s.layer is not None}) == [0, 1, 2]
    assert {s.width for s in sites} == {24}
    assert [path for path, _ in decoder_blocks(model)] == [s.path for s in residual_sites(model)]


def test_query_and_key_norms_are_no_sites():
    model = hf.Qwen3ForCausalLM(hf.Qwen3Config(**SIZE))
    assert len(paths(model)) == 5
    model = olmo2()
    assert all("q_norm" not in path for path in paths(model))
    assert len(paths(model)) == 5


def test_latents_and_routers_are_no_sites():
    latent = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4}
    experts = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2}
    sizes = {**SIZE, "num_key_value_heads": 4, "v_head_dim": 6, "moe_intermediate_size": 8}
    sizes.pop("head_dim")
    config = hf.DeepseekV3Config(**sizes, **latent, **experts, first_k_dense_replace=1)
    assert len(paths(hf.DeepseekV3ForCausalLM(config))) == 5


def test_vision_tower_and_projector_are_no_sites():
    text = hf.Gemma3TextConfig(**SIZE)
    config = hf.Gemma3Config(
        text_config=text, vision_config=hf.SiglipVisionConfig(**VISION), mm_tokens_per_image=4
    )
    model = hf.Gemma3ForConditionalGeneration(config)
    assert language_backbone(model)[0] == "model.language_model"
    assert len(paths(model)) == 9
    assert all(path.startswith("model.language_model.") for path in paths(model))
    config = hf.LlavaConfig(
        text_config=hf.LlamaConfig(**SIZE), vision_config=hf.CLIPVisionConfig(**VISION)
    )
    model = hf.LlavaForConditionalGeneration(config)
    assert len(paths(model)) == 5
    assert len(head_sites(model)) == len(mlp_sites(model)) == 2


def test_heads_are_query_heads():
    for family, leaf in [("llama", "o_proj"), ("gpt2", "c_proj"), ("opt", "out_proj")]:
        sites = head_sites(build(family))
        assert [(s.heads, s.width, s.end) for s in sites] == [(4, 24, "input")] * 3
        assert all(s.path.endswith(leaf) for s in sites)
        assert sites[0].head(3) == f"{sites[0].path}@input[18:24]"
        with pytest.raises(SteeringError, match="4 query heads"):
            sites[0].head(4)


def test_what_is_no_language_model():
    with pytest.raises(SteeringError, match="no input embeddings"):
        norm_sites(torch.nn.Linear(2, 2))
    with pytest.raises(SteeringError, match="known name"):
        head_sites(build("mamba"))


HOMES = {
    "llama": (hf.LlamaForCausalLM, hf.LlamaConfig, 2),
    "qwen2": (hf.Qwen2ForCausalLM, hf.Qwen2Config, 1),
    "qwen3": (hf.Qwen3ForCausalLM, hf.Qwen3Config, 1),
    "gemma2": (hf.Gemma2ForCausalLM, hf.Gemma2Config, 1),
    "gemma3_text": (hf.Gemma3ForCausalLM, hf.Gemma3TextConfig, 1),
}


@pytest.mark.parametrize("family", HOMES)
def test_a_bias_in_its_home_is_the_bias_at_the_norm(family):
    """With the flags set, adding W b to the linears of a home equals b at the norm."""
    torch.manual_seed(0)
    build_model, build_config, homes = HOMES[family]
    flags = {k: v for home in READERS[family].values() for k, v in home.flags.items()}
    model = build_model(build_config(**SIZE, **flags)).eval().requires_grad_(False)
    ids = torch.tensor([prompts()[1]])
    known = Homes(model)
    found = [(s, home) for s in norm_sites(model) if (home := known.bias(s)) is not None]
    assert len(found) == 2 * homes
    vectors = {site.key: torch.randn(24) for site, _ in found}
    with Steering({k: Affine(b=v) for k, v in vectors.items()}).applied(model):
        wanted = model(ids).logits
    before = model(ids).logits
    for site, home in found:
        for path in home.linears:
            linear = model.get_submodule(path)
            linear.bias += linear.weight @ vectors[site.key]
    assert not torch.allclose(before, wanted, atol=1e-2)
    torch.testing.assert_close(model(ids).logits, wanted, atol=1e-4, rtol=1e-4)


def test_every_row_of_the_table_is_tested():
    assert HOMES.keys() <= READERS.keys()  # the architecture walk folds the others


@pytest.mark.parametrize(
    ("model", "biases"),
    [
        (lambda: build("gpt2"), 6),
        (lambda: build("opt"), 6),
        (lambda: build("llama"), 6),
        (lambda: build("qwen2"), 3),
        (lambda: build("gemma3"), 3),
        (lambda: hf.MistralForCausalLM(hf.MistralConfig(**SIZE)), 0),
        (olmo2, 0),
    ],
    ids=["gpt2", "opt", "llama", "qwen2", "gemma3", "mistral", "olmo2"],
)
def test_foldable_profile(model, biases):
    model = model()
    transforms = Steering.identity(model).transforms
    assert all(t.a is not None for t in transforms.values())
    assert sum(t.b is not None for t in transforms.values()) == biases
    (final,) = (s for s in norm_sites(model) if s.role == "final_norm")
    assert transforms[final.key].b is None


def test_bias_alone_where_it_has_no_home():
    model = hf.MistralForCausalLM(hf.MistralConfig(**SIZE))
    with pytest.raises(SteeringError, match="foldable=False"):
        Steering.identity(model, "bias")
    assert Steering.identity(model, "bias", foldable=False).n_parameters == 5 * 24
