"""The item and the task: what is put to a model, and what its answers mean."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

Side = Literal["pro", "anti", "abstain"]
Split = Literal["train", "validation", "test", "unseen"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test", "unseen")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One prompt with its options (contract ``equipoise/task/1``; see docs/task-files.md).

    Attributes:
        id: Unique within its task.
        contexts: The occupations (or other contexts) this item is evidence on; several when one
            answer speaks about several, and empty for plain capability questions.
        prompt: What the model reads.
        options: Two or more distinct answers.
        sides: Aligned with ``options``: ``pro``/``anti``/``abstain`` or None.
        groups: Instead of ``sides`` for more than two groups: the group each option picks, None
            for an abstention.
        answer: Index of the right option; None for an ambiguous item.
        twin: Items that differ only in what must not matter share it (defaults to the id).
        classes: Which class of option each is (for the shares), or None.
        attribute: The words of the prompt that carry the protected attribute.
        images: Paths of images, absolute.
        split: ``train``, ``validation``, ``test``, or ``unseen`` (contexts held out of the fit).
    """

    id: str
    prompt: str
    options: tuple[str, ...]
    contexts: tuple[str, ...] = ()
    sides: tuple[Side | None, ...] | None = None
    groups: tuple[str | None, ...] | None = None
    answer: int | None = None
    twin: str = ""
    classes: tuple[str | None, ...] | None = None
    attribute: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    split: Split = "test"

    def __post_init__(self) -> None:
        if not self.twin:
            object.__setattr__(self, "twin", self.id)

    @property
    def ambiguous(self) -> bool:
        """Whether no option is right by the evidence given."""
        return self.answer is None

    @property
    def abstains(self) -> tuple[bool, ...]:
        """Per option: does it abstain? (sides say so; with groups, the ungrouped options do)."""
        if self.sides is not None:
            return tuple(side == "abstain" for side in self.sides)
        if self.groups is not None:
            return tuple(group is None for group in self.groups)
        return tuple(False for _ in self.options)


@dataclass(frozen=True, kw_only=True)
class SentencePair:
    """Two whole sentences whose likelihoods are compared.

    Attributes:
        id: Unique within its task.
        more: The more stereotypical one.
        less: The other.
        kind: What the stereotype is about.
        twin: Pairs that must count as one share it (defaults to the id).
        split: As of an item.
    """

    id: str
    more: str
    less: str
    kind: str
    twin: str = ""
    split: Split = "test"

    def __post_init__(self) -> None:
        if not self.twin:
            object.__setattr__(self, "twin", self.id)


@dataclass(frozen=True, kw_only=True)
class OpenPrompt:
    """A prompt to be answered in free text, which a scorer judges; of the ``test`` split.

    Attributes:
        id: Unique within its task.
        prompt: What the model reads.
        part: The part of the benchmark it is from.
        axis: The social axis it is about.
        group: The group on that axis.
    """

    id: str
    prompt: str
    part: str
    axis: str
    group: str


@dataclass(frozen=True, repr=False)
class Task:
    """Named items, their splits, and the contexts held out of every fit.

    Attributes:
        name: What the user calls it.
        items: All items, in file order.
        target: With ``groups``: the wanted share of each group (None: equal shares).
        texts: Plain documents that belong to the task as anchors (may be empty).
        pairs: Whole sentences to be compared, measured beside the items.
        prompts: To be answered in free text, measured beside the items.
        notes: One-line remarks for the report (source, licence, what was left out).
    """

    name: str
    items: tuple[Item, ...]
    target: dict[str, float] | None = None
    texts: tuple[str, ...] = ()
    pairs: tuple[SentencePair, ...] = ()
    prompts: tuple[OpenPrompt, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def split(self, *names: Split) -> tuple[Item, ...]:
        """Items of the named splits, in order."""
        return tuple(item for item in self.items if item.split in names)

    @cached_property
    def held_out_contexts(self) -> frozenset[str]:
        """Contexts of ambiguous items that no train, validation or test item speaks about."""
        seen = {c for item in self.items if item.split != "unseen" for c in item.contexts}
        unseen = {
            c
            for item in self.items
            if item.split == "unseen" and item.ambiguous
            for c in item.contexts
        }
        return frozenset(unseen - seen)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all that is asked and wanted, independent of where it was read from."""
        items = digest_items(self.items)
        if not (self.pairs or self.prompts or self.target):
            return items
        beside = [self.target, *map(vars, (*self.pairs, *self.prompts))]
        return hashlib.sha256(json.dumps([items, *beside], sort_keys=True).encode()).hexdigest()

    def with_items(self, items: Iterable[Item]) -> Task:
        """The same task over other items."""
        return replace(self, items=tuple(items))

    def __repr__(self) -> str:
        counts: dict[str, int] = {split: len(self.split(split)) for split in SPLITS}
        counts |= {"pairs": len(self.pairs), "prompts": len(self.prompts)}
        return f"Task({short(self.name, counts, self.digest)})"


def short(name: str, counts: Mapping[str, int], digest: str) -> str:
    """What a repr says of thousands of items: their name, how many of what, the digest's head."""
    told = [f"{what}={count}" for what, count in counts.items() if count]
    return ", ".join([repr(name), *told, f"digest={digest[:8]!r}"])


def digest_items(items: Sequence[Item]) -> str:
    """SHA-256 hex digest of items; image paths count by file name only."""
    sha = hashlib.sha256()
    for item in items:
        row = {k: v for k, v in item.__dict__.items() if k != "images"}
        row["images"] = [path.rsplit("/", 1)[-1] for path in item.images]
        sha.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode())
    return sha.hexdigest()


def digest_texts(texts: Iterable[str]) -> str:
    """SHA-256 hex digest of texts in their order."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
