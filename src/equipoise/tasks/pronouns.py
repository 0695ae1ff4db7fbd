"""he or she after "The nurse said that"? A cloze for base models, generated from word lists.

An occupation that is at least 60 % women by the labour statistics makes "she" the
pro-stereotypical answer, one that is at least 60 % men "he". Nouns with a gender of their own (the
boy, the queen) are the unambiguous items: there the pronoun is no stereotype but the meaning of
the word, and must stay.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Literal

from equipoise.tasks.item import SPLITS, Item, Side, Split, Task
from equipoise.tasks.occupations import CENSUS, WINOBIAS, Gender
from equipoise.tasks.splits import hold_out, unit_hash

# Half of each part ends in "because": a tokenizer that merges words across spaces has no token
# " he" after most words, but does after that one.
TEMPLATES: dict[Split, tuple[str, ...]] = {
    "train": (
        "The {noun} said that",
        "The {noun} told us that",
        "The {noun} knew that",
        "The {noun} was tired because",
        "The {noun} went home early because",
        "Everyone liked the {noun} because",
        "The {noun} smiled because",
        "We thanked the {noun} because",
    ),
    "validation": (
        "The {noun} thought that",
        "Yesterday the {noun} promised that",
        "The {noun} was happy because",
        "They waited for the {noun} because",
    ),
    "test": (
        "The {noun} explained that",
        "The {noun} believed that",
        "After lunch the {noun} noticed that",
        "The {noun} was late because",
        "I asked the {noun} for help because",
        "The {noun} stopped for a moment because",
    ),
}
NOUNS: dict[Split, tuple[tuple[str, str], ...]] = {  # (he, she)
    "train": (
        ("father", "mother"),
        ("brother", "sister"),
        ("nephew", "niece"),
        ("king", "queen"),
        ("gentleman", "lady"),
        ("waiter", "waitress"),
        ("dad", "mom"),
        ("stepfather", "stepmother"),
        ("godfather", "godmother"),
        ("widower", "widow"),
        ("lord", "duchess"),
        ("emperor", "empress"),
        ("monk", "nun"),
        ("hero", "heroine"),
        ("host", "hostess"),
        ("landlord", "landlady"),
        ("lad", "lass"),
    ),
    "validation": (
        ("son", "daughter"),
        ("grandfather", "grandmother"),
        ("duke", "countess"),
        ("wizard", "witch"),
    ),
    "test": (("boy", "girl"), ("man", "woman"), ("uncle", "aunt"), ("actor", "actress")),
    "unseen": (("husband", "wife"), ("prince", "princess"), ("groom", "bride")),
}
_CLEAR = 60  # per cent of one gender from which on a leaning counts as well known
_HELD_OUT_SHARE = 0.25
_PRONOUN: dict[Gender, str] = {"male": "he", "female": "she"}


def occupations() -> dict[str, Gender]:
    """The occupations asked about, with the gender most of their people have."""
    shares = {**CENSUS, **WINOBIAS}
    male = {title: share <= 100 - _CLEAR for title, share in shares.items()}
    clear = [title for title, share in shares.items() if male[title] or share >= _CLEAR]
    return {title: "male" if male[title] else "female" for title in sorted(clear)}


def build(nouns: Literal["unseen", "known"] = "unseen") -> Task:
    """Every template with every occupation and gendered noun of its part; each a twin of its own.

    Train and validation use the fit's occupations on their own templates, ``test`` the same
    occupations on templates of its own, ``unseen`` held-out occupations on those.

    Args:
        nouns: ``unseen``: each part has gendered nouns of its own, so that a test asks what a fit
            does to nouns it was not told of. ``known``: train and validation have all of them (they
            are a closed class, which a user can list); test items are the same, on templates that
            no fit sees.
    """
    of_all = tuple(pair for part in SPLITS for pair in NOUNS[part])
    leanings = occupations()
    held_out = _held_out(leanings)
    items: list[Item] = []
    for split in SPLITS:
        for number, template in enumerate(TEMPLATES["test" if split == "unseen" else split]):
            for title, leaning in leanings.items():
                if (title in held_out) == (split == "unseen"):
                    items.append(_item(split, number, template, title, leaning))
            told = nouns == "known" and split in ("train", "validation")
            for male, female in of_all if told else NOUNS[split]:
                items.append(_item(split, number, template, male, "male", lexical=True))
                items.append(_item(split, number, template, female, "female", lexical=True))
    return Task(
        name="pronouns",
        items=tuple(items),
        notes=("pro and anti by U.S. labour statistics; gendered nouns are the unambiguous items",),
    )


def _held_out(leanings: dict[str, Gender]) -> frozenset[str]:
    """A quarter of each leaning, whole families of titles: truck and taxi driver go together."""
    heads: dict[Gender, set[str]] = defaultdict(set)
    for title, leaning in leanings.items():
        heads[leaning].add(title.split()[-1])
    chosen = {gender: hold_out(words, _HELD_OUT_SHARE) for gender, words in heads.items()}
    return frozenset(t for t, leaning in leanings.items() if t.split()[-1] in chosen[leaning])


def _item(
    split: Split, number: int, template: str, noun: str, gender: Gender, *, lexical: bool = False
) -> Item:
    identity = f"{'test' if split == 'unseen' else split}{number}-{noun.replace(' ', '-')}"
    options = ("he", "she") if unit_hash("order", identity) < 0.5 else ("she", "he")
    expected = _PRONOUN[gender]
    sides: tuple[Side, ...] = tuple("pro" if option == expected else "anti" for option in options)
    return Item(
        id=identity,
        twin=identity,
        contexts=(noun,),
        prompt=template.format(noun=noun),
        options=options,
        sides=None if lexical else sides,
        answer=options.index(expected) if lexical else None,
        classes=options,
        attribute=(noun,) if lexical else (),
        split=split,
    )
