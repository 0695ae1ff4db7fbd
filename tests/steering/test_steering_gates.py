"""Gates: decided from the unsteered prompt, once, whatever the batch and the cache."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steering_oracle import greedy, steered_logits
from steering_runs import MODES, NEW, run
from steering_zoo import FAMILIES, build, padded, prompts, random_steering
from transformers import DynamicCache

from equipoise.errors import SteeringError
from equipoise.models.backbone import decoder_blocks
from equipoise.steering import Affine, KernelGate, ProbeGate, Steering

# Read before everything that is steered, at a steered site, and after steered sites.
GATE_SITES = {"early": "{}.0", "late": "{}.2"}


def blocks(model):
    return decoder_blocks(model)[0][0].removesuffix(".0")


def unsteered(model, site, row):
    """Activation [tokens, d] at a site, of one row, without any steering."""
    seen = []
    handle = model.get_submodule(site).register_forward_hook(
        lambda _m, _a, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        model(torch.tensor([row]))
    handle.remove()
    return seen[0][0]


def kernel(site, of_prompt):
    """A kernel gate that opens on the first prompt and not on the second, and what it reads."""
    query = torch.randn(of_prompt[0].shape[1], generator=torch.Generator().manual_seed(6))
    read = torch.stack([torch.cat([(h @ query).softmax(0) @ h, h.mean(0)]) for h in of_prompt])
    scale = (1 / (read[0] - read[1]).norm()).expand(read.shape[1]).clone()
    return KernelGate(site, query, scale, read[:2] * scale, torch.tensor([4.0, -4.0])), read


def gated(model, place, scope="all", **options):
    """A steering of blocks 1 and 2 under a probe that splits the prompts."""
    site = GATE_SITES[place].format(blocks(model))
    of_prompt = [unsteered(model, site, row) for row in prompts()]
    if options.get("reads") == "attended":
        gate, read = kernel(site, of_prompt)
    else:
        mean = options.get("reads") == "mean"
        read = torch.stack([h.mean(0) if mean else h[-1] for h in of_prompt])
        weight = read[0] - read[1]
        bias = -(read[[0, 1]] @ weight).mean()
        gate = ProbeGate(site, weight, bias, **options)
    transforms = {
        key: t
        for key, t in random_steering(model).transforms.items()
        if not key.startswith(f"{blocks(model)}.0.")
    }
    decisions = gate(read)
    assert gate.soft or set(decisions.tolist()) == {0.0, 1.0}
    return Steering(transforms, scope=scope, gate=gate), decisions


@pytest.mark.parametrize(
    ("scope", "reads"),
    [("all", "last"), ("last_prompt+generated", "last"), ("all", "mean"), ("all", "attended")],
)
@pytest.mark.parametrize("place", GATE_SITES)
@pytest.mark.parametrize("family", FAMILIES)
def test_row_gate_in_generation_is_the_full_recomputation(family, place, scope, reads):
    model = build(family)
    steering, decisions = gated(model, place, scope, reads=reads)
    wanted = [
        greedy(model, steering, row, 0.8 * d, scope, NEW)
        for row, d in zip(prompts(), decisions.tolist(), strict=True)
    ]
    ids, mask = padded(prompts(), "left")
    with steering.applied(model, strength=0.8) as attachment:
        for mode, options in MODES.items():
            tokens, logits = run(model, ids, mask, **options)
            assert torch.equal(attachment.decisions, decisions), mode
            for i, (new, scores) in enumerate(wanted):
                assert tokens[i].tolist() == new, (mode, i)
                torch.testing.assert_close(logits[i], scores, atol=2e-4, rtol=1e-4)


def test_a_gate_that_reads_ahead_lets_the_model_draft_for_itself():
    model = build("llama")
    steering, _ = gated(model, "late")
    ids = torch.tensor([prompts()[1]])
    with steering.applied(model):
        wanted = run(model, ids, torch.ones_like(ids))[0]
        found = run(model, ids, torch.ones_like(ids), assistant_early_exit=1)[0]
    assert torch.equal(found, wanted)
    assert model.config.num_hidden_layers == 3


@pytest.mark.parametrize("reads", ["last", "mean"])
@pytest.mark.parametrize("place", GATE_SITES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_decisions_do_not_depend_on_batch_order_or_padding(place, side, reads):
    model = build("llama")
    steering, decisions = gated(model, place, soft=True, reads=reads)
    with steering.applied(model) as attachment, torch.no_grad():
        for order in ([0, 1, 2], [2, 0, 1], [1]):
            ids, mask = padded([prompts()[i] for i in order], side)
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            model(ids, attention_mask=mask, position_ids=positions)
            torch.testing.assert_close(attachment.decisions, decisions[order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("soft", [False, True])
def test_plain_forward_and_cached_continuation(soft):
    model = build("llama")
    steering, decisions = gated(model, "early", soft=soft)
    ids, mask = padded(prompts(), "right")
    with steering.applied(model, strength=0.6) as attachment, torch.no_grad():
        found = model(ids, attention_mask=mask).logits
        cache = DynamicCache()
        row = torch.tensor([prompts()[1]])
        model(row, past_key_values=cache)
        step = model(row[:, :1], past_key_values=cache).logits[0, -1]
        assert attachment.decisions.item() == pytest.approx(decisions[1].item(), abs=1e-5)
    for i, prompt in enumerate(prompts()):
        omega = 0.6 * decisions[i].item()
        wanted = steered_logits(model, steering, prompt, [omega] * len(prompt))
        torch.testing.assert_close(found[i][: len(prompt)], wanted, atol=2e-4, rtol=1e-4)
    whole = [*prompts()[1], prompts()[1][0]]
    wanted = steered_logits(model, steering, whole, [0.6 * decisions[1].item()] * 10)[-1]
    torch.testing.assert_close(step, wanted, atol=2e-4, rtol=1e-4)


def test_a_closed_gate_is_the_base_to_the_bit():
    model = build("llama")
    steering, _ = gated(model, "early")
    steering.gate.bias.fill_(-1e9)
    ids, mask = padded(prompts(), "right")
    with torch.no_grad():
        base = model(ids, attention_mask=mask).logits
        with steering.applied(model):
            assert torch.equal(model(ids, attention_mask=mask).logits, base)


def test_token_gate_decides_each_token_by_itself():
    """FairSteer's layout: probe and vector at the same block, generated tokens included."""
    model = build("llama")
    site = "model.layers.1"
    row = prompts()[1]
    acts = unsteered(model, site, row)
    weight = torch.randn(24, generator=torch.Generator().manual_seed(5))
    bias = -(acts @ weight).median()
    steering = Steering(
        {site: Affine(torch.full((24,), 0.2), torch.full((24,), 0.1))},
        gate=ProbeGate(site, weight, bias, unit="token"),
    )
    decisions = steering.gate(acts)
    assert 0 < decisions.sum() < 9
    wanted = steered_logits(model, steering, row, decisions.tolist())
    with steering.applied(model), torch.no_grad():
        ids = torch.tensor([row])
        torch.testing.assert_close(model(ids).logits[0], wanted, atol=2e-4, rtol=1e-4)
        cached, _ = run(model, ids, torch.ones_like(ids))
        again, _ = run(model, ids, torch.ones_like(ids), use_cache=False)
        assert torch.equal(cached, again)


