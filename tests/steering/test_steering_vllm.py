"""Steering in vLLM, with a stand-in for vLLM; ``scripts/test_vllm.sh`` runs the real one."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from steering_zoo import build, random_steering

from equipoise.errors import SteeringError
from equipoise.models.fingerprint import fingerprint
from equipoise.steering import Additive, Affine, ProbeGate, Steering
from equipoise.steering.verify import verify
from equipoise.steering.vllm import WORKER, attach, check, probe
from equipoise.steering.vllm.worker import SteeringWorker

STAND_INS = str(Path(__file__).parent / "stand_ins")


def in_vllm(report):
    return {c.name: c for c in report.checks if "vllm" in c.name.lower()}


@pytest.fixture
def model():
    return build("llama")


@pytest.fixture
def foldable(model):
    steering = Steering.identity(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in steering.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return steering


@pytest.fixture
def vllm(monkeypatch):
    """The stand-in, in this process or any that it starts."""
    monkeypatch.setenv("PYTHONPATH", STAND_INS)
    monkeypatch.syspath_prepend(STAND_INS)
    importlib.invalidate_caches()
    sys.modules.pop("vllm", None)
    yield importlib.import_module("vllm")
    sys.modules.pop("vllm", None)


@pytest.fixture
def here(monkeypatch):
    """The probe in this process: starting one takes seconds."""

    def run(command, **_settings):
        probe.main(*command[3:])

    monkeypatch.setattr(check.subprocess, "run", run)


@pytest.fixture
def engine(vllm, model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return vllm.LLM(str(tmp_path / "model"), enforce_eager=True, worker_extension_cls=WORKER)


# ---- verify


def test_where_vllm_is_not_installed_it_is_skipped_and_said(model, foldable, monkeypatch):
    monkeypatch.setattr(check, "find_spec", lambda _: None)
    report = verify(model, foldable)
    assert report.ok
    entry = json.loads(json.dumps(report.to_dict()))["checks"][-1]
    assert (entry["name"], entry["ok"]) == ("vllm", None)
    assert entry["note"] == "skipped: vllm is not installed"
    with pytest.raises(SteeringError, match="not installed"):
        verify(model, foldable, vllm=True)


def test_it_can_be_left_out(model, foldable, vllm):
    assert in_vllm(verify(model, foldable, vllm=False))["vllm"].note == "skipped: left out"


def test_attached_in_a_process_of_its_own(model, vllm):
    found = in_vllm(verify(model, random_steering(model), strength=0.7))
    assert found[check.LIVE].ok, found
    assert found[check.FOLDED].ok is None
    assert "model.norm" in found[check.FOLDED].note  # its bias has no home: no failure, but said


def test_attached_and_folded_are_the_same(model, foldable, vllm, here):
    found = in_vllm(verify(model, foldable, strength=0.7))
    assert list(found) == [check.LIVE, check.FOLDED]
    for entry in found.values():
        assert entry.ok, entry
        assert entry.measured <= entry.tolerance == 1e-4
        assert "100% of greedy tokens the same" in entry.note
        assert "100% of the effect" in entry.note


def test_a_bias_lost_on_loading_is_found(model, foldable, vllm, here, monkeypatch):
    monkeypatch.setenv("STAND_IN", "drops")
    report = verify(model, foldable)
    found = in_vllm(report)
    assert found[check.LIVE].ok is True
    assert found[check.FOLDED].ok is False
    assert found[check.FOLDED].measured > 1e-4
    assert not report.ok


def test_an_unsteered_vllm_is_found_where_rounding_would_hide_it(model, vllm):
    """In bfloat16 the tolerance is wider than the effect of a small steering."""
    steering = random_steering(model, scale=0.005)
    bench = check_bench(model.bfloat16(), steering)
    base = run_here(bench, 0.0)
    entry = check.compare(bench, "x", base, base)
    assert entry.measured < entry.tolerance
    assert entry.ok is False
    assert "0% of the effect" in entry.note
    assert check.compare(bench, "x", base, run_here(bench, 1.0)).ok


def test_a_greedy_token_the_model_would_not_choose_is_found(model, foldable):
    bench = check_bench(model, foldable)
    base, steered = run_here(bench, 0.0), run_here(bench, 1.0)
    worst = bench.root(torch.tensor(steered.tokens)).logits[0, -2].argmin().item()
    with foldable.applied(model):
        tokens = torch.tensor(steered.tokens)
        tokens[0, -1] = worst
        logprob = model(tokens).logits[0, -2].log_softmax(-1)[worst].item()
    logprobs = [list(row) for row in steered.logprobs]
    logprobs[0][-1] = logprob  # truly told, but not the best
    wrong = probe.Output(tokens.tolist(), logprobs)
    assert check.compare(bench, "x", base, wrong).ok is False


def test_a_model_vllm_does_not_run_is_said_with_its_reason(
    model, foldable, vllm, here, monkeypatch
):
    monkeypatch.setenv("STAND_IN", "refuses")
    report = verify(model, foldable)
    note = in_vllm(report)["vllm"].note
    assert note == "skipped: vLLM stand-in does not run this model here: Unsupported head size"
    assert report.ok


def test_a_probe_that_dies_is_told_by_its_last_word(model, foldable, vllm, monkeypatch):
    class Died:
        returncode, stderr = 1, "loading\nkilled\n"

    monkeypatch.setattr(check.subprocess, "run", lambda *_args, **_settings: Died)
    assert in_vllm(verify(model, foldable))["vllm"].note.endswith("killed")


def test_a_steering_of_zeros_divides_by_nothing(model, vllm, here):
    found = in_vllm(verify(model, Steering.identity(model)))
    assert "too small an effect" in found[check.LIVE].note


def test_what_vllm_cannot_do_is_skipped_with_its_reason(model, foldable, vllm):
    scoped = Steering(foldable.transforms, scope="prompt")
    gated = Steering(foldable.transforms, gate=ProbeGate("model.layers.1", torch.ones(24), 0.0))
    for steering in (scoped, gated):
        assert "token scope" in in_vllm(verify(model, steering))["vllm"].note
    assert "float64" in in_vllm(verify(model.double(), foldable))["vllm"].note


# ---- attached to an engine


def logprobs(engine):
    request = probe.Request("", "float32", [[5, 9, 3, 7]], 3)
    return torch.tensor(probe._generate(engine, request).logprobs)


def test_attach_set_strength_detach(engine, model):
    steering = random_steering(model, scale=0.2)
    base = logprobs(engine)
    attachment = attach(engine, steering, 0.5)
    seen = {0.5: logprobs(engine)}
    for strength in (1.0, 0.0):
        resets = engine.resets
        attachment.strength = strength
        assert engine.resets > resets  # what was cached at another strength is gone
        assert attachment.strength == strength
        seen[strength] = logprobs(engine)
    assert torch.equal(seen[0.0], base)
    assert (seen[1.0] - base).abs().max() > (seen[0.5] - base).abs().max() / 2 > 0
    attachment.detach()
    assert torch.equal(logprobs(engine), base)


def test_another_steering_takes_the_place_of_the_first(engine, model):
    second = random_steering(model, scale=0.1)
    attach(engine, second)
    alone = logprobs(engine)
    attach(engine, random_steering(model, scale=0.5))
    assert not torch.equal(logprobs(engine), alone)
    attach(engine, second)
    assert torch.equal(logprobs(engine), alone)


def test_sites_vllm_does_not_call_raise(vllm, model, tmp_path, monkeypatch):
    monkeypatch.setenv("STAND_IN", "deaf")
    model.save_pretrained(tmp_path)
    engine = vllm.LLM(str(tmp_path), enforce_eager=True, worker_extension_cls=WORKER)
    with pytest.raises(SteeringError, match=r"vLLM does not call model\.layers\.0"):
        attach(engine, random_steering(model))
    assert not engine.worker._equipoise_sites


@pytest.mark.parametrize("strength", [float("nan"), [0.1, 0.2], torch.ones(2), "1"])
def test_one_finite_strength_for_all(engine, model, strength):
    with pytest.raises(SteeringError, match="one finite number"):
        attach(engine, random_steering(model), strength)


BAD = {
    "no module": ({"model.layers.9.input_layernorm": Additive(torch.ones(24))}, "no module"),
    "another width": ({"model.norm": Additive(torch.ones(8))}, "8 wide"),
    "an input": ({"model.norm@input": Additive(torch.ones(24))}, "only what a norm returns"),
    "a linear": ({"model.layers.0.mlp": Additive(torch.ones(24))}, "not a LlamaMLP"),
}


@pytest.mark.parametrize(("transforms", "message"), BAD.values(), ids=BAD)
def test_sites_that_do_not_fit(engine, transforms, message):
    with pytest.raises(SteeringError, match=message):
        attach(engine, Steering(transforms))


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("parallel_config", "worker_extension_cls", "", "worker_extension_cls"),
        ("parallel_config", "world_size", 2, "several workers"),
        ("model_config", "enforce_eager", False, "enforce_eager"),
        (None, "kv_transfer_config", object(), "KV cache"),
    ],
)
def test_engines_that_would_not_follow(engine, model, part, name, value, message):
    config = engine.llm_engine.vllm_config
    setattr(getattr(config, part) if part else config, name, value)
    with pytest.raises(SteeringError, match=message):
        attach(engine, random_steering(model))


def test_running_requests(engine, model):
    attachment = attach(engine, random_steering(model))
    engine.llm_engine.has_unfinished_requests = lambda: True
    with pytest.raises(SteeringError, match="working on requests"):
        attachment.strength = 0.5
    engine.llm_engine.has_unfinished_requests = lambda: False
    engine.reset_prefix_cache = lambda: False
    with pytest.raises(SteeringError, match="working on requests"):
        attachment.detach()


def test_gates_and_scopes(engine, model):
    transforms = random_steering(model).transforms
    with pytest.raises(SteeringError, match="token scope 'prompt'"):
        attach(engine, Steering(transforms, scope="prompt"))
    with pytest.raises(SteeringError, match="a gate"):
        attach(engine, Steering(transforms, gate=ProbeGate("model.layers.1", torch.ones(24), 0.0)))


def test_another_models_weights(engine, model, monkeypatch):
    steering = random_steering(model)
    steering.info.fingerprint = fingerprint(build("llama", initializer_range=0.2))
    monkeypatch.setattr(
        sys.modules["equipoise.models.load"], "load", lambda *_args, **_settings: model
    )
    with pytest.raises(SteeringError, match="other weights"):
        attach(engine, steering)
    attach(engine, steering, allow_mismatch=True)


def test_offline_vllm_names_the_cached_folder_and_keeps_the_revision(engine, model, monkeypatch):
    steering, asked = random_steering(model), []
    steering.info.fingerprint = fingerprint(model)
    engine.llm_engine.vllm_config.model_config.revision = "main"

    def load(name, *, revision, **_):
        asked.append(revision)
        return model

    monkeypatch.setattr(sys.modules["equipoise.models.load"], "load", load)
    attach(engine, steering)
    assert asked == [None]


def test_a_norm_that_adds_the_residual_keeps_what_it_returns_beside():
    class FusedRMSNorm(torch.nn.Module):
        """As in vLLM: with a residual it returns the sum as well."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(4))

        def forward(self, x, residual=None):
            return x if residual is None else (x + residual, residual)

    root = torch.nn.Module()
    root.norm = FusedRMSNorm()
    # A name of transformers' that vLLM's loader translates.
    root.hf_to_vllm_mapper = type(
        "Mapper", (), {"apply_list": lambda _, names: [n.removeprefix("model.") for n in names]}
    )()
    worker = SteeringWorker()
    worker.model_runner = type("Runner", (), {"get_model": lambda _: root})()
    a, b = torch.full((4,), 0.5), torch.arange(4.0)
    steering = Steering({"model.norm": Affine(a, b)})
    x, residual = torch.ones(3, 4), torch.full((3, 4), 2.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Steering, "from_pretrained", lambda _folder: steering)
        assert worker.equipoise_attach("folder", 0.5) == ""
    steered, kept = root.norm(x, residual)
    assert torch.allclose(steered, 3 + 0.5 * (a * 3 + b))
    assert torch.equal(kept, residual)
    assert torch.allclose(root.norm(x), 1 + 0.5 * (a + b))


# ---- helpers


def check_bench(model, steering):
    from equipoise.steering.prompts import random_prompts
    from equipoise.steering.verify import Bench

    with torch.no_grad():
        return Bench(model, steering, 1.0, random_prompts(model, 3, 12))


@torch.no_grad()
def run_here(bench, strength):
    """What vLLM would say if it were transformers."""
    with bench.steering.applied(bench.root, strength):
        tokens = bench.root.generate(bench.ids, max_new_tokens=4, do_sample=False)
        found = bench.logits(tokens).float().log_softmax(-1)[:, :-1]
    logprobs = found.gather(-1, tokens[:, 1:, None])[..., 0]
    return probe.Output(tokens.tolist(), logprobs.tolist())
