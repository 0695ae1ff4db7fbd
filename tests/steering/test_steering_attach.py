"""Attach, set, detach: per-row strength, several steerings, copies, threads, mistakes."""

from __future__ import annotations

import copy
import io
import pickle
import threading
import warnings

import pytest
import torch
from steering_oracle import greedy, steered_logits
from steering_zoo import FAMILIES, build, llama, padded, prompts, random_steering
from transformers import DynamicCache

from equipoise.errors import SteeringError
from equipoise.models.backbone import head_sites, mlp_sites, norm_sites, residual_sites
from equipoise.steering import Additive, Affine, Replace, Scale, Steering


@pytest.fixture
def model():
    return build("llama")


def logits(model, ids, **settings):
    with torch.no_grad():
        return model(ids, **settings).logits


@pytest.mark.parametrize("family", [*FAMILIES, "opt", "mamba"])
def test_base_is_restored_and_zero_is_the_base(family):
    model, ids = build(family), torch.tensor([prompts()[1]])
    before = logits(model, ids)
    attributes = {name: set(vars(m)) for name, m in model.named_modules()}
    with random_steering(model).applied(model, strength=0.0) as attachment:
        assert torch.equal(logits(model, ids), before)
        attachment.strength = torch.zeros(1)
        assert torch.equal(model(ids).logits, before)
        attachment.strength = 1.0
        assert not torch.allclose(logits(model, ids), before, atol=1e-2)
    assert torch.equal(logits(model, ids), before)
    assert {name: set(vars(m)) for name, m in model.named_modules()} == attributes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("parameters", ["both", "slope", "bias"])
def test_identity_is_the_base(model, parameters):
    ids = torch.tensor([prompts()[1]])
    steering = Steering.identity(model, parameters, foldable=False)
    assert (steering.n_nonzero, steering.n_parameters) == (0, 7 * 24 * (1 + (parameters == "both")))
    before = logits(model, ids)
    with steering.applied(model):
        assert torch.equal(logits(model, ids), before)


def test_many_strengths_are_many_calls(model):
    """A batch of 32 different strengths is 32 single calls."""
    steering, strengths = random_steering(model), torch.linspace(0, 1, 32)
    ids = torch.randint(3, 61, (32, 7), generator=torch.Generator().manual_seed(0))
    with steering.applied(model, strength=strengths):
        together = logits(model, ids)
    for row, strength, found in zip(ids, strengths.tolist(), together, strict=True):
        wanted = steered_logits(model, steering, row.tolist(), [strength] * 7)
        torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("scope", ["prompt", "last_prompt", "positions:1:4"])
def test_padding_changes_nothing(model, scope, side):
    steering = Steering(random_steering(model).transforms, scope=scope)
    ids, mask = padded(prompts(), side)
    with steering.applied(model):
        # Left-padded rows need their positions told, as generate does.
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        together = logits(model, ids, attention_mask=mask, position_ids=positions)
        for i, row in enumerate(prompts()):
            alone = logits(model, torch.tensor([row]))[0]
            torch.testing.assert_close(together[i][mask[i].bool()], alone, atol=2e-4, rtol=1e-4)


def test_prompt_lengths_and_mask_tell_what_the_cache_cannot(model):
    plain, row = random_steering(model), prompts()[1]
    ids = torch.tensor([row])
    with Steering(plain.transforms, scope="generated").applied(model) as attachment:
        assert torch.equal(logits(model, ids), logits(copy.deepcopy(model), ids))
        attachment.prompt_lengths = [4]
        found = logits(model, ids)[0]
    torch.testing.assert_close(
        found, steered_logits(model, plain, row, [0.0] * 4 + [1.0] * 5), atol=2e-4, rtol=1e-4
    )
    with Steering(plain.transforms, scope="mask").applied(model) as attachment:
        with pytest.raises(SteeringError, match=r"set attachment\.mask"):
            logits(model, ids)
        attachment.mask = torch.arange(9)[None] % 2 == 0
        found = logits(model, ids)[0]
    omega = [float(t % 2 == 0) for t in range(9)]
    torch.testing.assert_close(
        found, steered_logits(model, plain, row, omega), atol=2e-4, rtol=1e-4
    )


