"""Texts as token ids; what many of them begin with is tokenised once."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LEAD = 512
"""Characters that texts begin with alike before a common beginning is looked for."""

_OVERLAP = 64
"""Characters after a cut that must be the same too: what decides whether a token ends there."""


def token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, special: bool
) -> list[list[int]]:
    """Texts as a model reads them that is to go on: nothing follows their last word.

    If ``special``, with the tokens that the tokenizer puts before a text; never with those that
    some put after it: beyond an end of text there is nothing to decide.
    """
    found: list[list[int]] = [[]] * len(texts)
    after = _special_tokens_after(tokenizer) if special else 0
    heads = _heads(tokenizer, texts, special, after)
    whole = [i for i in range(len(texts)) if i not in heads]
    for i, ids in zip(whole, _ids(tokenizer, [texts[i] for i in whole], special), strict=True):
        found[i] = ids[: len(ids) - after]
    rests = [texts[i][cut:] for i, (_, cut) in heads.items()]
    for (i, (head, _)), ids in zip(heads.items(), _ids(tokenizer, rests, False), strict=True):
        found[i] = [*head, *ids]
    return found


def _ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], special: bool
) -> list[list[int]]:
    if not texts:
        return []
    # Lengths are ours to judge, and long texts are read in windows: no warning of its own.
    found = tokenizer(list(texts), add_special_tokens=special, verbose=False)["input_ids"]
    return [list(ids) for ids in found]


def _special_tokens_after(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many special tokens a tokenizer puts after a text."""
    bare, whole = (list(tokenizer.encode("a", add_special_tokens=how)) for how in (False, True))
    extra = len(whole) - len(bare)
    before = next((k for k in range(extra + 1) if whole[k : k + len(bare)] == bare), extra)
    return extra - before


def _heads(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], special: bool, after: int
) -> dict[int, tuple[list[int], int]]:
    """By text, the tokens of what it and others begin with, and how many characters these are.

    ``after`` is how many special tokens are put after a text.

    Solved examples, mostly. Beginnings end with a line, where a token ends too; and only where the
    tokenizer reads what follows as it does within the whole text, seen on two texts.
    """
    if not tokenizer.is_fast:
        return {}
    alike: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(texts):
        if len(text) > 2 * _LEAD:
            alike[text[:_LEAD]].append(i)
    found: dict[int, tuple[list[int], int]] = {}
    for group in alike.values():
        if len(group) < 4:
            continue
        common = os.path.commonprefix([texts[i] for i in group])  # noqa: RUF071 - of texts
        cut = common.rfind("\n", 0, max(0, len(common) - _OVERLAP)) + 1
        heads = [_head(tokenizer, texts[i], cut, special, after) for i in (group[0], group[-1])]
        if cut and heads[0] and heads[0] == heads[1]:
            found |= dict.fromkeys(group, (heads[0], cut))
    return found


def _head(
    tokenizer: PreTrainedTokenizerBase, text: str, cut: int, special: bool, after: int
) -> list[int] | None:
    """Tokens of the first characters of a text; None if the rest is read otherwise alone."""
    whole = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
    ids, starts = list(whole["input_ids"]), [start for start, _ in whole["offset_mapping"]]
    if cut not in starts:
        return None
    place = starts.index(cut)
    (rest,) = _ids(tokenizer, [text[cut:]], False)
    return ids[:place] if ids[place : len(ids) - after] == rest else None
