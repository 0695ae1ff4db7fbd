"""Steerings from and for other programs."""

import types
from math import nan

import numpy as np
import pytest
import torch
from fold_zoo import STRENGTH, build, logits, random_steering

from equipoise.errors import SteeringError
from equipoise.models.backbone import residual_sites
from equipoise.steering import Additive, Affine, Replace, Scale, Steering
from equipoise.steering.export import to_gguf, to_onnx
from equipoise.steering.importers import from_dso, from_gguf, from_steering_vector


@pytest.fixture(scope="module")
def model():
    return build("llama", "LlamaForCausalLM")


def vectors(*names, width=64):
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(width, generator=generator) for name in names}


# ---- DSO's .pt


def saved(tmp_path, content):
    torch.save(content, tmp_path / "interventions_llm.pt")
    return tmp_path / "interventions_llm.pt"


def test_dso_layouts_mean_the_same(tmp_path, model):
    given = vectors("scale", "bias")
    name = "layers.0.input_layernorm"
    full = f"model.{name}"
    layouts = [
        {full: given},
        {f"{name}.scale": given["scale"][None], f"{name}.bias": given["bias"].half().float()},
        {"state_dict": {full: {"weight": given["scale"], "shift": given["bias"]}}},
        {full: {"a": given["scale"], "b": given["bias"]}},
    ]
    for layout in layouts:
        steering = from_dso(saved(tmp_path, layout), model, neutral_scale=0)
        assert list(steering.transforms) == [full]
        assert torch.equal(steering.transforms[full].a, given["scale"])
        assert torch.allclose(steering.transforms[full].b, given["bias"], atol=1e-2)


def test_dso_factors_are_not_slopes(tmp_path, model):
    path = saved(tmp_path, {"model.norm": {"scale": torch.full((64,), 1.5)}})
    with pytest.raises(SteeringError, match=r"neutral_scale=0 or 1 \(the median .* is 1.5\)"):
        from_dso(path, model)
    steering = from_dso(path, model, neutral_scale=1)
    assert torch.equal(steering.transforms["model.norm"].a, torch.full((64,), 0.5))
    with steering.applied(model, STRENGTH):
        assert not torch.equal(logits(model), logits(build("llama", "LlamaForCausalLM")))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({}, "no vectors"),
        ([1, 2], "is a list"),
        ({"model.norm": {"scale": 1.5}}, "is a float"),
        ({"model.norm": {"rotation": torch.ones(64)}}, "MODULE.ROLE"),
        ({"model.norm": {"a": torch.ones(64, 2)}}, "want a vector"),
        ({"model.norm": {"a": torch.full((64,), torch.nan)}}, "not finite"),
        ({"model.norm": {"a": torch.ones(64), "slope": torch.ones(64)}}, "both"),
        ({"input_layernorm": {"a": torch.ones(64)}}, "more than one norm"),
        ({"model.layers.9.input_layernorm": {"a": torch.ones(64)}}, "is no norm"),
        (
            {"norm": {"a": torch.ones(64)}, "model.norm": {"a": torch.ones(64)}},
            "'norm' and 'model.norm' are the same norm, model.norm",
        ),
        ({"model.norm.a": torch.ones(64), "model.norm": {"a": torch.zeros(64)}}, "twice"),
        ({"model.norm": types.SimpleNamespace(a=1)}, "tensors alone"),
    ],
)
def test_dso_files_that_are_not(tmp_path, model, content, match):
    with pytest.raises(SteeringError, match=match):
        from_dso(saved(tmp_path, content), model)


@pytest.mark.parametrize("neutral", [float("nan"), float("inf")])
def test_dso_needs_a_neutral_scale_that_is_a_number(tmp_path, model, neutral):
    path = saved(tmp_path, {"model.norm": {"scale": torch.ones(64)}})
    with pytest.raises(SteeringError, match="neutral_scale must be finite"):
        from_dso(path, model, neutral_scale=neutral)


