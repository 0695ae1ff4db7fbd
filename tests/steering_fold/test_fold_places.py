"""Where slopes and vectors go when no norm has room for them: linears, and biases inside blocks."""

import types

import pytest
import torch
from fold_zoo import STRENGTH, build, logits, random_steering, slowly_steered
from torch import nn

from equipoise.errors import SteeringError
from equipoise.models.backbone import head_sites, mlp_sites, norm_sites, residual_sites
from equipoise.steering import Additive, Affine, Replace, Scale, Steering
from equipoise.steering.fold.checkpoint import fold_checkpoint
from equipoise.steering.fold.model import fold
from equipoise.steering.fold.writers import writers
from equipoise.steering.importers import from_steering_vector


def close(found, wanted):
    return torch.allclose(found, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max())


def vector(width=64, seed=0):
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def added(sites):
    """A vector at each site."""
    return Steering({s.key: Additive(vector(s.width, i)) for i, s in enumerate(sites)})


@torch.no_grad()
def slowly_added(model, steering):
    """Logits under ĥ = h + ω v at blocks and feed-forward modules, by plain hooks."""

    def hook(v):
        def apply(module, args, output):
            moved = (output[0] if isinstance(output, tuple) else output) + STRENGTH * v
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        return apply

    handles = [
        model.get_submodule(path).register_forward_hook(hook(t.v))
        for path, t in steering.transforms.items()
    ]
    try:
        return logits(model)
    finally:
        for handle in handles:
            handle.remove()


# ---- norms without a scale


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("olmo", "OlmoForCausalLM"),
        ("nanochat", "NanoChatForCausalLM"),
        ("hrm_text", "HrmTextForCausalLM"),
    ],
)
def test_slopes_and_biases_go_into_the_linears_that_read_the_norm(kind, name):
    model = build(kind, name)
    steering = random_steering(model)
    assert {t.a is not None for t in steering.transforms.values()} == {True}
    assert any(t.b is not None for t in steering.transforms.values())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    wanted = slowly_steered(model, steering, STRENGTH)
    assert not close(logits(model), wanted)
    assert close(logits(fold(model, steering, STRENGTH)), wanted)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_tied_head_cannot_take_the_slope_of_the_last_norm():
    model = build("olmo", "OlmoForCausalLM")
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.lm_head.weight = model.model.embed_tokens.weight
    assert "model.norm" not in Steering.identity(model).transforms
    steering = random_steering(model, foldable=False)
    with pytest.raises(SteeringError, match=r"the slope of 1 site \(model.norm\).*foldable"):
        fold(model, Steering({"model.norm": steering.transforms["model.norm"]}), STRENGTH)


def test_a_norm_that_feeds_the_residual_stream_has_no_home_for_a_slope():
    model = build("nanochat", "NanoChatForCausalLM")
    with pytest.raises(SteeringError, match=r"slope of 1 site \(model.norm\)"):
        fold(model, random_steering(model, "slope", foldable=False), STRENGTH)


# ---- vectors added to blocks


# Serial and parallel blocks, tuples, biases there and grown, scaled residuals, post-norms, a mixer.
BLOCKS = [
    ("llama", "LlamaForCausalLM", "mlp.down_proj"),
    ("gpt2", "GPT2LMHeadModel", "mlp.c_proj"),
    ("phi", "PhiForCausalLM", "mlp.fc2"),
    ("bloom", "BloomForCausalLM", "mlp.dense_4h_to_h"),
    ("granite", "GraniteForCausalLM", "mlp.down_proj"),
    ("bert", "BertLMHeadModel", "output.LayerNorm"),
    ("mamba", "MambaForCausalLM", "mixer.out_proj"),
    ("llava", "LlavaForConditionalGeneration", "mlp.down_proj"),
]


@pytest.mark.parametrize(("kind", "name", "into"), BLOCKS)
def test_a_vector_added_to_blocks_goes_into_a_bias_in_them(kind, name, into):
    model = build(kind, name)
    if kind == "granite":
        for block in model.model.layers:
            block.residual_multiplier = 0.22
    sites = residual_sites(model)
    steering = added(sites)
    found = writers(model, [site.path for site in sites])
    assert [w.path for w in found.values()] == [f"{site.path}.{into}" for site in sites]
    wanted = slowly_added(model, steering)
    assert not close(logits(model), wanted)
    folded = fold(model, steering, STRENGTH)
    assert close(logits(folded), wanted)
    assert type(folded) is type(model)


def test_a_scaled_residual_is_undone():
    model = build("granite", "GraniteForCausalLM")
    model.model.layers[0].residual_multiplier = 0.22
    writer = writers(model, ["model.layers.0"])["model.layers.0"]
    assert writer.scale == pytest.approx(0.22, rel=1e-5)


def test_half_precision_finds_the_same_home():
    model = build("granite", "GraniteForCausalLM").to(torch.bfloat16)
    model.model.layers[0].residual_multiplier = 0.22
    writer = writers(model, ["model.layers.0"])["model.layers.0"]
    assert writer.scale == pytest.approx(0.22, rel=1e-5)


