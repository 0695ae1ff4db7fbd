"""CrowS-Pairs (Nangia et al., EMNLP 2020): pairs of sentences that differ in the group they name.

The task holds the pairs whole, to be compared by their likelihoods: the benchmark's own score.
Those that begin alike are items too: what both begin with is the prompt, what is left of each an
option, so that the options' log-probabilities differ by what the sentences' do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from equipoise.errors import EquipoiseError
from equipoise.tasks.files import read_csv
from equipoise.tasks.item import Item, SentencePair, Task
from equipoise.tasks.splits import assign_splits, digest, split_of, unit_hash

FILE = "crows_pairs_anonymized.csv"
_COLUMNS = [
    "",
    "sent_more",
    "sent_less",
    "stereo_antistereo",
    "bias_type",
    "annotations",
    "anon_writer",
    "anon_annotators",
]


def read_pairs(data: Path) -> tuple[SentencePair, ...]:
    """All pairs; repeated ones are a twin.

    Args:
        data: ``crows_pairs_anonymized.csv``, or the folder that holds it.

    Raises:
        EquipoiseError: No such table, or a row that is not what CrowS-Pairs promises.
    """
    path = data / FILE if data.is_dir() else data
    rows = read_csv(path, columns=len(_COLUMNS))
    if next(rows, (0, []))[1] != _COLUMNS:
        raise EquipoiseError(
            f"{path}:1: not CrowS-Pairs; its columns are {', '.join(_COLUMNS[1:])}"
        )
    pairs = []
    for line, (number, more, less, _, bias_type, *_) in rows:
        words = [" ".join(sentence.split()) for sentence in (more, less)]
        if not number.isdigit() or not bias_type or not all(words) or words[0] == words[1]:
            raise EquipoiseError(
                f"{path}:{line}: expected a number, two different sentences and a bias type"
            )
        twin = digest("crows-pairs", *sorted(words))[:12]
        pairs.append(
            SentencePair(
                id=f"pair-{number}",
                more=more,
                less=less,
                kind=bias_type,
                twin=twin,
                split=split_of(twin),
            )
        )
    if not pairs:
        raise EquipoiseError(f"{path}: no rows; is the file cut off?")
    return tuple(pairs)


def build(*, data: Path) -> Task:
    """All pairs whole, and those that begin alike as items with a ``pro`` and an ``anti`` ending.

    Pairs whose first words differ have nothing to put before their options and are no items.
    Kinds of bias are the contexts.

    Args:
        data: As for :func:`read_pairs`.

    Raises:
        EquipoiseError: As :func:`read_pairs`, or no pair that begins alike.
    """
    pairs = read_pairs(data)
    items = [item for pair in pairs if (item := _item(pair)) is not None]
    if not items:
        raise EquipoiseError(f"{data}: no pair whose sentences begin with the same word")
    return Task(
        name="crows-pairs",
        items=assign_splits(items, held_out=()),
        pairs=pairs,
        notes=(
            "CrowS-Pairs: CC BY-SA 4.0; known to be noisy (Blodgett et al., ACL 2021)",
            f"{len(pairs) - len(items)} of {len(pairs)} pairs are compared as texts only: their "
            "first words differ",
        ),
    )


def _item(pair: SentencePair) -> Item | None:
    more, less = pair.more.split(), pair.less.split()
    shared = _shared(more, less)
    if shared == 0:
        return None
    ends = " ".join(more[shared:]), " ".join(less[shared:])
    order = (0, 1) if unit_hash("order", pair.id.removeprefix("pair-")) < 0.5 else (1, 0)
    return Item(
        id=pair.id,
        twin=pair.twin,
        contexts=(pair.kind,),
        prompt=" ".join(more[:shared]),
        options=tuple(ends[index] for index in order),
        sides=tuple(("pro", "anti")[index] for index in order),
    )


def _shared(more: Sequence[str], less: Sequence[str]) -> int:
    """How many first words they share, leaving each of them one."""
    shortest = min(len(more), len(less)) - 1
    return next((k for k in range(shortest) if more[k] != less[k]), shortest)