def test_dso_files_that_cannot_be_read(tmp_path, model):
    with pytest.raises(SteeringError, match="cannot read"):
        from_dso(tmp_path / "none.pt", model)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(SteeringError, match="tensors alone"):
        from_dso(tmp_path / "text.pt", model)


@pytest.mark.parametrize(
    "vector",
    [torch.ones(64, dtype=torch.complex64), torch.ones(64).to_sparse(), torch.ones(64).to("meta")],
)
def test_dso_files_of_other_than_real_numbers(tmp_path, model, vector):
    torch.save({"model.norm": {"a": vector}}, tmp_path / "x.pt")
    with pytest.raises(SteeringError, match="want real numbers"):
        from_dso(tmp_path / "x.pt", model)


# ---- GGUF control vectors


def test_gguf_round_trip(tmp_path, model):
    pytest.importorskip("gguf")
    site = residual_sites(model)[1]
    steering = Steering({site.key: Additive(vectors("v")["v"])})
    path = to_gguf(steering, model, tmp_path / "v.gguf", strength=0.5)
    again = from_gguf(path, model)
    assert list(again.transforms) == [site.key]
    assert torch.equal(again.transforms[site.key].v, 0.5 * steering.transforms[site.key].v)
    assert list(tmp_path.iterdir()) == [path]


def test_gguf_is_what_others_read_and_write(tmp_path, model):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", 1)
    writer.add_tensor("direction.1", np.arange(64, dtype=np.float32))
    for step in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{step}_to_file")()
    writer.close()
    steering = from_gguf(tmp_path / "theirs.gguf", model)
    assert torch.equal(steering.transforms["model.layers.1"].v, torch.arange(64.0))

    reader = gguf.GGUFReader(to_gguf(steering, model, tmp_path / "ours.gguf"))
    assert [t.name for t in reader.tensors] == ["direction.1"]
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == "llama"
    assert reader.tensors[0].tensor_type == gguf.GGMLQuantizationType.F32


def test_gguf_with_two_vectors_for_a_layer(tmp_path, model):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", "controlvector")
    for name in ("direction.1", "direction.01"):
        writer.add_tensor(name, np.ones(64, dtype=np.float32))
    for step in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{step}_to_file")()
    writer.close()
    with pytest.raises(SteeringError, match="two vectors for layer 1"):
        from_gguf(tmp_path / "theirs.gguf", model)


def test_gguf_refusals(tmp_path, model):
    pytest.importorskip("gguf")
    v = vectors("v")["v"]
    for transforms, scope, match in [
        ({"model.layers.0": Additive(v)}, "all", "first block"),
        ({"model.layers.1": Scale(v)}, "all", "scale at such a site"),
        ({"model.norm": Additive(v)}, "all", "at another site"),
        ({"model.layers.1": Additive(v)}, "generated", "token scope is 'generated'"),
    ]:
        with pytest.raises(SteeringError, match=match):
            to_gguf(Steering(transforms, scope), model, tmp_path / "x.gguf")
    with pytest.raises(SteeringError, match="strength nan holds values that are not finite"):
        to_gguf(Steering({"model.layers.1": Additive(v)}), model, tmp_path / "x.gguf", strength=nan)
    assert not (tmp_path / "x.gguf").exists()
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(SteeringError, match="not a readable GGUF"):
        from_gguf(tmp_path / "text.gguf", model)
    with pytest.raises(SteeringError, match="not a readable GGUF"):
        from_gguf(tmp_path / "none.gguf", model)
    wide = build("gpt2", "GPT2LMHeadModel")
    path = to_gguf(Steering({"transformer.h.1": Additive(v)}), wide, tmp_path / "y.gguf")
    deep = Steering({"model.layers.1": Additive(v[:7])})
    assert from_gguf(path, model).transforms.keys() == deep.transforms.keys()
    with pytest.raises(SteeringError, match="7 wide, the model 64"):
        from_gguf(to_gguf(deep, model, tmp_path / "z.gguf"), model)


# ---- steering-vectors