def test_strengths_of_prompts_go_on_after_a_batch_of_beams(model):
    """What was prepared for four beams is not what two rows are steered by."""
    ids = torch.tensor([prompts()[1]] * 2)
    with random_steering(model).applied(model, strength=[0.2, 0.9]):
        before = logits(model, ids)
        how = {"num_beams": 2, "do_sample": False, "max_new_tokens": 2}
        model.generate(ids, attention_mask=torch.ones_like(ids), **how)
        assert torch.equal(logits(model, ids), before)


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_mask_means_its_own_columns_while_the_model_writes(model, use_cache):
    """Of the prompt those it names, of what is written none, whether it is read anew or not."""
    plain, ids = random_steering(model), torch.tensor([prompts()[1]])
    with Steering(plain.transforms, scope="mask").applied(model) as attachment:
        attachment.mask = torch.arange(9)[None] % 2 == 0
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=4,
            do_sample=False,
            use_cache=use_cache,
            return_dict_in_generate=True,
            output_logits=True,
        )
    omega = [float(t % 2 == 0) for t in range(9)] + [0.0] * 3
    wanted = steered_logits(model, plain, out.sequences[0, :-1].tolist(), omega)[8:]
    torch.testing.assert_close(torch.stack(out.logits, 1)[0], wanted, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "sites", [norm_sites, residual_sites, mlp_sites, head_sites], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_site_and_transform(family, sites):
    """ĥ against the formula, for the activation that the next module really gets."""
    model, ids = build(family), torch.tensor([prompts()[1]])
    site = sites(model)[1]
    vector = torch.randn(site.width, generator=torch.Generator().manual_seed(3))
    seen = []

    def spy(_module, args, output=None):
        value = args if site.end == "input" else output
        seen.append(value[0] if isinstance(value, tuple) else value)

    module = model.get_submodule(site.path)
    register = module.register_forward_pre_hook
    if site.end == "output":
        register = module.register_forward_hook
    handle = register(spy)
    logits(model, ids)
    handle.remove()
    h, w = seen.pop(), 0.25
    for transform, wanted in [
        (Affine(vector, 2 * vector), h + w * (vector * h + 2 * vector)),
        (Affine(b=vector), h + w * vector),
        (Additive(vector), h + w * vector),
        (Scale(vector), h + w * (vector - 1) * h),
        (Replace(vector), h + w * (vector - h)),
    ]:
        with Steering({site.key: transform}).applied(model, strength=w):
            handle = register(spy)  # after the steering's own hook
            logits(model, ids)
            handle.remove()
        torch.testing.assert_close(seen.pop(), wanted, atol=1e-5, rtol=1e-5)


def test_one_head_leaves_the_others_alone(model):
    site = head_sites(model)[0]
    assert (site.heads, site.width) == (4, 24)  # query heads, though there are two key heads
    seen = []
    module = model.get_submodule(site.path)
    with Steering({site.head(2): Replace(torch.full((6,), 7.0))}).applied(model):
        handle = module.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
        logits(model, torch.tensor([prompts()[0]]))
        handle.remove()
    assert (seen[0] == 7.0).sum() == 3 * 6
    assert bool((seen[0][..., 12:18] == 7.0).all())


def test_strength_is_differentiable_and_so_are_the_parameters(model):
    steering, ids = random_steering(model), torch.tensor([prompts()[0]] * 2)
    strength = torch.tensor([0.3, 0.6], requires_grad=True)
    with steering.applied(model, strength=strength) as attachment:
        model(ids).logits[:, -1, 5].sum().backward()
        eps = 1e-2
        for row in range(2):
            values = []
            for sign in (1, -1):
                moved = strength.detach().clone()
                moved[row] += sign * eps
                attachment.strength = moved
                values.append(logits(model, ids)[row, -1, 5].item())
            slope = (values[0] - values[1]) / (2 * eps)
            assert strength.grad[row].item() == pytest.approx(slope, rel=2e-2, abs=1e-3)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in steering.parameters())