@pytest.mark.parametrize("place", GATE_SITES)
def test_a_kept_cache_and_another_prompt(place):
    """The gate is asked of the new prompt; what is cached must have been run under its answer."""
    model = build("llama")
    steering, _ = gated(model, place)
    kept, outcomes = {"max_new_tokens": 2, "do_sample": False, "return_dict_in_generate": True}, []
    with steering.applied(model, strength=0.8) as attachment:
        for row, more in itertools.product(prompts(), repeat=2):
            first = torch.tensor([row])
            out = model.generate(first, attention_mask=torch.ones_like(first), **kept)
            before = attachment.decisions
            second = torch.cat([out.sequences, torch.tensor([more])], 1)
            mask = torch.ones_like(second)
            wanted = run(model, second, mask)
            outcomes.append(torch.equal(attachment.decisions, before))
            if outcomes[-1]:
                found = run(model, second, mask, past_key_values=out.past_key_values)
                assert torch.equal(found[0], wanted[0])
                torch.testing.assert_close(found[1], wanted[1], atol=2e-4, rtol=1e-4)
            else:
                with pytest.raises(SteeringError, match="other gate decisions"):
                    run(model, second, mask, past_key_values=out.past_key_values)
    assert set(outcomes) == {True, False}


def test_a_decision_is_not_taken_to_a_prompt_of_another_length():
    model = build("llama")
    steering, _ = gated(model, "early")
    ids = torch.tensor([prompts()[1]])
    with steering.applied(model, strength=0.8) as attachment, torch.no_grad():
        cache = DynamicCache()
        model(ids, past_key_values=cache)
        with pytest.raises(SteeringError, match="where the prompt ends"):
            model(ids, past_key_values=cache)
        attachment.prompt_lengths = [18]
        with pytest.raises(SteeringError, match="the gate decided on prompts of other lengths"):
            model(ids, past_key_values=cache)
        attachment.prompt_lengths = [9]
        model(ids, past_key_values=cache)


def test_decisions_the_caller_sets():
    model = build("llama")
    steering, _ = gated(model, "late")
    row = prompts()[1]
    with steering.applied(model) as attachment, torch.no_grad():
        attachment.decision = torch.tensor([0.25])
        found = model(torch.tensor([row])).logits[0]
    wanted = steered_logits(model, steering, row, [0.25] * 9)
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-4)


