"""Where a prompt ends and an option begins, and what is too long for a model to read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

from equipoise.decisions.decide import decide, score_texts
from equipoise.decisions.encode import encode_item, encode_text, prompt_text
from equipoise.decisions.write import write_at
from equipoise.errors import EquipoiseError
from equipoise.models import Model
from equipoise.models.positions import longest_input
from equipoise.steering import Steering
from equipoise.tasks.item import Item

ITEM = Item(id="1", prompt="Who left?", options=("nurse who", "the nurse", "the old doctor"))


def chat(model: Model, ending: str) -> Model:
    """The model behind a template whose generation prompt ends so."""
    model.tokenizer.chat_template = (
        "{{ '<s>' }}{% for m in messages %}{{ '<|user|>' + m['content'] }}{% endfor %}"
        f"{{{{ '<|assistant|>{ending}' }}}}"
    )
    model.chat = True
    assert prompt_text(model, "x").endswith("<|assistant|>" + ending.replace("\\n", "\n"))
    return model


def tokens(model: Model, text: str) -> list[int]:
    return list(model.tokenizer.encode(text, add_special_tokens=not model.chat))


# ---- white space at a prompt's end


@pytest.mark.parametrize("ending", ["", " ", ": ", "\\n", "\\n\\n", " \\n"])
def test_a_chat_model_s_sums_are_lm_eval_s(tiny: Model, ending: str) -> None:
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    from lm_eval.api.instance import Instance

    model = chat(tiny, ending)
    (found,) = decide(model, [ITEM])
    theirs = huggingface.HFLM(pretrained=model.hf, tokenizer=model.tokenizer, batch_size=1)
    text = prompt_text(model, ITEM.prompt)
    asked = [
        Instance("loglikelihood", {}, (text, option), k) for k, option in enumerate(ITEM.options)
    ]
    sums = [total for total, _ in theirs.loglikelihood(asked, disable_tqdm=True)]
    assert found.scores[0] == pytest.approx(sums, abs=1e-4)


def test_white_space_that_merges_is_the_option_s(tiny: Model) -> None:
    row = encode_item(chat(tiny, " "), ITEM)
    untouched = tokens(tiny, prompt_text(tiny, ITEM.prompt))
    assert list(row.prefix) == untouched[:-1]
    assert (row.prompt_length, row.spacing, row.unscored) == (len(untouched) - 1, 0, 0)


@pytest.mark.parametrize("scope", ["all", "last_prompt+generated"])
@pytest.mark.parametrize("read_by", ["template", "prompt"])
def test_white_space_that_stands_alone_is_the_prompt_s(
    tiny: Model, read_by: str, scope: str
) -> None:
    """A scope and a gate read a decision's prompt as they read it when the model writes."""
    if read_by == "template":
        model, item = chat(tiny, "\\n"), ITEM
    else:
        model, item = tiny, Item(id="1", prompt="Who left?\n", options=ITEM.options)
    untouched = tokens(model, prompt_text(model, item.prompt))
    row = encode_item(model, item)
    assert list(row.prefix[: row.prompt_length]) == untouched
    assert row.spacing == len(untouched) - len(tokens(model, prompt_text(model, item.prompt)[:-1]))
    assert row.spacing > 0
    identity = Steering.identity(model, foldable=False)
    torch.manual_seed(0)
    with torch.no_grad():
        for value in identity.parameters():
            value.normal_(std=0.2)
    steering = Steering(identity.transforms, scope=scope)

    def following(ids: list[int], attached: Any = None) -> torch.Tensor:
        if attached is not None:
            attached.prompt_lengths = [len(untouched)]
        with torch.no_grad():
            return model.hf(torch.tensor([ids])).logits[0].double().log_softmax(-1)

    text = prompt_text(model, item.prompt)
    own = [tokens(model, text + option)[len(untouched) :] for option in item.options]
    base = [following(untouched + option) for option in own]
    with steering.applied(model, 1.0) as attached:
        steered = [following(untouched + option, attached) for option in own]
    at = len(untouched) - 1
    wanted = [
        sum(table[at + k, token].item() for k, token in enumerate(option))
        for table, option in zip(steered, own, strict=True)
    ]
    how: dict[str, Any] = {"steering": steering, "strengths": [1.0]}
    (sums,) = decide(model, [item], **how)
    assert sums.scores[0] - sums.scores[0, 0] == pytest.approx(
        [total - wanted[0] for total in wanted], abs=1e-4
    )
    (means,) = decide(model, [item], normalise="mean", **how)
    lengths = [len(option) for option in own]
    assert means.scores[0] == pytest.approx(
        [total / n for total, n in zip(wanted, lengths, strict=True)], abs=1e-4
    )
    # Of the divergence only what comes after the prompt: along each distinct beginning.
    kl, met = 0.0, set()
    for one, other, option in zip(steered, base, own, strict=True):
        reach = 1.0
        for k, token in enumerate(option):
            here, there = one[at + k], other[at + k]
            if tuple(option[:k]) not in met:
                met.add(tuple(option[:k]))
                kl += reach * (here.exp() * (here - there)).sum().item()
            reach *= here[token].exp().item()
    assert sums.kl is not None
    assert sums.kl[0] == pytest.approx(kl, rel=1e-3)