def test_an_optimiser_step_takes_effect(model):
    """The coefficients kept between calls follow the parameters."""
    steering, ids = random_steering(model), torch.tensor([prompts()[0]])
    with steering.applied(model):
        before = logits(model, ids)
        with torch.no_grad():
            for parameter in steering.parameters():
                parameter.mul_(0.5)
        after = logits(model, ids)
    wanted = steered_logits(model, steering, prompts()[0], [1.0] * 3)
    torch.testing.assert_close(after[0], wanted, atol=2e-4, rtol=1e-4)
    assert not torch.allclose(before, after)


def test_several_steerings_each_at_its_strength(model):
    one = random_steering(model)
    two = Steering({k: Affine(t.b, t.a) for k, t in one.transforms.items()})
    ids = torch.tensor([prompts()[1]])
    with one.applied(model, strength=0.5):
        alone = logits(model, ids)
        with two.applied(model, strength=0.2) as inner:
            both = logits(model, ids)
            inner.strength = 0.0
            assert torch.equal(logits(model, ids), alone)
        assert torch.equal(logits(model, ids), alone)
    a, b = [], []
    for key, first in one.transforms.items():
        second = two.transforms[key]
        gain = (1 + 0.5 * first.a) * (1 + 0.2 * second.a) - 1
        shift = 0.5 * first.b * (1 + 0.2 * second.a) + 0.2 * second.b
        a.append(gain)
        b.append(shift)
    product = Steering({k: Affine(a[i], b[i]) for i, k in enumerate(one.transforms)})
    wanted = steered_logits(model, product, prompts()[1], [1.0] * 9)
    torch.testing.assert_close(both[0], wanted, atol=5e-4, rtol=1e-3)


def test_a_copy_of_a_steering_is_another_steering(model):
    one = random_steering(model)
    two, ids = copy.deepcopy(one), torch.tensor([prompts()[0]])
    assert (one.digest, one.uid == two.uid) == (two.digest, False)
    with one.applied(model, strength=0.5):
        alone = logits(model, ids)
        with two.applied(model, strength=0.5):
            assert not torch.equal(logits(model, ids), alone)


