"""A small task for the tests of decisions, methods and studies."""

from __future__ import annotations

from collections.abc import Sequence

from equipoise.tasks import Task
from equipoise.tasks.item import Item, Side, Split

OCCUPATIONS = ("nurse", "mechanic", "secretary", "carpenter")
_PLACES = ("station", "theater", "office", "shop", "school", "park", "museum", "market")
_FEMALE = {"nurse", "secretary"}


def twin(occupation: str, number: int, split: Split, *, abstain: bool = True) -> list[Item]:
    """The he and the she item of one prompt about one occupation."""
    rival = "carpenter" if occupation in _FEMALE else "nurse"
    options = (occupation, rival) if number % 2 else (rival, occupation)
    items = []
    for pronoun in ("he", "she"):
        leaning = (pronoun == "she") == (occupation in _FEMALE)
        sides: list[Side] = [
            "pro" if (option == occupation) == leaning else "anti" for option in options
        ]
        items.append(
            Item(
                id=f"{split}-{occupation}-{number}-{pronoun}",
                twin=f"{split}-{occupation}-{number}",
                prompt=f"The {occupation} met the {rival} at the {_PLACES[number % 8]}. "
                f"Then {pronoun} left. Who left?",
                options=(*options, "unknown") if abstain else options,
                contexts=(occupation,),
                sides=(*sides, "abstain") if abstain else tuple(sides),
                attribute=(pronoun,),
                split=split,
            )
        )
    return items


def anchor(number: int, split: Split) -> Item:
    """An unambiguous item with more options than the ambiguous ones have."""
    return Item(
        id=f"{split}-anchor-{number}",
        prompt=f"The nurse was at the {_PLACES[number % 8]}. Where was the nurse?",
        options=_PLACES[:4],
        answer=number % 4,
        split=split,
    )


def small_task(
    sizes: Sequence[int] = (2, 2, 2, 2),
    *,
    splits: Sequence[Split] = ("train", "validation", "test"),
    anchors: int = 4,
    abstain: bool = True,
) -> Task:
    """``sizes`` twins of each occupation and some anchors in every split."""
    items: list[Item] = []
    for split in splits:
        for occupation, size in zip(OCCUPATIONS, sizes, strict=False):
            for number in range(size):
                items += twin(occupation, number, split, abstain=abstain)
        items += [anchor(number, split) for number in range(anchors)]
    return Task("small", tuple(items))