# ---- what a model can read


def small(kind: type, config: Any, tiny: Model) -> Model:
    torch.manual_seed(0)
    return Model(kind(config).eval().requires_grad_(False), tiny.tokenizer, name=kind.__name__)


SIZES = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16}


def limited(kind: str, tiny: Model) -> Model:
    size = len(tiny.tokenizer)
    if kind == "gpt2":
        config = GPT2Config(vocab_size=size, n_embd=16, n_layer=1, n_head=2, n_positions=32)
        return small(GPT2LMHeadModel, config, tiny)
    if kind == "opt":
        config = OPTConfig(
            vocab_size=size, max_position_embeddings=32, ffn_dim=16, word_embed_proj_dim=16, **SIZES
        )
        return small(OPTForCausalLM, config, tiny)
    config = LlamaConfig(
        vocab_size=size,
        max_position_embeddings=32,
        intermediate_size=16,
        num_key_value_heads=2,
        **SIZES,
    )
    return small(LlamaForCausalLM, config, tiny)


def refused(kind: str, said: str) -> Any:
    """An error, or a warning of rotary positions, which have no end."""
    if kind == "llama":
        return pytest.warns(UserWarning, match="more tokens than the 32 of the model's context")
    return pytest.raises(EquipoiseError, match=said)


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama"])
def test_texts_are_read_in_windows_the_model_can_read(tiny: Model, kind: str) -> None:
    model = limited(kind, tiny)
    rows = encode_text(model, "the nurse left " * 30)
    assert {len(row.prefix) for row in rows[:-1]} == {32}
    found = score_texts(model, ["the nurse left " * 30])
    assert found.tokens[0] == sum(len(row.positions) for row in rows)
    assert max(len(row.prefix) for row in encode_text(model, "the nurse " * 30, window=8)) == 8


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama"])
def test_an_item_too_long_is_named_and_the_longest_is_read(tiny: Model, kind: str) -> None:
    model = limited(kind, tiny)
    fits, beyond = (
        Item(id="long", prompt=" ".join(["the"] * words), options=("a", "the the"))
        for words in (31, 32)
    )
    assert len(tokens(model, f"{fits.prompt} the the")) == 33  # the last is predicted, not read
    (found,) = decide(model, [fits])
    ids = torch.tensor([tokens(model, f"{fits.prompt} the the")])
    with torch.no_grad():
        log_probs = model.hf(ids[:, :-1]).logits[0].log_softmax(-1)
    assert found.scores[0, 1] == pytest.approx(
        log_probs[[30, 31], ids[0, 31:]].sum().item(), abs=1e-4
    )
    with refused(
        kind, "item 'long': its prompt has 32 tokens and its option 'the the' 2, the model"
    ):
        decide(model, [ITEM, beyond])


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama"])
def test_a_prompt_without_room_for_its_answer_is_said(tiny: Model, kind: str) -> None:
    model = limited(kind, tiny)
    prompts = ["the", " ".join(["the"] * 29)]
    model.hf.generation_config.eos_token_id = None
    written = write_at(model, prompts, max_new_tokens=4)  # the last token is not read
    assert len(written[0]) == 2
    with refused(kind, "has 29 tokens and its answer may have 5, the model reads 32"):
        write_at(model, prompts, max_new_tokens=5)


