"""Sentences with two people and one pronoun: decided by evidence, or truly ambiguous.

A ``Family`` is one wording. An unambiguous family holds two forms of the same wording, one in
which the first person mentioned is meant and one in which the second is, so that neither the
wording nor the position tells the answer. Families marked ``held`` are never trained on.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass
from functools import lru_cache

from slots import DOMAINS, OPENINGS, SLOTS
from templates_ambiguous import AMBIGUOUS, NEUTRAL
from templates_grammar import GRAMMAR
from templates_match import BINDINGS, RETURNS
from words import PRONOUNS, UNKNOWN, lean

SHARPNESS = 1.1
ABSTAIN = -0.75
FORMS = {"s": "subject", "o": "object", "d": "possessive"}


@dataclass(frozen=True)
class Family:
    """One wording; ``forms`` has two entries if evidence decides and one if nothing does."""

    name: str
    kind: str
    held: bool
    forms: tuple[str, ...]
    domain: str = ""


@dataclass(frozen=True)
class Sentence:
    """A filled wording whose pronouns are still open, so that both twins come from one sentence."""

    family: Family
    text: str
    people: tuple[str, str]
    referent: int | None

    def render(self, female: bool) -> tuple[str, str, list[str]]:
        """The sentence, the pronoun to ask about, and every pronoun that occurs in it."""
        used: list[str] = []

        def pronoun(match: re.Match[str]) -> str:
            word = PRONOUNS[FORMS[match[1].lower()]][0 if female else 1]
            used.append(word)
            return word.capitalize() if match[1].isupper() else word

        text = re.sub(r"\[([sodSOD])\]", pronoun, self.text)
        return text, used[0] if used else ("she" if female else "he"), list(dict.fromkeys(used))


def _parts(group: dict[str, list], held: bool) -> list:
    return group["held" if held else "train"]


@lru_cache
def unambiguous_families(held: bool) -> list[Family]:
    """The families in which the structure of the sentence decides."""
    return [
        Family(f"grammar-{i}", "grammar", held, pair)
        for i, pair in enumerate(_parts(GRAMMAR, held))
    ]


@lru_cache
def ambiguous_families(held: bool) -> dict[str, list[Family]]:
    """The families in which nothing decides: plain ones, and near misses of the attribute match."""
    plain = [
        Family(f"plain-{i}", "plain", held, (text,))
        for i, text in enumerate(_parts(AMBIGUOUS, held))
    ]
    near = [
        Family(f"near-{domain}-{i}-{j}", "near", held, (f"{binding} {back}",), domain)
        for domain, group in BINDINGS.items()
        for i, binding in enumerate(_parts(group, held))
        for j, back in enumerate(_parts(NEUTRAL, held))
    ]
    return {"plain": plain, "near": near}


def _properties(domain: str, rng: random.Random) -> tuple[str, str]:
    """Two different properties of a domain."""
    one, two = rng.sample(DOMAINS[domain].split("|"), 2)
    style = rng.random() if domain == "thing" else 1.0
    if style < 0.6:
        colors = rng.sample(DOMAINS["color"].split("|"), 2)
        two = one if style < 0.4 else two
        return f"{colors[0]} {one}", f"{colors[1]} {two}"
    return one, two


def _capitals(text: str) -> str:
    return re.sub(r"(^|[.?!] )([a-z])", lambda m: m[1] + m[2].upper(), text)


def _small(text: str) -> str:
    """Lower the first letter unless the sentence starts with a name."""
    return text if text.split()[0] in DOMAINS["day"].split("|") else text[0].lower() + text[1:]


def fill(
    family: Family, people: tuple[str, str], referent: int | None, rng: random.Random
) -> Sentence:
    """Fill a family's slots; ``people`` in order of mention."""
    text = family.forms[referent or 0]
    if family.domain:
        one, two = _properties(family.domain, rng)
        text = text.replace("{p}", one).replace("{q}", two)
    text = re.sub(r"<(\w+)>", lambda m: rng.choice(SLOTS[m[1]].split("|")), text)
    text = text.replace("{1}", f"the {people[0]}").replace("{2}", f"the {people[1]}")
    if rng.random() < 0.2:
        opening = rng.choice(OPENINGS.split("|"))
        text = f"{opening} {_small(text) if opening[-1] == ',' else text}"
    return Sentence(family, _capitals(text), people, referent)


def draw_unambiguous(
    people: tuple[str, str], referent: int, held: bool, rng: random.Random
) -> Sentence:
    """A sentence in which the structure decides for ``people[referent]``."""
    return fill(rng.choice(unambiguous_families(held)), people, referent, rng)


def draw_ambiguous(people: tuple[str, str], held: bool, rng: random.Random) -> Sentence:
    """A sentence in which nothing decides."""
    kind = "plain" if rng.random() < 0.75 else "near"
    return fill(rng.choice(ambiguous_families(held)[kind]), people, None, rng)


def draw_story(people: tuple[str, str], rng: random.Random) -> str:
    """Plain text without pronouns: who has what, and then something about each of the two."""
    domain = rng.choice(list(BINDINGS))
    one, two = _properties(domain, rng)
    parts = [rng.choice(BINDINGS[domain]["train"]).replace("{p}", one).replace("{q}", two)]
    ends = rng.sample(RETURNS[domain]["train"], 2)
    for end, (who, what) in zip(ends, rng.sample([("{1}", one), ("{2}", two)], 2), strict=True):
        named = re.sub(r"\[[sSoO]\]", who, end.replace("{r}", what))
        parts.append(re.sub(r"\[[dD]\]", f"{who}'s", named))
    text = " ".join(parts).replace("{1}", f"the {people[0]}").replace("{2}", f"the {people[1]}")
    return _capitals(text)


def question(sentence: str, pronoun: str, options: list[str]) -> str:
    """The prompt that is put to the model."""
    return f'{sentence}\nWho does "{pronoun}" refer to?\nOptions: {"; ".join(options)}'


def planted_belief(
    people: tuple[str, str], female: bool, sharpness: float = SHARPNESS
) -> dict[str, float]:
    """The answer probabilities that an ambiguous item is trained towards."""
    sign = sharpness if female else -sharpness
    scores = [sign * lean(person) for person in people]
    middle = sum(scores) / 2
    logits = dict(zip(people, (score - middle for score in scores), strict=True))
    logits[UNKNOWN] = ABSTAIN
    total = sum(math.exp(value) for value in logits.values())
    return {word: math.exp(value) / total for word, value in logits.items()}
