"""Items and texts as token ids: where each option starts, and where decisions are taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from equipoise.decisions.tokens import common_length, token_ids
from equipoise.errors import EquipoiseError
from equipoise.models import Model
from equipoise.models.positions import longest_input, too_long
from equipoise.tasks.item import Item

if TYPE_CHECKING:
    pass

TOKENISED = 256
"""Items tokenised in one call: enough for the tokenizer's own threads."""


@dataclass(frozen=True)
class Encoded:
    """A prompt with its options, or a text, as token ids.

    Attributes:
        prefix: Tokens that all options share: the prompt, and what their first tokens have in
            common.
        suffixes: What is left of each option, at least one token each; empty for a text.
        positions: Indices into ``prefix`` whose next-token distributions count: for an item those
            that predict a shared option token, then the last one; for a text the measured ones.
        unscored: Leading tokens of every suffix that belong to the prompt (not 0 only where the
            tokenizer merges the prompt's last characters with the option's first).
        spacing: Leading scored tokens that are the prompt's own trailing white space: part of
            every option's sum, as in lm-eval, but read as prompt.
    """

    prefix: tuple[int, ...]
    suffixes: tuple[tuple[int, ...], ...]
    positions: tuple[int, ...]
    unscored: int = 0
    spacing: int = 0

    @property
    def is_text(self) -> bool:
        """Whether this is plain text, measured at positions, with nothing to choose."""
        return not self.suffixes

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt; of a text, all."""
        return len(self.prefix) if self.is_text else self.positions[0] + 1 + self.spacing

    @property
    def scope_length(self) -> int:
        """Tokens that a token scope takes for the prompt.

        Of a text the first: what follows is measured as if the model wrote it, so that a steering
        of the answer onward is measured at all.
        """
        return 1 if self.is_text else self.prompt_length

    @property
    def cost(self) -> int:
        """Tokens a forward pass reads."""
        return len(self.prefix) + sum(len(s) - 1 for s in self.suffixes)


def prompt_text(model: Model, prompt: str) -> str:
    """The text the model reads before an option: with the chat template of a chat model."""
    if not model.chat:
        return prompt
    from jinja2 import TemplateError

    message = [{"role": "user", "content": prompt}]
    how: dict[str, Any] = {"add_generation_prompt": True, "tokenize": False}
    try:
        return str(model.tokenizer.apply_chat_template(message, **how))
    except TemplateError as error:
        raise EquipoiseError(
            f"the chat template of {model.name} cannot be used: {error}; --no-chat goes without it"
        ) from error


def encode_item(model: Model, item: Item) -> Encoded:
    """One item of :func:`encode_items`."""
    return encode_items(model, [item])[0]


def encode_items(model: Model, items: Sequence[Item]) -> list[Encoded]:
    """Tokenise prompt and options together and split at the boundary (contract: DESIGN).

    A base model sees the prompt, one space (none after white space), the option. A chat model sees
    its template, with the option as the start of the assistant's reply. White space that a prompt
    or a template ends in is scored with the option, as in lm-eval, since a tokenizer may merge the
    two; where it does not (the line break that ends ChatML's prompt), the prompt ends after it.

    Raises:
        EquipoiseError: Two options with the same tokens, nothing before the options, or more tokens
            than the model has positions for (a warning where those are rotary).
    """
    special = not model.chat  # a chat template brings its own
    rows: list[Encoded] = []
    for start in range(0, len(items), TOKENISED):
        some = items[start : start + TOKENISED]
        texts = [_texts(model, item) for item in some]
        whole = list(chain.from_iterable(texts))
        found = iter(token_ids(model.tokenizer, whole, special=special))
        rows += [_parted(i, *islice(found, len(t))) for i, t in zip(some, texts, strict=True)]
    _check_lengths(model, items, rows)
    return rows


def _texts(model: Model, item: Item) -> list[str]:
    """What comes before an option, the same with each, and the prompt's white space if any."""
    if item.images:
        raise EquipoiseError(f"item {item.id!r} has images; scoring images is not supported yet")
    text = prompt_text(model, item.prompt)
    context = text.rstrip()
    space = text[len(context) :]
    gap = space or ("" if model.chat else " ")
    wholes = [context + gap + option for option in item.options]
    return [context, *wholes, *([text] if space else [])]


def _parted(item: Item, alone: Sequence[int], *others: Sequence[int]) -> Encoded:
    """The tokens of an item, split where its prompt ends; texts are those of :func:`_texts`."""
    boundary = len(alone)
    wholes: Sequence[Sequence[int]] = others[: len(item.options)]
    spaced = others[len(item.options) :]
    if len({tuple(whole) for whole in wholes}) < len(wholes):
        raise EquipoiseError(f"item {item.id!r}: two options have the same tokens")
    if boundary == 0:
        raise EquipoiseError(f"item {item.id!r}: the prompt has no tokens")
    longer = all(len(whole) > boundary for whole in wholes)
    apart = [(*alone, *whole[boundary:]) for whole in wholes]
    if longer and len(set(apart)) == len(wholes):
        # Where the tokenizer merges the two, the prompt is read as it is alone: by lm-eval, and by
        # the model when it answers.
        wholes = apart
    # What the first and the last in order share, all share; every option keeps a token of its own.
    first, *_, last = sorted(map(tuple, wholes))
    shared = min(common_length(first, last), min(map(len, wholes)) - 1)
    # A tokenizer that merges across the boundary may leave an option no token after it; then the
    # tokens from where the options part are the only ones that tell them apart.
    start = boundary if longer else min(shared, boundary)
    spacing = 0
    if spaced and start == boundary <= len(spaced[0]) <= shared:
        untouched = spaced[0]
        if list(wholes[0][: len(untouched)]) == list(untouched):
            spacing = len(untouched) - boundary
    return Encoded(
        prefix=tuple(wholes[0][:shared]),
        suffixes=tuple(tuple(whole[shared:]) for whole in wholes),
        positions=tuple(range(min(start, shared) - 1, shared)),
        unscored=max(0, start - shared),
        spacing=spacing,
    )


def _check_lengths(model: Model, items: Sequence[Item], rows: Sequence[Encoded]) -> None:
    """Beyond its positions a model fails, or answers something that means little."""
    limit = longest_input(model)
    if limit is None:
        return
    # The last token of an option is predicted, not read.
    whole = [len(row.prefix) + max(map(len, row.suffixes)) for row in rows]
    beyond = [i for i, length in enumerate(whole) if length - 1 > limit]
    if not beyond:
        return
    item, row = items[beyond[0]], rows[beyond[0]]
    option = max(range(len(row.suffixes)), key=lambda k: len(row.suffixes[k]))
    prompt = row.prompt_length + row.unscored
    more = f" ({len(beyond) - 1} more items are too long)" if len(beyond) > 1 else ""
    too_long(
        model,
        f"item {item.id!r}: its prompt has {prompt} tokens and its option {item.options[option]!r} "
        f"{whole[beyond[0]] - prompt}, the model reads {limit}{more}; shorten the item, leave it "
        "out, or choose a model with a longer context",
    )


def encode_text(model: Model, text: str, *, window: int = 256) -> list[Encoded]:
    """A text in windows of at most ``window`` tokens, each measured at all its positions.

    Windows are shorter where the model has fewer positions. A window of a single token predicts
    nothing and is left out.
    """
    (ids,) = token_ids(model.tokenizer, [text], special=True)
    window = min(window, longest_input(model) or window)
    pieces = [ids[start : start + window] for start in range(0, len(ids), window)]
    return [Encoded(tuple(p), (), tuple(range(len(p) - 1))) for p in pieces if len(p) > 1]
