"""Texts as token ids; what a text begins with like another is tokenised once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LEAD = 48
"""Characters before the place where two texts part that are tokenised again with the second."""

_AGREE = 4
"""Tokens that both readings of them must have in common before they are joined."""

_Row = TypeVar("_Row", str, tuple[int, ...])


class _Tokens(NamedTuple):
    """Token ids, and for each the character of the text that it ends before."""

    ids: list[int]
    ends: list[int]


def token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, special: bool
) -> list[list[int]]:
    """Texts as a model reads them that is to go on: nothing follows their last word.

    If ``special``, with the tokens that the tokenizer puts before a text; never with those that
    some put after it: beyond an end of text there is nothing to decide.
    """
    after = _special_tokens_after(tokenizer) if special else 0
    if tokenizer.is_fast and len(texts) > 1:
        found = _one_after_another(tokenizer, texts, special, after)
        if found is not None:
            return found
    # Lengths are ours to judge, and long texts are read in windows: no warning of its own.
    whole = tokenizer(list(texts), add_special_tokens=special, verbose=False)["input_ids"]
    return [list(ids[: len(ids) - after]) for ids in whole]


def common_length(a: _Row, b: _Row) -> int:
    """How many characters two texts, or tokens two rows, begin with alike."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _special_tokens_after(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many special tokens a tokenizer puts after a text."""
    bare, whole = (list(tokenizer.encode("a", add_special_tokens=how)) for how in (False, True))
    extra = len(whole) - len(bare)
    before = next((k for k in range(extra + 1) if whole[k : k + len(bare)] == bare), extra)
    return extra - before


def _one_after_another(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], special: bool, after: int
) -> list[list[int]] | None:
    """In alphabetical order each text is tokenised from shortly before it parts from the last.

    What comes before is taken over from the last one's tokens, joined where a token ends in both
    readings: a tokenizer that merges pairs merges what follows an end as it would alone. None if
    texts have little in common, if the readings of one do not agree, or if one of two that are
    looked at has other tokens as a whole.
    """
    order = sorted(range(len(texts)), key=texts.__getitem__)
    shared = [0, *(common_length(texts[a], texts[b]) for a, b in pairwise(order))]
    starts = [_start(texts[i], length) for i, length in zip(order, shared, strict=True)]
    joined = [k for k, start in enumerate(starts) if start]
    if not joined:
        return None
    anew = [i for i, start in zip(order, starts, strict=True) if not start]
    first = iter(_read(tokenizer, [texts[i] for i in anew], special, after))
    tails = iter(_read(tokenizer, [texts[order[k]][starts[k] :] for k in joined], False, 0))
    found: list[list[int]] = [[]] * len(texts)
    last = _Tokens([], [])
    for i, start, length in zip(order, starts, shared, strict=True):
        read = _join(last, next(tails), start, length) if start else next(first)
        if read is None:
            return None
        found[i], last = read.ids, read
    looked_at = sorted({order[joined[0]], order[joined[-1]]})
    whole = _read(tokenizer, [texts[i] for i in looked_at], special, after)
    return found if [found[i] for i in looked_at] == [t.ids for t in whole] else None


def _start(text: str, shared: int) -> int:
    """Where to read a text anew of which the first ``shared`` characters were read: at a space."""
    start = max(text.rfind(space, 0, max(0, shared - _LEAD)) for space in (" ", "\n"))
    return start if start > _LEAD else 0


def _join(last: _Tokens, tail: _Tokens, start: int, shared: int) -> _Tokens | None:
    """The last text's tokens, going on with those of this one, read from character ``start``.

    None if they do not agree before the character ``shared``, where the texts part.
    """
    ends = [start + end for end in tail.ends]
    for k in range(_AGREE, len(ends) + 1):
        end = ends[k - 1]
        if end > shared:
            return None
        within = k < len(ends) and ends[k] == end  # several tokens of one character
        place = bisect_right(last.ends, end)
        alike = last.ids[max(0, place - _AGREE) : place] == tail.ids[k - _AGREE : k]
        if alike and not within and last.ends[place - 1] == end:
            return _Tokens(last.ids[:place] + tail.ids[k:], last.ends[:place] + ends[k:])
    return None


def _read(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], special: bool, after: int
) -> list[_Tokens]:
    """Texts tokenised as they are, without the ``after`` special tokens at their ends."""
    if not texts:
        return []
    read = tokenizer(
        list(texts),
        add_special_tokens=special,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    return [
        _Tokens(list(ids[: len(ids) - after]), [end for _, end in spans[: len(ids) - after]])
        for ids, spans in zip(read["input_ids"], read["offset_mapping"], strict=True)
    ]
