"""What a text begins with like another is tokenised once, and no token changes by it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel, Metaspace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordPieceTrainer
from transformers import PreTrainedTokenizerFast

from equipoise.decisions import tokens
from equipoise.decisions.tokens import common_length, token_ids
from equipoise.models import Model, load
from equipoise.tasks import load_task

EXAMPLES = "".join(f"Q: who was late, {name} or Ann?\nA: Ann\n\n" for name in ("Bo", "Cy")) * 20
ENDS = ["Q: who, the nurse?\nA:", "Q: who, the nurse?\nA: he", "", "Q", "\nthe", " a   b", "é"]
MARKS = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
SPECIAL = {"special_tokens": ["<s>", "</s>", "[UNK]"], "show_progress": False}


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """Made from the examples, with a token before a text and one after it."""
    if kind == "bytes":  # GPT-2's way: words apart
        made = Tokenizer(BPE())
        made.pre_tokenizer = ByteLevel(add_prefix_space=False)
        alphabet = ByteLevel.alphabet()
        trainer = BpeTrainer(vocab_size=300, initial_alphabet=alphabet, **SPECIAL)
    elif kind == "across words":  # as Llama 2: an underscore before a text, tokens across spaces
        made = Tokenizer(BPE(unk_token="[UNK]"))
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        trainer = BpeTrainer(vocab_size=50, **SPECIAL)
    elif kind == "unigram":  # T5's way
        made = Tokenizer(Unigram())
        made.pre_tokenizer = Metaspace()
        trainer = UnigramTrainer(vocab_size=60, unk_token="[UNK]", **SPECIAL)
    else:  # BERT's: no spaces, no capitals, no accents
        made = Tokenizer(WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer = BertPreTokenizer()
        trainer = WordPieceTrainer(vocab_size=80, **SPECIAL)
    made.train_from_iterator([EXAMPLES + end for end in ENDS], trainer)
    made.post_processor = MARKS
    return PreTrainedTokenizerFast(tokenizer_object=made)


KINDS = {kind: tokenizer_of(kind) for kind in ("bytes", "across words", "unigram", "pieces")}


def whole(tokenizer, texts: list[str], special: bool = True) -> list[list[int]]:
    """Every text on its own, without the token that the made tokenizers put after it."""
    found = [tokenizer(text, add_special_tokens=special)["input_ids"] for text in texts]
    return [ids[:-1] if special and ids[-1] == 1 else ids for ids in found]


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """What is tokenised."""
    seen: list[str] = []
    plainly = tokens._read
    monkeypatch.setattr(tokens, "_read", lambda t, s, *how: seen.extend(s) or plainly(t, s, *how))
    return seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("special", [True, False])
def test_a_common_beginning_is_tokenised_once(kind: str, special: bool, read) -> None:
    texts = [EXAMPLES + end for end in ENDS] * 4 + ["short", EXAMPLES[7:] + "alone"]
    assert token_ids(KINDS[kind], texts, special=special) == whole(KINDS[kind], texts, special)
    # Two anew, two looked at, and of every other its end.
    assert sum(map(len, read)) < 4 * len(EXAMPLES) + 100 * len(texts)


PIECES = ["who ", "Q: ", "\n", "\n\n", " ", "  ", "é", "nurse", "Ann?", "▁", "12", "A: Ann\n", "."]


@settings(max_examples=60)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    begun=st.lists(st.sampled_from(PIECES), min_size=30, max_size=60).map("".join),
    ends=st.lists(st.lists(st.sampled_from(PIECES), max_size=20).map("".join), min_size=2),
    special=st.booleans(),
)
def test_tokens_stay_as_they_are(kind: str, begun: str, ends: list[str], special: bool) -> None:
    texts = [begun + end for end in ends]
    assert token_ids(KINDS[kind], texts, special=special) == whole(KINDS[kind], texts, special)


def test_texts_with_little_in_common_are_read_whole(read) -> None:
    texts = [f"{k}{EXAMPLES}" for k in range(3)] + ["Q: who?", "Q: who? A"]
    assert token_ids(KINDS["bytes"], texts, special=True) == whole(KINDS["bytes"], texts)
    assert read == []


@pytest.mark.parametrize("apart", ["the readings never agree", "a look at two finds it wrong"])
def test_a_tokenizer_that_reads_by_the_whole_text_reads_it(monkeypatch, apart: str) -> None:
    texts = [EXAMPLES + end for end in ENDS]
    expected = whole(KINDS["bytes"], texts)
    join, wrong = tokens._join, apart.startswith("a look")

    def off(*how):
        both = join(*how)
        return (both and wrong and tokens._Tokens([*both.ids[:-1], 5], both.ends)) or None

    monkeypatch.setattr(tokens, "_join", off)
    assert token_ids(KINDS["bytes"], texts, special=True) == expected


@pytest.mark.parametrize("name", ["imdb-5m", "tinystories-656k", "builtin:"])
@pytest.mark.parametrize("shots", [0, 8])
def test_real_prompts(data, name: str, shots: int, read) -> None:
    """The tokenizer of TinyStories has tokens across words, and marks where a text begins."""
    model: Model = load(name if name == "builtin:" else str(data / name))
    items = load_task("bbq", data=data / "bbq", shots=shots, categories="Age").items[:24]
    texts = [f"{item.prompt} {option}" for item in items for option in item.options]
    assert token_ids(model.tokenizer, texts, special=True) == whole(model.tokenizer, texts)
    assert sum(map(len, read)) < sum(map(len, texts)) / (10 if shots else 2)


@given(st.lists(st.integers(0, 1), max_size=9).map(tuple), st.data())
def test_common_length(a: tuple[int, ...], data) -> None:
    b = a[: data.draw(st.integers(0, len(a)))] + data.draw(
        st.lists(st.integers(0, 1), max_size=5).map(tuple)
    )
    slow = 0
    while slow < min(len(a), len(b)) and a[slow] == b[slow]:
        slow += 1
    assert common_length(a, b) == slow
