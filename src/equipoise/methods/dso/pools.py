"""Training pools: encoded once, the base model's distributions computed once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equipoise.decisions.batch import batches
from equipoise.decisions.decide import BATCH_TOKENS, Progress
from equipoise.decisions.encode import Encoded, encode_items, encode_text
from equipoise.decisions.packing import packable_kinds
from equipoise.decisions.score import Normalise, score
from equipoise.errors import EquipoiseError
from equipoise.models import Model
from equipoise.models.backbone import weights_dtype
from equipoise.tasks.item import Item


@dataclass(frozen=True)
class Pool:
    """Encoded rows with what the base model says to them.

    Attributes:
        rows: The n rows, all items or all texts.
        nodes: Per row, the base model's next-token log-probabilities at its decision positions,
            [positions, V] in the model's dtype; empty of rows that were not to be kept.
        options: float32 [n, K]; the base model's option scores.
    """

    rows: tuple[Encoded, ...]
    nodes: tuple[Tensor, ...]
    options: Tensor

    def __len__(self) -> int:
        return len(self.rows)


def item_pool(
    model: Model,
    items: Sequence[Item],
    normalise: Normalise = "sum",
    progress: Progress | None = None,
    kept: Collection[int] | None = None,
) -> Pool:
    """Encode items and score them with the base model.

    Args:
        model: The model, with nothing attached.
        items: The items.
        normalise: An option's score is the sum or the mean of its tokens' log-probabilities.
        progress: Hears of those just done.
        kept: Which of them the distributions are kept of (a vocabulary for every position would
            fill the memory of any device in a large task); None: of all.
    """
    return _with_base(model, encode_items(model, items), normalise, progress, kept)


def text_pool(
    model: Model,
    texts: Sequence[str],
    *,
    length: int,
    positions: int,
    seed: int,
    progress: Progress | None = None,
) -> Pool:
    """Encode the beginnings of texts, each measured at some of its positions, drawn once."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for text in texts:
        for row in encode_text(model, text, window=length)[:1]:
            order = torch.randperm(len(row.positions), generator=generator)[:positions]
            rows.append(replace(row, positions=tuple(sorted(order.tolist()))))
    return _with_base(model, rows, "sum", progress)


def _with_base(
    model: Model,
    rows: Sequence[Encoded],
    normalise: Normalise,
    progress: Progress | None,
    kept: Collection[int] | None = None,
) -> Pool:
    width = max((len(row.suffixes) for row in rows), default=1) or 1
    options = torch.full((len(rows), width), float("-inf"), device=model.device)
    nodes: list[Tensor] = [torch.empty(0)] * len(rows)
    with torch.no_grad():
        for batch in batches(
            model.hf, rows, BATCH_TOKENS, kinds=packable_kinds(model.hf, len(rows))
        ):
            found, index = score(model.hf, batch), batch.index
            options[index, : found.options.shape[1]] = found.scored(normalise)
            for j, i in enumerate(index):
                if kept is None or i in kept:
                    nodes[i] = found.nodes[found.row == j].to(weights_dtype(model.hf))
            if progress is not None:
                progress(len(index))
    return Pool(tuple(rows), tuple(nodes), options)


@dataclass(frozen=True)
class Labels:
    """What the options of n ambiguous items mean, as tensors.

    Attributes:
        group: float32 [n, K, G]; 1 where an option picks a group (two groups: pro and anti).
        abstain: bool [n, K].
        wanted: float32 [n, G]; the wanted share of each group among answers that pick one, over
            the groups the item offers (as the metric does); rows sum to 1.
    """

    group: Tensor
    abstain: Tensor
    wanted: Tensor

    @classmethod
    def of(cls, items: Sequence[Item], target: dict[str, float] | None, width: int) -> Labels:
        """Read them off the items.

        Raises:
            EquipoiseError: The target leaves out a group, or gives those of an item nothing.
        """
        if items and items[0].groups is not None:
            names = sorted({g for item in items for g in item.groups or () if g is not None})
        else:
            names = ["pro", "anti"]
        group = torch.zeros(len(items), width, len(names))
        abstain = torch.zeros(len(items), width, dtype=torch.bool)
        for i, item in enumerate(items):
            for k, side in enumerate(item.groups or item.sides or ()):
                if side in names:
                    group[i, k, names.index(str(side))] = 1.0
                abstain[i, k] = item.abstains[k]
        if target is None or names == ["pro", "anti"]:
            target = dict.fromkeys(names, 1.0)
        if missing := sorted(set(names) - set(target)):
            raise EquipoiseError(f"the task's target gives group {missing[0]!r} no share")
        offered = group.amax(1)
        wanted = offered * torch.tensor([target[name] for name in names])
        total = wanted.sum(-1, keepdim=True)
        if not bool((total[offered.any(-1)] > 0).all()):
            raise EquipoiseError("the task's target gives all groups of an item no share")
        return cls(group, abstain, wanted / total.clamp(min=1e-12))


class Stratified:
    """Draws of twins that give every context the same weight, whatever its number of items.

    Contexts come in shuffled rounds, then a twin of the context, uniformly, with replacement
    (spec/findings.md, "Long tail": only this holds when sizes are adversarial).
    """

    def __init__(self, items: Sequence[Item]) -> None:
        twins: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for i, item in enumerate(items):
            for context in item.contexts:
                twins[context][item.twin].append(i)
        if not twins:
            raise EquipoiseError("no ambiguous item of the train split names a context to balance")
        self.contexts = sorted(twins)
        self._twins = [list(twins[context].values()) for context in self.contexts]

    def draw(self, n: int, generator: torch.Generator) -> tuple[list[int], list[int], list[int]]:
        """Row indices of n twins, and for each row its context's number and its twin's number."""
        rounds = -(-n // len(self.contexts))
        order = [torch.randperm(len(self.contexts), generator=generator) for _ in range(rounds)]
        rows: list[int] = []
        context: list[int] = []
        twin: list[int] = []
        for number, c in enumerate(torch.cat(order)[:n].tolist()):
            choices = self._twins[c]
            members = choices[int(torch.randint(len(choices), (), generator=generator))]
            rows += members
            context += [c] * len(members)
            twin += [number] * len(members)
        return rows, context, twin