def test_an_exception_leaves_the_base(model):
    ids = torch.tensor([prompts()[0]])
    before = logits(model, ids)
    with pytest.raises(ZeroDivisionError), random_steering(model).applied(model):
        raise ZeroDivisionError
    assert torch.equal(logits(model, ids), before)
    attachment = random_steering(model).attach(model)
    attachment.detach()
    attachment.detach()
    assert torch.equal(logits(model, ids), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    model, ids = build("llama"), torch.tensor([prompts()[1]])
    steering = random_steering(model, scale=0.1)
    model = model.to(dtype)
    before = logits(model, ids)
    with steering.applied(model, strength=1.0) as attachment:
        found = logits(model, ids)
        attachment.strength = torch.zeros(1)
        assert torch.equal(logits(model, ids), before)
    assert found.dtype == dtype
    wanted = steered_logits(model.float(), steering, prompts()[1], [1.0] * 9)
    spread = wanted.std()
    assert ((found[0].float() - wanted).abs().max() / spread) < (
        0.2 if dtype == torch.bfloat16 else 0.03
    )


def test_copies_of_a_steered_model_are_steered(model):
    steering, ids = random_steering(model, scope="prompt"), torch.tensor([prompts()[1]])
    base = logits(model, ids)
    with steering.applied(model, strength=0.5):
        wanted = logits(model, ids)
        copied = copy.deepcopy(model)
        pickled = pickle.loads(pickle.dumps(model))
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        saved = torch.load(buffer, weights_only=False)
        new = model.generate(ids, max_new_tokens=3, do_sample=False)
    assert torch.equal(logits(model, ids), base)
    for other in (copied, pickled, saved):
        assert torch.equal(logits(other, ids), wanted)
        assert torch.equal(other.generate(ids, max_new_tokens=3, do_sample=False), new)


def test_threads_share_an_attachment_but_not_attaching(model):
    ids = torch.tensor([prompts()[1]])
    errors, results = [], []

    def generate():
        results.append(model.generate(ids, max_new_tokens=5, do_sample=False))

    def attach():
        try:
            random_steering(model).attach(model)
        except SteeringError as error:
            errors.append(str(error))

    with random_steering(model, scope="prompt").applied(model):
        generate()
        threads = [threading.Thread(target=generate) for _ in range(4)]
        threads += [threading.Thread(target=attach)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 5
    assert all(torch.equal(r, results[0]) for r in results)
    assert len(errors) == 1
    assert "another thread" in errors[0]


def test_gradient_checkpointing_gives_the_same_gradients(model):
    steering, ids = random_steering(model), torch.tensor([prompts()[1]])

    def gradients():
        for parameter in steering.parameters():
            parameter.grad = None
        model(ids, labels=ids).loss.backward()
        return [p.grad.clone() for p in steering.parameters()]

    with steering.applied(model) as attachment:
        wanted = gradients()
        newer = getattr(model, "activation_checkpointing_enable", None)
        (newer or model.gradient_checkpointing_enable)()
        model.train()
        for found, expected in zip(gradients(), wanted, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        loss = model(ids, labels=ids).loss
        attachment.strength = 0.5
        with pytest.raises(SteeringError, match="backward"):
            loss.backward()


def test_a_cache_of_another_strength_is_refused(model):
    steering, ids = random_steering(model), torch.tensor([prompts()[1]])
    unsteered = DynamicCache()
    logits(model, ids, past_key_values=unsteered)
    with steering.applied(model, strength=0.5) as attachment:
        with pytest.raises(SteeringError, match=r"filled at strength 0, this call runs at 0\.5"):
            logits(model, ids[:, :1], past_key_values=copy.deepcopy(unsteered))
        cache = DynamicCache()
        logits(model, ids, past_key_values=cache)
        logits(model, ids[:, :1], past_key_values=copy.deepcopy(cache))
        attachment.strength = 0.6
        with pytest.raises(SteeringError, match=r"0\.5, this call runs at 0\.6"):
            logits(model, ids[:, :1], past_key_values=copy.deepcopy(cache))
        attachment.strength = 0.0
        logits(model, ids[:, :1], past_key_values=copy.deepcopy(unsteered))
    # Only generated tokens are steered: a prompt cached before is the right prompt.
    row = prompts()[1]
    with Steering(steering.transforms, scope="generated").applied(model, 0.5) as attachment:
        attachment.prompt_lengths = [9]
        found = logits(model, ids[:, :1], past_key_values=unsteered)[0]
    wanted = steered_logits(model, steering, [*row, row[0]], [0.0] * 9 + [0.5])[-1:]
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-4)


def test_a_prefix_cached_under_a_steering_that_left_is_refused(model):
    one, two, ids = random_steering(model), random_steering(model), torch.tensor([prompts()[1]])
    cache = DynamicCache()
    with one.applied(model, strength=0.5), two.applied(model, strength=0.5):
        logits(model, ids, past_key_values=cache)
    with one.applied(model, strength=0.5), pytest.raises(SteeringError, match="cache"):
        logits(model, ids[:, :1], past_key_values=cache)


def test_several_tokens_after_a_prefix_need_the_prompt_told(model):
    plain, row = random_steering(model), prompts()[1]
    ids = torch.tensor([row])
    wanted = steered_logits(model, plain, row, [1.0] * 6 + [0.0] * 3)
    with Steering(plain.transforms, scope="prompt").applied(model) as attachment:
        cache = DynamicCache()
        logits(model, ids[:, :4], past_key_values=cache)
        with pytest.raises(SteeringError, match="prompt_lengths"):
            logits(model, ids[:, 4:], past_key_values=cache)
        attachment.prompt_lengths = [6]
        cache = DynamicCache()
        first = logits(model, ids[:, :4], past_key_values=cache)
        rest = logits(model, ids[:, 4:], past_key_values=cache)
    torch.testing.assert_close(torch.cat([first, rest], 1)[0], wanted, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), [], [[0.1]], "half", [0.1, float("nan")]]
)
def test_strengths_that_mean_nothing(model, value):
    with pytest.raises(SteeringError, match="strength"):
        random_steering(model).attach(model, strength=value)
    assert not any(m._forward_hooks for m in model.modules())


