"""What texts begin with is tokenised once, and no token changes by it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from equipoise.decisions import tokens
from equipoise.decisions.encode import common_length
from equipoise.decisions.tokens import token_ids
from equipoise.models import Model, load
from equipoise.tasks import load_task

EXAMPLES = "".join(f"Q: who was late, {name} or Ann?\nA: Ann\n\n" for name in ("Bo", "Cy")) * 20
ENDS = ["Q: who, the nurse?\nA:", "Q: who, the nurse?\nA: he", "", "Q", "\nthe", " a   b", "é"]


def plain(tokenizer, texts, special):
    return [tokenizer(text, add_special_tokens=special)["input_ids"] for text in texts]


def heads(tokenizer, texts: list[str], special: bool) -> set[int]:
    """Which texts have a beginning that is tokenised once."""
    after = tokens._special_tokens_after(tokenizer) if special else 0
    return set(tokens._heads(tokenizer, texts, special, after))


def shared(model: Model, texts: list[str], special: bool = True) -> set[int]:
    return heads(model.tokenizer, texts, special)


@pytest.fixture(scope="module")
def bytewise() -> PreTrainedTokenizerFast:
    """Bytes with a few merges, words apart, and tokens of its own around a text."""
    alphabet = sorted(ByteLevel.alphabet())
    merges = [("w", "h"), ("wh", "o"), ("Ġ", "who"), ("Ċ", "Ċ")]
    words = ["<s>", "</s>", *alphabet, *(a + b for a, b in merges)]
    vocab = {word: i for i, word in enumerate(words)}
    made = Tokenizer(BPE(vocab=vocab, merges=merges))
    made.pre_tokenizer = ByteLevel(add_prefix_space=False)
    made.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made)


@pytest.mark.parametrize("special", [True, False])
def test_a_common_beginning_is_tokenised_once(bytewise, monkeypatch, special: bool) -> None:
    texts = [EXAMPLES + end for end in ENDS] + ["short", EXAMPLES[7:] + "alone"]
    assert heads(bytewise, texts, special) == set(range(len(ENDS)))
    read = []
    each = tokens._ids
    monkeypatch.setattr(tokens, "_ids", lambda t, s, how: read.extend(s) or each(t, s, how))
    found = token_ids(bytewise, texts, special=special)
    whole = plain(bytewise, texts, special)
    assert found == [ids[:-1] if special else ids for ids in whole]
    assert sum(map(len, read)) < 2 * len(EXAMPLES) + 1000


@settings(max_examples=30)
@given(ends=st.lists(st.text(alphabet="who \nQ:é", max_size=80), min_size=4, max_size=6))
def test_tokens_stay_as_they_are(bytewise, bundled: Model, ends: list[str]) -> None:
    texts = [EXAMPLES + end for end in ends]
    for tokenizer in (bytewise, bundled.tokenizer):
        assert token_ids(tokenizer, texts, special=False) == plain(tokenizer, texts, False)


def test_a_beginning_without_lines_or_for_few_is_not_cut(bytewise) -> None:
    for texts in (
        [EXAMPLES.replace("\n", " ") + end for end in ENDS],
        [EXAMPLES + end for end in ENDS[:3]],
        [EXAMPLES[:300] + end for end in ENDS],
    ):
        assert not heads(bytewise, texts, True)


def test_a_tokenizer_that_reads_across_lines_reads_all(data) -> None:
    """That of TinyStories has tokens across lines and words, and marks where a text begins."""
    model = load(str(data / "tinystories-656k"))
    texts = [EXAMPLES + end for end in ENDS]
    assert not shared(model, texts)
    assert token_ids(model.tokenizer, texts, special=True) == plain(model.tokenizer, texts, True)


@pytest.mark.parametrize("name", ["imdb-5m", "tinystories-656k"])
def test_real_prompts_with_examples(data, name: str) -> None:
    model = load(str(data / name))
    items = load_task("bbq", data=data / "bbq", shots=8, categories="Age").items[:12]
    texts = [f"{item.prompt} {option}" for item in items for option in item.options]
    assert bool(shared(model, texts)) == (name == "imdb-5m")
    assert token_ids(model.tokenizer, texts, special=True) == plain(model.tokenizer, texts, True)


@given(st.lists(st.integers(0, 1), max_size=9).map(tuple), st.data())
def test_common_length(a: tuple[int, ...], data) -> None:
    b = a[: data.draw(st.integers(0, len(a)))] + data.draw(
        st.lists(st.integers(0, 1), max_size=5).map(tuple)
    )
    slow = 0
    while slow < min(len(a), len(b)) and a[slow] == b[slow]:
        slow += 1
    assert common_length(a, b) == slow