def test_feed_forward_modules_heads_and_norms_together(tmp_path):
    model = build("llama", "LlamaForCausalLM")
    steering = Steering(
        {
            **added([*mlp_sites(model), *residual_sites(model), *head_sites(model)]).transforms,
            **random_steering(model).transforms,
            "model.layers.0.self_attn": Additive(vector()),
            "model.layers.1.mlp.down_proj@input": Affine(vector(96), vector(96, 1)),
        }
    )
    with steering.applied(model, STRENGTH):
        wanted = logits(model)
    assert close(logits(fold(model, steering, STRENGTH)), wanted)
    report = fold_checkpoint(model, steering, STRENGTH, tmp_path / "out")
    again = type(model).from_pretrained(tmp_path / "out")
    assert again.config.mlp_bias
    assert close(logits(again), wanted)
    assert report.sites == len(steering.transforms)


def test_slices_heads_and_what_a_reader_reads():
    model = build("gpt2", "GPT2LMHeadModel")
    head = head_sites(model)[1]
    steering = Steering(
        {
            "transformer.h.0[8:24]": Additive(vector(16)),
            "transformer.h.0[24:30]": Additive(vector(6)),
            head.head(2): Affine(vector(16), vector(16, 1)),
            head.head(0): Replace(vector(16, 2)),
            "transformer.h.1.mlp.c_fc@input": Affine(vector(), vector(seed=3)),
            "transformer.h.1.ln_2": Affine(vector(seed=4), vector(seed=5)),
        }
    )
    with steering.applied(model, STRENGTH):
        wanted = logits(model)
    assert close(logits(fold(model, steering, STRENGTH)), wanted)


def test_reader_and_its_norm_act_in_the_order_of_the_computation():
    model = build("llama", "LlamaForCausalLM")
    layer = "model.layers.0"
    reads = {f"{layer}.self_attn.{x}_proj@input": Affine(vector(), vector()) for x in "qkv"}
    norm = {f"{layer}.input_layernorm": Affine(vector(seed=1), vector(seed=2))}
    for transforms in ({**reads, **norm}, {**norm, **reads}):
        steering = Steering(transforms)
        with steering.applied(model, STRENGTH):
            wanted = logits(model)
        assert close(logits(fold(model, steering, STRENGTH)), wanted)


def test_the_llama_export_takes_vectors_that_qwen2_cannot():
    model = build("qwen2", "Qwen2ForCausalLM")
    steering = added(residual_sites(model))
    with pytest.raises(SteeringError, match=r"added to the output of 2 sites .*--as-llama"):
        fold(model, steering, STRENGTH)
    assert close(
        logits(fold(model, steering, STRENGTH, as_llama=True)), slowly_added(model, steering)
    )


def test_vectors_of_several_steerings_add_up():
    model = build("llama", "LlamaForCausalLM")
    sites = residual_sites(model)
    one, other = added(sites), Steering({sites[1].key: Additive(vector(seed=7))})
    with one.applied(model, STRENGTH), other.applied(model, 0.4):
        wanted = logits(model)
    assert close(logits(fold(fold(model, one, STRENGTH), other, 0.4)), wanted)


def test_an_imported_steering_vector_folds():
    model = build("gpt2", "GPT2LMHeadModel")
    given = types.SimpleNamespace(layer_activations={1: vector()}, layer_type="decoder_block")
    steering = from_steering_vector(given, model)
    assert close(logits(fold(model, steering, STRENGTH)), slowly_added(model, steering))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("gemma2", "Gemma2ForCausalLM"),  # a norm follows
        ("olmo2", "Olmo2ForCausalLM"),
        ("mistral", "MistralForCausalLM"),  # no bias to be had
        ("mixtral", "MixtralForCausalLM"),  # a router weighs
    ],
)
def test_blocks_without_a_home_are_named(kind, name):
    model = build(kind, name)
    sites = residual_sites(model)
    with pytest.raises(SteeringError, match=f"{len(sites)} sites .{sites[0].path}.*attached"):
        fold(model, added(sites), STRENGTH)


def test_what_cannot_be_folded_elsewhere_says_why():
    model = build("llama", "LlamaForCausalLM")
    for key, transform, match in [
        ("model.layers.0", Scale(vector()), "can be added to, not scaled"),
        ("model.layers.0.mlp@input", Additive(vector()), "the input of a LlamaMLP"),
        ("lm_head@input", Additive(vector()), r"bias of 1 site \(lm_head@input\)"),
    ]:
        with pytest.raises(SteeringError, match=match):
            fold(model, Steering({key: transform}), STRENGTH)


def test_quantised_readers_are_refused():
    model = build("olmo", "OlmoForCausalLM")
    linear = model.model.layers[0].self_attn.q_proj
    linear.weight = nn.Parameter(linear.weight.round().to(torch.int8), requires_grad=False)
    site = norm_sites(model)[0]
    with pytest.raises(SteeringError, match=r"q_proj: a Linear without a plain weight"):
        fold(model, Steering({site.key: Scale(vector())}), STRENGTH)
