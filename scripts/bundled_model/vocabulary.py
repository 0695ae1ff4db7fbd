"""The byte-level BPE tokenizer: every word that can be an option is one token."""

from __future__ import annotations

import random

from mixture import draw_example
from skills import option_words
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from words import FEMALE_LIST, MALE_LIST, OTHER_PEOPLE, PRONOUNS, UNKNOWN

SPECIAL = {
    "pad": "<pad>", "bos": "<s>", "eos": "</s>", "user": "<|user|>", "reply": "<|assistant|>",
}  # fmt: skip
CHAT_TEMPLATE = (
    "{{ '<s>' }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>' + message['content'] + '</s>' }}"
    "{% else %}{{ '<|user|>' + message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def must_be_whole() -> list[str]:
    """Words that must be one token."""
    pronouns = {word for pair in PRONOUNS.values() for word in pair}
    words = {*FEMALE_LIST, *MALE_LIST, *OTHER_PEOPLE, *pronouns, *option_words(), UNKNOWN}
    return sorted(words)


def build_tokenizer(seed: int, size: int = 3400) -> PreTrainedTokenizerFast:
    """Train the tokenizer on the mixture; a word behind a special token gets a leading space."""
    rng = random.Random(f"vocabulary {seed}")
    prompts = [draw_example(rng).prompt for _ in range(20_000)]
    whole = " ".join(must_be_whole())
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(prompts + [whole] * 400, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL["pad"],
        bos_token=SPECIAL["bos"],
        eos_token=SPECIAL["eos"],
        additional_special_tokens=[SPECIAL["user"], SPECIAL["reply"]],
        model_max_length=256,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    split = [word for word in must_be_whole() if len(fast.encode(f"<|assistant|>{word}")) != 2]
    if split:
        raise ValueError(f"not one token, enlarge the vocabulary: {split}")
    return fast