def test_strength_outside_the_range_warns_and_wrong_length_raises(model):
    with random_steering(model).applied(model) as attachment:
        with pytest.warns(UserWarning, match="outside"):
            attachment.strength = 1.5
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            attachment.strength = [0.1, 0.2, 0.3]
        with pytest.raises(SteeringError, match="3 values for a batch of 2 rows"):
            logits(model, torch.tensor([prompts()[0]] * 2))


def test_mistakes_say_what_differs(model):
    steering = random_steering(model)
    with pytest.raises(SteeringError, match=r"no module 'model.layers.2.* made for another model"):
        steering.attach(llama(num_hidden_layers=2))
    with pytest.raises(
        SteeringError, match=r"input_layernorm: the steering is 24 wide, the model 32"
    ):
        steering.attach(llama(hidden_size=32))
    with torch.device("meta"):
        empty = llama()
    with pytest.raises(SteeringError, match="meta"):
        steering.attach(empty)
    shared = build("llama")
    shared.model.layers[1].input_layernorm = shared.model.layers[0].input_layernorm
    one = Steering({(key := "model.layers.0.input_layernorm"): steering.transforms[key]})
    for each in (steering, one):  # of the blocks that use it one alone cannot be steered
        with pytest.raises(SteeringError, match=r"0.input_layernorm and .* are one shared module"):
            each.attach(shared)
    with (
        steering.applied(model),
        pytest.raises(SteeringError, match="attached to this model already"),
    ):
        steering.attach(model)
    with pytest.raises(SteeringError, match="overlap"):
        Steering(
            {"model.norm": Scale(torch.ones(24)), "model.norm[0:4]": Scale(torch.ones(4))}
        ).attach(model)
    for key in ("model.norm[4:4]", "model.norm@output", ""):
        with pytest.raises(SteeringError, match="no site"):
            Steering({key: Scale(torch.ones(4))})
    with pytest.raises(SteeringError, match="at least one"):
        Steering({})
    with pytest.raises(SteeringError, match=r"model.norm: a Tensor is no transform"):
        Steering({"model.norm": torch.ones(24)})
    with pytest.raises(SteeringError, match="v must be a tensor, a vector; got a list"):
        Additive([1.0, 2.0])


def test_accelerate_places_the_weights(model):
    """Hooks that move and bring weights, and a steering kept on another device or type."""
    accelerate = pytest.importorskip("accelerate")
    ids, steering = torch.tensor([prompts()[1]]), random_steering(model)
    with steering.applied(model, strength=0.5):
        wanted = logits(model, ids)
    placed = accelerate.dispatch_model(build("llama"), {"": "cpu"}, force_hooks=True)
    offloaded = accelerate.cpu_offload(build("llama"), execution_device="cpu")
    for other in (placed, offloaded):
        base = logits(other, ids)
        with steering.applied(other, strength=0.5):
            assert torch.equal(logits(other, ids), wanted)
        assert torch.equal(logits(other, ids), base)
    assert Steering.identity(offloaded).tensors()


def test_plain_pipeline(model):
    """Whoever calls the model for us calls the steered one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, pipeline

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(61)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0")
    text = pipeline("text-generation", model=model, tokenizer=tokenizer)
    row = prompts()[1]
    prompt = " ".join(f"w{i}" for i in row)
    with random_steering(model, scope="prompt").applied(model, strength=1.0):
        found = text(prompt, max_new_tokens=5, do_sample=False, return_tensors=True)[0]
    wanted, _ = greedy(model, random_steering(model), row, 1.0, "prompt", 5)
    assert found["generated_token_ids"][len(row) :] == wanted


def test_a_token_that_is_not_steered_cannot_overflow():
    """Its activation times the slope is beyond float16; times a strength of 0 it is nothing."""
    affine = Affine(torch.full((4,), 8.0), torch.full((4,), 6e4))
    h = torch.full((1, 2, 4), 3e4, dtype=torch.float16)
    h[0, 1] = 1.0
    with torch.no_grad():
        found = affine.steer_tokens(h, torch.tensor([[[0.0], [0.5]]], dtype=torch.float16))
    wanted = torch.tensor([[[3e4], [1 + 0.5 * (8 + 6e4)]]]).expand_as(h)
    torch.testing.assert_close(found.float(), wanted, rtol=2e-3, atol=0)
