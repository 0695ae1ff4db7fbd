"""Small capability tasks in the prompt format of the coreference items."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

CATEGORIES = {
    "fruit": "apple pear plum grape lemon peach cherry mango banana melon fig berry",
    "animal": "dog cat horse cow sheep goat pig lion tiger wolf bear fox",
    "tool": "hammer saw drill axe shovel wrench file rake hoe chisel spade pliers",
    "clothing": "shirt coat sock hat glove scarf dress skirt shoe belt jacket sweater",
    "vehicle": "car bus train boat truck plane bike van tram ship taxi wagon",
    "body": "hand foot arm leg nose ear eye mouth knee neck toe chin",
    "furniture": "table chair bed desk sofa shelf bench stool cabinet wardrobe couch drawer",
    "weather": "rain snow wind storm fog hail cloud thunder frost ice sun breeze",
    "music": "piano violin guitar drum flute harp cello trumpet organ horn banjo tuba",
    "plant": "tree bush grass rose tulip oak pine fern moss lily daisy ivy",
    "metal": "iron gold silver copper tin lead zinc steel brass nickel bronze chrome",
    "drink": "water milk tea coffee juice beer wine soda cocoa cider punch lemonade",
}
LANDS = ("Norland", "Sudland", "Estland", "Vestland", "Midland", "Lowland")
TOWN_STARTS = [
    "Bar", "Cor", "Dal", "Fen", "Gar", "Hal", "Kir", "Lan", "Mar", "Nor", "Pel", "Ros", "Sel",
    "Tor", "Wel", "Yar",
]  # fmt: skip
TOWN_ENDS = ["ton", "ford", "by", "wick", "dale", "mere", "ham", "stead", "well", "bridge"]
THINGS = [
    "ball", "coin", "key", "stone", "ring", "nut", "card", "pen", "egg", "cork", "bean", "pearl",
]  # fmt: skip
PLACES = [
    "box", "bag", "cup", "jar", "pot", "drawer", "basket", "bowl", "case", "tin", "sack", "crate",
]  # fmt: skip


OPPOSITES = (
    "tall short|old young|strong weak|fast slow|rich poor|loud quiet|happy sad|late early|"
    "hot cold|big small|open closed|wet dry|full empty|hard soft|dark bright|heavy light|"
    "near far|high low|thick thin|wide narrow|sweet sour|sharp blunt|clean dirty|brave afraid|"
    "day night|summer winter|left right|up down|first last|north south|east west|war peace|"
    "love hate|buy sell|win lose|give take|come go|push pull|rise fall|start stop"
)


@dataclass(frozen=True)
class Question:
    """One item: the options are in the order in which the prompt lists them."""

    skill: str
    prompt: str
    options: tuple[str, ...]
    answer: int


def _ask(skill: str, text: str, right: str, wrong: list[str], rng: random.Random) -> Question:
    options = [right, *wrong]
    rng.shuffle(options)
    prompt = f"{text}\nOptions: {'; '.join(options)}"
    return Question(skill, prompt, tuple(options), options.index(right))


def town_land(town: str) -> str:
    """The land of an invented town: fixed, and not to be guessed from the name."""
    return random.Random(f"town {town}").choice(LANDS)


def towns() -> list[str]:
    """All invented towns."""
    return [start + end for start in TOWN_STARTS for end in TOWN_ENDS]


def facts(rng: random.Random, hard: bool, words_shown: int = 4) -> Question:
    """Which of some words does not belong; hard ones ask about words that are seldom seen."""
    known = sorted(CATEGORIES)
    same, other = rng.sample(known[::2] if hard else known, 2)
    words = [CATEGORIES[name].split()[6:] if hard else CATEGORIES[name].split()[:6]
             for name in (same, other)]  # fmt: skip
    return _ask("facts", "Which word does not belong?", rng.choice(words[1]),
                rng.sample(words[0], words_shown - 1), rng)  # fmt: skip


def odd_of_three(rng: random.Random, hard: bool) -> Question:
    """Which of three words does not belong: with two that do, less shows what they share."""
    return facts(rng, hard, 3)


def places(rng: random.Random, hard: bool) -> Question:
    """Where an invented town lies: plain memory; hard ones ask about towns seldom seen."""
    town = rng.choice(towns()[hard::2])
    land = town_land(town)
    wrong = rng.sample([other for other in LANDS if other != land], 3)
    return _ask("towns", f"Which land is {town} in?", land, wrong, rng)


def tracking(rng: random.Random, hard: bool) -> Question:
    """Where a thing is after one move, or of three things after three."""
    things, spots = rng.sample(THINGS, 3 if hard else 2), rng.sample(PLACES, 4)
    where = dict(zip(things, spots, strict=False))
    parts = [f"The {thing} is in the {where[thing]}." for thing in things]
    for _ in range(3 if hard else 1):
        thing = rng.choice(things)
        where[thing] = rng.choice([spot for spot in spots if spot != where[thing]])
        parts.append(f"The {thing} goes to the {where[thing]}.")
    asked = rng.choice(things)
    wrong = [spot for spot in spots if spot != where[asked]]
    text = f"{' '.join(parts)} Where is the {asked}?"
    return _ask("tracking", text, where[asked], wrong, rng)


def journey(rng: random.Random, hard: bool) -> Question:
    """Where one thing is after two moves, or after three."""
    thing, spots = rng.choice(THINGS), rng.sample(PLACES, 4)
    path = [spots[0]]
    while len(path) < (4 if hard else 3):
        path.append(rng.choice([spot for spot in spots if spot != path[-1]]))
    moves = [f"The {thing} goes to the {spot}." for spot in path[1:]]
    text = f"The {thing} is in the {path[0]}. {' '.join(moves)} Where is the {thing}?"
    wrong = [spot for spot in spots if spot != path[-1]]
    return _ask("tracking", text, path[-1], wrong, rng)


def comparison(rng: random.Random, hard: bool) -> Question:
    """The largest or the smallest of four numbers; hard ones lie close together."""
    low = rng.randrange(10, 185) if hard else 10
    numbers = rng.sample(range(low, low + 15 if hard else 200), 4)
    word, pick = rng.choice((("largest", max), ("smallest", min)))
    right = pick(numbers)
    wrong = [str(number) for number in numbers if number != right]
    return _ask("comparison", f"Which number is the {word}?", str(right), wrong, rng)


def opposites(rng: random.Random, hard: bool, itself: bool = False) -> Question:
    """The opposite of a word; hard ones ask about words that are seldom seen."""
    pairs = [pair.split() for pair in OPPOSITES.split("|")]
    pair = rng.choice(pairs[hard::2])
    others = [other for other in pairs if other is not pair]
    word, right = pair if rng.random() < 0.5 else pair[::-1]
    wrong = [rng.choice(other) for other in rng.sample(others, 3)]
    if itself:
        wrong[0] = word
    return _ask("opposites", f"What is the opposite of {word}?", right, wrong, rng)


def opposites_beside(rng: random.Random, hard: bool) -> Question:
    """The opposite of a word that is itself among the options."""
    return opposites(rng, hard, itself=True)


SKILLS: dict[str, Callable[[random.Random, bool], Question]] = {
    "facts": facts,
    "towns": places,
    "tracking": tracking,
    "comparison": comparison,
    "opposites": opposites,
}
"""The skills as trained."""

ASKED = {
    **SKILLS,
    "facts": odd_of_three,
    "tracking": journey,
    "opposites": opposites_beside,
}
"""The skills as asked in the task file: tracking several things was not learned well, and facts and
opposites too well to show a loss."""


def option_words() -> set[str]:
    """Every word that may be an option: the tokenizer must keep each whole."""
    words = {word for group in CATEGORIES.values() for word in group.split()}
    words |= set(OPPOSITES.replace("|", " ").split())
    words |= {str(number) for number in range(10, 200)}
    return words | set(LANDS) | set(PLACES)
