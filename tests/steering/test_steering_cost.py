"""What a steered pass costs: one activation a site, and nothing stale for the sake of speed."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from steering_oracle import steered_logits
from steering_runs import logits
from steering_zoo import build, prompts, random_steering

from equipoise.models.backbone import norm_sites
from equipoise.steering import Additive, Affine, ProbeGate, Replace, Scale, Steering

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def speed(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import speed

    return speed


@pytest.fixture
def model():
    return build("llama")


def test_the_benchmark_runs_prints_and_finds_its_targets_for_memory(
    speed, tmp_path, capsys, monkeypatch
):
    argv = ["speed.py", "--quick", "--workloads", "decode-32", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", argv)
    speed.main()
    (part,) = json.loads((tmp_path / "speed.json").read_text())["parts"]
    variants = part["variants"]
    for name in ("affine at every norm", "additive at every block", "affine, one strength per row"):
        assert variants[name]["peak_activations"] <= 1
        assert 0.99 < variants[name]["allocated_activations"] <= 1.01
        assert variants[name]["moved"] > 0.01
    assert variants["folded"]["allocated_activations"] == 0
    assert variants["affine at every norm"]["differs"] < 1e-4  # from the folded model
    assert variants["additive at every block"]["differs"] < 1e-4  # from bare hooks
    assert "| equipoise | affine at every norm | " in capsys.readouterr().out


def test_the_benchmark_says_what_it_could_not_run(speed, tmp_path, capsys, monkeypatch):
    def refuse(job, asked):
        raise speed.PartError("pip: no network")

    monkeypatch.setattr(speed, "_run", refuse)
    monkeypatch.setattr(sys, "argv", ["speed.py", "--out", str(tmp_path)])
    speed.main()
    assert "pyvene, decode-1: not run: pip: no network" in capsys.readouterr().out
    parts = json.loads((tmp_path / "speed.json").read_text())["parts"]
    assert {part["error"] for part in parts} == {"pip: no network"}


@pytest.mark.parametrize("settings", ["last_prompt", "soft gate", "token gate"])
def test_what_differs_by_token_allocates_one_activation_too(speed, model, settings):
    ids = torch.randint(3, 61, (4, 60), generator=torch.Generator().manual_seed(0))
    sites, v = norm_sites(model), torch.randn(24)
    kinds = [Affine(v, v), Affine(v), Affine(b=v), Additive(v), Scale(v), Replace(v), Affine(v, v)]
    transforms = {s.key: kind for s, kind in zip(sites, kinds, strict=True)}
    if settings == "last_prompt":
        steering = Steering(transforms, scope="last_prompt")
    else:
        unit = "token" if settings == "token gate" else "row"
        site = "model.embed_tokens"
        steering = Steering(transforms, gate=ProbeGate(site, v, soft=True, unit=unit))
    steered = copy.deepcopy(model)
    cpu, activation = torch.device("cpu"), ids.numel() * 24 * 4
    with steering.applied(steered, 0.5):
        more, base = (
            speed.measure.memory(lambda m=m: logits(m, ids), cpu) for m in (steered, model)
        )
    assert more[0] - base[0] <= activation
    # A gate reads one activation more; the rest is numbers per token and per row.
    assert (more[1] - base[1]) / activation < len(sites) + 2


def test_what_is_kept_between_calls_is_never_stale(model):
    steering, ids = random_steering(model, scale=0.1), torch.tensor([prompts()[1]])
    wanted = steered_logits(model, steering, prompts()[1], [1.0] * 9)
    block = model.model.layers[0].input_layernorm
    h = torch.randn(1, 9, 24)
    with steering.applied(model), torch.no_grad():
        torch.testing.assert_close(logits(model, ids)[0], wanted, atol=2e-4, rtol=1e-4)
        model.to(torch.bfloat16)  # another dtype
        assert logits(model, ids).dtype == torch.bfloat16
        model.to(torch.float32)
        plain = torch.nn.functional.rms_norm(h, (24,), block.weight, block.variance_epsilon)
        transform = steering.transforms["model.layers.0.input_layernorm"]
        torch.testing.assert_close(block(h), transform(plain, torch.tensor(1.0)))
        transform.a.mul_(0.5)  # between two calls of a part of the model
        torch.testing.assert_close(block(h), transform(plain, torch.tensor(1.0)))


def test_a_pass_that_broke_off_leaves_nothing_behind(model):
    steering, ids = random_steering(model), torch.tensor([prompts()[1]])
    norm = model.model.norm
    with steering.applied(model):
        logits(model, ids)

        def fail(*_):
            raise ZeroDivisionError

        handle = norm.register_forward_hook(fail)
        with pytest.raises(ZeroDivisionError):
            logits(model, ids)
        handle.remove()
        with torch.no_grad():
            for parameter in steering.parameters():
                parameter.mul_(0.5)
        found = logits(model, ids)[0]
    wanted = steered_logits(model, steering, prompts()[1], [1.0] * 9)
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-4)


def test_a_mask_of_a_pass_that_broke_off_is_not_the_next_ones(model):
    ids, mask = torch.tensor([prompts()[1]]), torch.ones(1, 9, dtype=torch.long)
    mask[0, :4] = 0
    with random_steering(model, scope="positions:0:3").applied(model), torch.no_grad():
        wanted = model.model(ids).last_hidden_state
        handle = model.model.norm.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(ids, attention_mask=mask)
        handle.remove()
        assert torch.equal(model.model(ids).last_hidden_state, wanted)