def test_steering_vector_objects(model):
    given = vectors("v")["v"]
    for kind, key in [
        ("decoder_block", "model.layers.1"),
        ("self_attn", "model.layers.1.self_attn"),
        ("mlp", "model.layers.1.mlp"),
        ("input_layernorm", "model.layers.1.input_layernorm"),
    ]:
        vector = types.SimpleNamespace(layer_activations={1: given.half()}, layer_type=kind)
        steering = from_steering_vector(vector, model)
        assert list(steering.transforms) == [key]

        def add(module, args, output):
            more = given.half().float()
            return (output[0] + more, *output[1:]) if isinstance(output, tuple) else output + more

        handle = model.get_submodule(key).register_forward_hook(add)
        wanted = logits(model)
        handle.remove()
        with steering.applied(model, 1.0):
            assert torch.allclose(logits(model), wanted, atol=1e-5)
    with pytest.raises(SteeringError, match="layer type 'router' has no site"):
        from_steering_vector(types.SimpleNamespace(layer_type="router"), model)
    deep = types.SimpleNamespace(layer_activations={5: given}, layer_type="mlp")
    with pytest.raises(SteeringError, match="layer 5; this model has 2"):
        from_steering_vector(deep, model)
    wild = types.SimpleNamespace(layer_activations={1: given / 0}, layer_type="mlp")
    with pytest.raises(SteeringError, match=r"vector for layer 1 holds values .* not finite"):
        from_steering_vector(wild, model)


def test_steering_vector_layers_counted_from_the_end(model):
    given = vectors("v")["v"]
    last = types.SimpleNamespace(layer_activations={-1: given}, layer_type="self_attn")
    assert list(from_steering_vector(last, model).transforms) == ["model.layers.1.self_attn"]
    beyond = types.SimpleNamespace(layer_activations={-3: given}, layer_type="self_attn")
    with pytest.raises(SteeringError, match="layer -3; this model has 2"):
        from_steering_vector(beyond, model)
    twice = types.SimpleNamespace(layer_activations={1: given, -1: given}, layer_type="mlp")
    with pytest.raises(SteeringError, match="two vectors for layer 1"):
        from_steering_vector(twice, model)


@pytest.mark.parametrize(
    ("kind", "leaf"),
    [("self_attn", "attn"), ("input_layernorm", "ln_1"), ("post_attention_layernorm", "ln_2")],
)
def test_steering_vector_layers_of_gpt2(kind, leaf):
    vector = types.SimpleNamespace(layer_activations={0: vectors("v")["v"]}, layer_type=kind)
    steering = from_steering_vector(vector, build("gpt2", "GPT2LMHeadModel"))
    assert list(steering.transforms) == [f"transformer.h.0.{leaf}"]


# ---- ONNX


def test_onnx_graph_is_the_steering_at_any_strength(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    v = vectors("a", "b", "c", "d", "e", "f", width=8)
    steering = Steering(
        {
            "norm.1": Affine(v["a"], v["b"]),
            "norm.2": Affine(v["c"]),
            "block.3": Additive(v["d"]),
            "mlp": Scale(v["e"]),
            "head[8:16]": Replace(v["f"]),
        }
    )
    path = to_onnx(steering, tmp_path / "steering.onnx")
    session = runtime.InferenceSession(str(path))
    h = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([0.0, 0.4, 1.3]).reshape(3, 1, 1)
    for strength in (torch.full((1, 1, 1), 0.7), rows):
        given = {f"h:{key}": h.numpy() for key in steering.transforms}
        outputs = [f"steered:{key}" for key in steering.transforms]
        found = session.run(outputs, {**given, "strength": strength.numpy()})
        for steered, transform in zip(found, steering.transforms.values(), strict=True):
            wanted = transform(h, strength).detach()
            assert torch.allclose(torch.from_numpy(steered), wanted, atol=1e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["equipoise.digest"] == steering.digest


def test_onnx_refuses_a_scope(tmp_path, model):
    pytest.importorskip("onnx")
    steering = Steering(random_steering(model).transforms, "prompt")
    with pytest.raises(SteeringError, match="token scope is 'prompt'"):
        to_onnx(steering, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())
