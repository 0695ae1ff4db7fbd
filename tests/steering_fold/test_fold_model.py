"""Folding in memory: it is the steered model, and the base model does not notice."""

import pytest
import torch
from fold_zoo import STRENGTH, build, logits, random_steering, slowly_steered

from equipoise.errors import SteeringError
from equipoise.steering import Additive, Affine, ProbeGate, Replace, Scale, Steering
from equipoise.steering.fold.model import fold
from equipoise.steering.verify import verify

# Norms that keep γ, γ − 1, γ with a bias; Linear and Conv1D; tied heads; flags on and off.
FAMILIES = [
    ("llama", "LlamaForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
    ("gemma2", "Gemma2ForCausalLM"),
    ("gemma3_text", "Gemma3ForCausalLM"),
    ("gpt2", "GPT2LMHeadModel"),
    ("opt", "OPTForCausalLM"),
    ("phi", "PhiForCausalLM"),
    ("nemotron", "NemotronForCausalLM"),
    ("mamba", "MambaForCausalLM"),
    ("llava", "LlavaForConditionalGeneration"),
]


@pytest.mark.parametrize(("kind", "name"), FAMILIES)
def test_folded_is_the_slowly_steered_model(kind, name):
    model = build(kind, name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    steering = random_steering(model)
    wanted = slowly_steered(model, steering, STRENGTH)
    folded = fold(model, steering, STRENGTH)
    assert torch.allclose(logits(folded), wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max())
    assert not torch.allclose(logits(model), wanted, rtol=1e-2)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.config.to_dict().get("attention_bias") in (None, False)


@pytest.mark.parametrize(
    ("kind", "name", "homes"),
    [
        ("llama", "LlamaForCausalLM", 4),
        ("qwen2", "Qwen2ForCausalLM", 2),
        ("gpt2", "GPT2LMHeadModel", 4),
        ("mistral", "MistralForCausalLM", 0),
    ],
)
def test_the_foldable_profile_has_the_biases_it_can_have(kind, name, homes):
    steering = Steering.identity(build(kind, name))
    assert sum(t.b is not None for t in steering.transforms.values()) == homes


def test_strength_zero_folds_to_the_base():
    model = build("llama", "LlamaForCausalLM")
    folded = fold(model, random_steering(model, foldable=False), 0.0)
    assert torch.equal(logits(folded), logits(model))


@pytest.mark.parametrize("form", ["additive", "scale", "replace", "span"])
def test_every_map_of_the_form_a_h_plus_b_folds(form):
    model = build("gpt2", "GPT2LMHeadModel")
    path = "transformer.h.1.ln_2"
    vector = torch.randn(64, generator=torch.Generator().manual_seed(0))
    transforms = {
        "additive": {path: Additive(vector)},
        "scale": {path: Scale(vector)},
        "replace": {path: Replace(vector)},
        "span": {f"{path}[16:32]": Affine(vector[:16]), f"{path}[32:48]": Additive(vector[:16])},
    }
    steering = Steering(transforms[form])
    with steering.applied(model, STRENGTH):
        wanted = logits(model)
    assert torch.allclose(logits(fold(model, steering, STRENGTH)), wanted, rtol=1e-4, atol=1e-4)


def test_the_copy_shares_what_it_does_not_change():
    model = build("gpt2", "GPT2LMHeadModel")
    folded = fold(model, random_steering(model), STRENGTH)
    old, new = dict(model.named_parameters()), dict(folded.named_parameters())
    same = {k for k in old if old[k].data_ptr() == new[k].data_ptr()}
    assert {k for k in old if ".ln_" not in k} == same
    assert all(old[k] is not new[k] for k in old)
    assert folded.lm_head.weight is folded.transformer.wte.weight


def test_llama_export_is_exact_and_takes_every_bias_but_the_last():
    model = build("qwen2", "Qwen2ForCausalLM")
    steering = random_steering(model, foldable=False)
    steering.transforms["model.norm"].b = None
    with pytest.raises(SteeringError, match=r"2 sites .*post_attention_layernorm.*--as-llama"):
        fold(model, steering, STRENGTH)
    wanted = slowly_steered(model, steering, STRENGTH)
    folded = fold(model, steering, STRENGTH, as_llama=True)
    assert type(folded).__name__ == "LlamaForCausalLM"
    assert folded.config.attention_bias
    assert folded.config.mlp_bias
    assert torch.allclose(logits(folded), wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max())


def refuse(match, steering=None, strength=STRENGTH, kind="llama:LlamaForCausalLM", **settings):
    model = build(*kind.split(":"))
    given = steering(model) if steering else random_steering(model)
    with pytest.raises(SteeringError, match=match):
        fold(model, given, strength, **settings)


def test_refusals_say_why():
    refuse("no place for the bias of 1 site", lambda m: random_steering(m, foldable=False))
    refuse("finite", strength=float("nan"))
    refuse("one strength", strength=[0.2, 0.5])
    ends = "model.layers.0.self_attn.o_proj@input[60:68]"  # 64 wide, and 8 fit the span
    refuse("ends beyond", lambda m: Steering({ends: Scale(torch.ones(8))}))
    refuse("no Llama under another name", as_llama=True)
    refuse("sliding", kind="mistral:MistralForCausalLM", as_llama=True)
    refuse("all tokens alike", lambda m: Steering({"model.norm": Affine(ones())}, "last_prompt"))
    gate = ProbeGate("model.layers.0", ones())
    refuse("gated", lambda m: Steering({"model.norm": Affine(ones())}, gate=gate))
    refuse("another model", lambda m: Steering({"model.norm": Affine(torch.ones(7))}))


def test_what_is_compiled_or_parallel_is_the_model_within(tmp_path):
    model = build("gpt2", "GPT2LMHeadModel").requires_grad_(True)
    steering = random_steering(model)
    wanted = fold(model, steering, STRENGTH).state_dict()
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(torch.compile(model, backend="eager"))
        found = fold(wrapped, steering, STRENGTH)
        with steering.applied(wrapped) as attachment:
            assert attachment.model is model
        assert list(Steering.identity(wrapped).transforms) == list(steering.transforms)
        assert verify(wrapped, steering, strength=STRENGTH, vllm=False).ok
    finally:
        torch.distributed.destroy_process_group()
        torch.compiler.reset()  # other tests' models share the code
    assert type(found) is type(model)
    assert all(torch.equal(value, wanted[name]) for name, value in found.state_dict().items())


def test_an_attached_model_is_refused():
    model = build("llama", "LlamaForCausalLM")
    steering = random_steering(model)
    with steering.applied(model), pytest.raises(SteeringError, match="detach"):
        fold(model, steering, STRENGTH)


def ones():
    return torch.ones(64)


def test_a_weight_that_overflows_is_refused():
    model = build("llama", "LlamaForCausalLM").half()
    steering = Steering({"model.norm": Affine(torch.full((64,), 6e4))})
    with pytest.raises(SteeringError, match=r"norm\.weight, folded in torch\.float16, holds"):
        fold(model, steering, 2.0)