def test_what_a_gate_cannot_tell_raises():
    model, ids = build("llama"), torch.tensor([prompts()[1]])
    steering, _ = gated(model, "early")
    late, _ = gated(model, "late", unit="token")
    with pytest.raises(SteeringError, match="would read steered"):
        late.attach(model)
    unsteered_cache = DynamicCache()
    with torch.no_grad():
        model(ids, past_key_values=unsteered_cache)
    with (
        steering.applied(model, strength=0.0),
        torch.no_grad(),
        pytest.raises(SteeringError, match="cached before"),
    ):
        model(ids[:, :1], past_key_values=unsteered_cache)
    with steering.applied(model) as attachment, torch.no_grad():
        cache = DynamicCache()
        model(ids, past_key_values=cache)
        attachment.decision = 1 - attachment.decisions
        with pytest.raises(SteeringError, match="other gate decisions"):
            model(ids[:, :1], past_key_values=copy.deepcopy(cache))
    over_the_mean, _ = gated(model, "early", reads="mean")
    with over_the_mean.applied(model) as attachment, torch.no_grad():
        attachment.prompt_lengths = [10]  # one more than there are
        with pytest.raises(SteeringError, match="whole prompt"):
            model(ids)
    with pytest.raises(SteeringError, match="'mean' for unit 'row'"):
        ProbeGate("model.layers.0", torch.ones(2), unit="token", reads="mean")
    with pytest.raises(SteeringError, match="finite"):
        ProbeGate("model.layers.0", torch.tensor([float("nan")]))
    with pytest.raises(SteeringError, match="threshold"):
        ProbeGate("model.layers.0", torch.ones(2), threshold=2.0)
    with pytest.raises(SteeringError, match="logit_threshold must be finite"):
        ProbeGate("model.layers.0", torch.ones(2), logit_threshold=float("inf"))
    vectors = torch.ones(2), torch.ones(4), torch.ones(3, 4), torch.ones(3)
    with pytest.raises(SteeringError, match="do not fit"):
        KernelGate("model.layers.0", *vectors[:3], torch.ones(2))
    with pytest.raises(SteeringError, match="finite"):
        KernelGate("model.layers.0", *vectors, float("inf"))
    with pytest.raises(SteeringError, match="no module"):
        Steering(steering.transforms, gate=ProbeGate("model.layer.0", torch.ones(24))).attach(model)
    assert not any(m._forward_hooks for m in model.modules())


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-3, 3, width=32), min_size=3, max_size=3),
    st.floats(-2, 2),
    st.floats(0.01, 0.99),
)
def test_hard_is_soft_cut_at_the_threshold(values, bias, threshold):
    weight = torch.tensor([1.0, -2.0, 0.5])
    h = torch.tensor(values)
    soft = ProbeGate("x", weight, bias, soft=True)(h)
    assert soft.item() == pytest.approx(torch.sigmoid(h @ weight + bias).item(), abs=1e-5)
    hard = ProbeGate("x", weight, bias, threshold=threshold)(h)
    assert hard.item() == float(soft.item() >= threshold)


def test_a_logit_tells_apart_what_is_one_to_rounding():
    h = torch.tensor([[20.0], [30.0]])
    gate = ProbeGate("x", torch.ones(1))
    gate.cut_at(25.0)
    assert gate.probability(h).tolist() == [1.0, 1.0]
    assert gate(h).tolist() == [0.0, 1.0]
    assert gate.settings()["logit_threshold"] == 25.0
    assert 1 - 1e-10 < gate.threshold < 1
    gate.cut_at(-5000.0)
    assert 0 <= gate.threshold < 1e-300
    gate.threshold = 0.9  # by hand it is p again
    assert gate(h).tolist() == [1.0, 1.0]
    assert "logit_threshold" not in gate.settings()


def test_kernel_gate_is_its_equation():
    generator = torch.Generator().manual_seed(0)
    query, scale, weight = (torch.randn(n, generator=generator) for n in (3, 6, 5))
    centres = torch.randn(5, 6, generator=generator)
    gate = KernelGate("x", query, scale, centres, weight, 0.25, soft=True)
    h = torch.randn(2, 4, 3, generator=generator)
    inside = torch.tensor([[False, True, True, True], [True, True, False, False]])
    h[~inside] = float("nan")
    found = gate(gate.pool(h, inside))
    for row in range(2):
        tokens = h[row, inside[row]]
        x = torch.cat([(tokens @ query).softmax(0) @ tokens, tokens.mean(0)]) * scale
        total = sum(w * (-((x - z) ** 2).sum()).exp() for w, z in zip(weight, centres, strict=True))
        torch.testing.assert_close(found[row], torch.sigmoid(total + 0.25))