def test_how_far_positions_reach(tiny: Model, bundled: Model) -> None:
    def of(kind: type, config: Any) -> int | None:
        return longest_input(small(kind, config, tiny))

    size = {"vocab_size": 16}
    assert longest_input(bundled) == 256
    mamba = MambaConfig(hidden_size=16, num_hidden_layers=1, state_size=2, **size)
    assert of(MambaForCausalLM, mamba) is None
    assert of(BloomForCausalLM, BloomConfig(hidden_size=16, n_layer=1, n_head=2, **size)) is None
    llama = {"intermediate_size": 16, "num_key_value_heads": 2, "max_position_embeddings": 64}
    for scaling, wanted in [
        ({"rope_type": "linear", "factor": 4.0}, 256),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
        (
            {
                "rope_type": "llama3",
                "factor": 4.0,
                "original_max_position_embeddings": 8,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            },
            64,
        ),
    ]:
        rotary = {"rope_theta": 1e4, **scaling}
        config = LlamaConfig(rope_parameters=rotary, **llama, **SIZES, **size)
        assert of(LlamaForCausalLM, config) == wanted


# ---- special tokens after a text


def test_nothing_that_a_tokenizer_puts_after_a_text_is_read(tiny: Model) -> None:
    """Some end every text with an end of text; behind it no option is a continuation."""
    items = [
        ITEM,
        Item(id="2", prompt="The nurse said that", options=("he", "she")),
        Item(id="3", prompt="Answer:\n", options=("A", "the doctor")),
    ]
    alone = decide(tiny, items)[0].scores
    text = score_texts(tiny, ["The nurse left."]).log_probability
    written = write_at(tiny, ["The nurse"], temperature=0, max_new_tokens=3)
    plain = tiny.tokenizer.encode("The nurse")
    ends = tiny.tokenizer.eos_token
    tiny.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {ends}", special_tokens=[(ends, tiny.tokenizer.eos_token_id)]
    )
    assert tiny.tokenizer.encode("The nurse") == [*plain, tiny.tokenizer.eos_token_id]
    assert decide(tiny, items)[0].scores == pytest.approx(alone, abs=1e-6)
    assert score_texts(tiny, ["The nurse left."]).log_probability == pytest.approx(text, abs=1e-6)
    assert write_at(tiny, ["The nurse"], temperature=0, max_new_tokens=3) == written


def test_a_chat_template_that_cannot_be_used_is_said(tiny: Model) -> None:
    tiny.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}"
    tiny.chat = True
    with pytest.raises(EquipoiseError, match=f"chat template of {tiny.name} cannot be used"):
        prompt_text(tiny, "Who?")


# ---- a tokenizer that merges across the boundary


@pytest.mark.parametrize("normalise", ["sum", "mean"])
def test_options_that_only_a_merged_token_tells_apart(tiny: Model, normalise: Any) -> None:
    """What lies beyond the prompt's tokens is scored, and counted; the merged token is read."""
    characters = ["a", "b", " ", "x", "y", "z", "b ", "b x", "b y"]
    merges = [("b", " "), ("b ", "x"), ("b ", "y")]
    merging = Tokenizer(BPE({piece: k for k, piece in enumerate(characters)}, merges))
    model = Model(tiny.hf, PreTrainedTokenizerFast(tokenizer_object=merging), name="merging")
    item = Item(id="1", prompt="ab", options=("xzz", "yzz"))
    assert [tokens(model, f"ab {option}") for option in item.options] == [
        [0, 7, 5, 5],
        [0, 8, 5, 5],
    ]
    row = encode_item(model, item)
    assert (row.prefix, row.unscored) == ((0,), 1)
    (found,) = decide(model, [item], normalise=normalise)
    wanted = []
    for merged in (7, 8):
        with torch.no_grad():
            table = model.hf(torch.tensor([[0, merged, 5, 5]])).logits[0].log_softmax(-1)
        wanted.append(float(table[1, 5] + table[2, 5]) / (2 if normalise == "mean" else 1))
    assert found.scores[0] == pytest.approx(wanted, abs=1e-4)
