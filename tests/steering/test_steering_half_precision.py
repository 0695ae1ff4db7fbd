"""verify in half precision: rounding is as large as a small steering, and hides none that is lost.

Each breakage is the whole loss of the steering on one path, as other libraries have it.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from functools import partial

import pytest
import torch
from steering_zoo import FAMILIES

from equipoise.steering import Steering, agreement
from equipoise.steering import verify as verifying
from equipoise.steering.attach import factor, hooks

verify = partial(verifying.verify, vllm=False, strength=1.0)
ROWS, CACHED, FOLDED = "per-row strength = single calls", "cached = uncached", "folded = attached"
HALF = [torch.bfloat16, torch.float16]
# The effect is then some 7 % of the largest logit in bfloat16 and 1.4 % in float16.
WEAK = {torch.bfloat16: 0.05, torch.float16: 0.01}


def build(family, dtype, seed=0):
    """Logits as small, and as little chaotic, as transformers initialises them."""
    torch.manual_seed(seed)
    model = FAMILIES[family](initializer_range=0.02)
    return model.to(dtype).eval().requires_grad_(False)


def steered(model, scale, seed=1):
    steering = Steering.identity(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in steering.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return steering


def failed(report):
    return [check.name for check in report.checks if check.ok is False]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_all_is_well(family, dtype):
    for seed in range(3):
        model = build(family, dtype, seed)
        for scale in (0.3, 0.6 * WEAK[dtype])[seed > 0 :]:
            report = verify(model, steered(model, scale, seed + 50))
            assert report.ok, report
            assert {c.name for c in report.checks if c.ok} >= {ROWS, CACHED, FOLDED}


@pytest.mark.parametrize("dtype", HALF)
def test_a_steering_lost_under_the_cache_is_found(dtype):
    model = build("llama", dtype)
    forward = type(model).forward

    def fused(self, *args, **settings):
        """With a cache of past tokens the norms are passed by."""
        cache = settings.get("past_key_values")
        if cache is None or not cache.get_seq_length():
            return forward(self, *args, **settings)
        norms = [m for m in self.modules() if "Norm" in type(m).__name__]
        kept = [m._forward_hooks for m in norms]
        for norm in norms:
            norm._forward_hooks = OrderedDict()
        try:
            return forward(self, *args, **settings)
        finally:
            for norm, was in zip(norms, kept, strict=True):
                norm._forward_hooks = was

    model.__class__ = type("Fused", (type(model),), {"forward": fused})
    assert failed(verify(model, steered(model, WEAK[dtype]))) == [CACHED]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("weaker", [1, 0.6])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_a_steering_lost_in_the_fold_is_found(family, weaker, dtype, monkeypatch):
    model = build(family, dtype)
    monkeypatch.setattr(verifying, "fold", lambda root, *_: copy.deepcopy(root))
    report = verify(model, steered(model, weaker * WEAK[dtype]))
    assert failed(report) == [FOLDED]
    assert "100% of the effect is missing" in report.checks[-2].note


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("of", [torch.Tensor.max, torch.Tensor.mean, lambda s: s[0]])
def test_one_strength_for_all_rows_is_found(of, dtype, monkeypatch):
    def same(attachment, setting, h, key):
        found = factor.factor(attachment, setting, h, key)
        return of(setting.strength).to(found) if setting.per_row else found

    monkeypatch.setattr(hooks, "factor", same)
    model = build("llama", dtype)
    assert failed(verify(model, steered(model, WEAK[dtype]))) == [ROWS]


def test_what_rounding_hides_is_undecided_and_no_pass(monkeypatch):
    model = build("llama", torch.bfloat16)
    monkeypatch.setattr(verifying, "fold", lambda root, *_: copy.deepcopy(root))
    report = verify(model, steered(model, 0.005))
    (check,) = (c for c in report.checks if c.name == FOLDED)
    assert check.measured < check.tolerance
    assert check.ok is False
    assert check.note.startswith("undecided: 100% of the effect")


def test_float32_is_as_strict_as_its_tolerance():
    model = build("llama", torch.float32)
    report = verify(model, steered(model, 0.05))
    assert report.ok
    assert {c.tolerance for c in report.checks if c.name in (ROWS, CACHED, FOLDED)} == {1e-4}


def test_an_effect_below_the_tolerance_is_not_lost_in_float32_either(monkeypatch):
    model = build("llama", torch.float32)
    steering = steered(model, 2e-5)
    assert verify(model, steering).ok
    monkeypatch.setattr(verifying, "fold", lambda root, *_: copy.deepcopy(root))
    report = verify(model, steering)
    assert failed(report) == [FOLDED]
    assert report.checks[-2].measured < report.checks[-2].tolerance


def test_half_precision_weights_with_float32_logits_are_measured():
    """Some models compute their logits in float32, whatever the dtype of their weights."""

    def upcast(model, args, output):
        output.logits = output.logits.float()
        return output

    model = build("llama", torch.bfloat16)
    model.register_forward_hook(upcast)
    report = verify(model, steered(model, 0.1))
    assert report.ok, report


def test_share_lost_in_the_worst_part():
    effect = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    assert agreement.lost(torch.zeros(2, 2), effect) == 0
    assert agreement.lost(-effect, effect) == pytest.approx(1)
    # Only the second part has lost it, and half of it.
    assert agreement.lost(torch.tensor([[0, 0], [0, -2.5]]), effect) == pytest.approx(0.5)
    # Rounding at right angles to the effect says nothing of it.
    assert agreement.lost(torch.tensor([[4.0, -3.0], [9.0, 0.0]]), effect) == pytest.approx(0)
    assert agreement.lost(torch.ones(2, 2), torch.zeros(2, 2)) == 0
