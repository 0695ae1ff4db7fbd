"""Weights that are spread, offloaded or quantised: steered as ever, folded or refused."""

from __future__ import annotations

import pytest
import torch
from steering_zoo import build, prompts, random_steering
from torch import nn

from equipoise.errors import SteeringError
from equipoise.models.fingerprint import fingerprint
from equipoise.steering import Affine, Steering, SteeringInfo
from equipoise.steering.verify import verify

IDS = torch.tensor([prompts()[1]])


class Int8Linear(nn.Module):
    """Weights as whole numbers with a scale per row, as quantisation libraries keep them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("scale", linear.weight.abs().amax(1, keepdim=True) / 127)
        whole = (linear.weight / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(whole, requires_grad=False)
        self.bias = linear.bias

    def forward(self, h):
        return nn.functional.linear(h, self.weight.to(h) * self.scale.to(h), self.bias)


def quantised():
    """Every linear of the blocks, as int8."""
    model = build("llama")
    for block in model.model.layers:
        for part in (block.self_attn, block.mlp):
            for name, module in list(part.named_children()):
                if isinstance(module, nn.Linear):
                    setattr(part, name, Int8Linear(module))
    return model


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def foldable(model):
    """Slopes alone: what a Llama without biases has room for."""
    transforms = random_steering(model, scale=0.2).transforms
    return Steering({key: Affine(t.a) for key, t in transforms.items()})


@pytest.fixture
def spread(tmp_path):
    """A model whose parts accelerate keeps on one device and on the disk."""
    accelerate = pytest.importorskip("accelerate")
    parts = ["embed_tokens", "rotary_emb", "layers.0", "layers.1", "layers.2", "norm"]
    where = {f"model.{part}": "cpu" for part in parts} | {"lm_head": "cpu"}
    where |= {"model.layers.1": "disk", "model.norm": "disk"}
    return accelerate.dispatch_model(
        build("llama"), where, main_device="cpu", offload_dir=tmp_path, force_hooks=True
    )


def test_a_model_partly_on_the_disk_is_steered_alike(spread):
    whole = build("llama")
    steering = random_steering(whole)
    with steering.applied(whole, strength=0.5):
        wanted = logits(whole)
        continued = whole.generate(IDS, max_new_tokens=4, do_sample=False)
    base = logits(spread)
    for strength in (0.5, torch.tensor([0.5])):
        with steering.applied(spread, strength=strength):
            torch.testing.assert_close(logits(spread), wanted)
            found = spread.generate(IDS, max_new_tokens=4, do_sample=False)
            assert torch.equal(found, continued)
        assert torch.equal(logits(spread), base)


def test_an_offloaded_model_is_not_folded_but_told(spread):
    with pytest.raises(SteeringError, match=r"offloaded \(model\.layers\.1\.self_attn"):
        foldable(build("llama")).fold(spread, 0.5)


def test_offloaded_weights_are_compared_too(spread):
    whole = build("llama")
    random_steering(whole, info=SteeringInfo(fingerprint=fingerprint(whole))).attach(
        spread
    ).detach()
    with torch.no_grad():
        whole.model.layers[1].mlp.up_proj.weight.neg_()
    steering = random_steering(whole, info=SteeringInfo(fingerprint=fingerprint(whole)))
    with pytest.raises(SteeringError, match="has its shapes but other weights"):
        steering.attach(spread)
    steering.attach(spread, allow_mismatch=True).detach()


def test_quantised_linears_are_steered_and_their_norms_folded():
    model = quantised()
    base, steering = logits(model), foldable(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with steering.applied(model, strength=0.5):
        wanted = logits(model)
    assert not torch.allclose(wanted, base, atol=1e-2)
    torch.testing.assert_close(logits(steering.fold(model, 0.5)), wanted, atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(model), base)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_bias_finds_no_home_in_quantised_linears():
    model = quantised()
    with pytest.raises(SteeringError, match=r"no place for the bias.*fit slopes only"):
        random_steering(model).fold(model, 0.5)
    assert torch.equal(logits(model), logits(quantised()))


def test_an_offloaded_model_is_verified():
    accelerate = pytest.importorskip("accelerate")
    model = accelerate.cpu_offload(build("llama"), execution_device="cpu")
    assert verify(model, random_steering(model)).ok
