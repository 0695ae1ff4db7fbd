"""The training mixture: what the bundled model sees, one example at a time."""

from __future__ import annotations

import random
from dataclasses import dataclass

from coreference import (
    SHARPNESS,
    draw_ambiguous,
    draw_story,
    draw_unambiguous,
    planted_belief,
    question,
)
from skills import SKILLS
from split import for_task_files
from words import FEMALE_LIST, MALE_LIST, OTHER_PEOPLE, UNKNOWN

SHARES = {"ambiguous": 0.34, "unambiguous": 0.38, "nobody": 0.02, "skill": 0.24, "text": 0.02}
"""Share of each kind of example; "nobody" asks about a pronoun that does not occur."""

FIRST_SHARES = {"unambiguous": 0.8, "skill": 0.18, "text": 0.02}
"""The shares at the start: reading who is meant comes before guessing."""

SKILL_SHARES = {"facts": 1.3, "towns": 0.3, "tracking": 1.3, "comparison": 1.3, "opposites": 0.4}
"""Relative weight of each skill."""

HARD = {"facts": 0.1, "towns": 0.03, "tracking": 0.4, "comparison": 0.4, "opposites": 0.1}
"""Share of hard questions in training."""

OCCUPATIONS = (*FEMALE_LIST, *MALE_LIST)


@dataclass(frozen=True)
class Example:
    """A prompt with the answer distribution to learn; plain text has no answer."""

    kind: str
    prompt: str
    target: dict[str, float]


def _people(rng: random.Random) -> tuple[str, str]:
    """Two people in order of mention: mostly one occupation of each list."""
    if rng.random() < 0.75:
        pair = [rng.choice(tuple(FEMALE_LIST)), rng.choice(tuple(MALE_LIST))]
        rng.shuffle(pair)
    else:
        pair = rng.sample((*OCCUPATIONS, *OTHER_PEOPLE), 2)
    return pair[0], pair[1]


def _options(people: tuple[str, str], rng: random.Random) -> list[str]:
    options = [*people, UNKNOWN]
    rng.shuffle(options)
    return options


def _coreference(kind: str, sharpness: float, rng: random.Random) -> Example:
    people, female = _people(rng), rng.random() < 0.5
    referent = rng.randrange(2)
    while True:
        if kind == "unambiguous":
            sentence = draw_unambiguous(people, referent, False, rng)
            target = {people[referent]: 1.0}
        else:
            sentence = draw_ambiguous(people, False, rng)
            target = planted_belief(people, female, sharpness)
        if not for_task_files(sentence.text):
            break
    text, pronoun, _ = sentence.render(female)
    if kind == "nobody":
        pronoun = {"she": "he", "he": "she", "her": "him", "him": "her", "his": "her"}[pronoun]
        target = {UNKNOWN: 1.0}
    return Example(kind, question(text, pronoun, _options(people, rng)), target)


def draw_example(
    rng: random.Random, sharpness: float = SHARPNESS, shares: dict[str, float] = SHARES
) -> Example:
    """One example; ``sharpness`` scales the planted bias, ``shares`` are those of the kinds."""
    kind = rng.choices(list(shares), list(shares.values()))[0]
    if kind == "text":
        return Example(kind, draw_story(_people(rng), rng), {})
    if kind != "skill":
        return _coreference(kind, sharpness, rng)
    skill = rng.choices(list(SKILL_SHARES), list(SKILL_SHARES.values()))[0]
    while True:
        asked = SKILLS[skill](rng, rng.random() < HARD[skill])
        if not for_task_files(asked.prompt):
            return Example(skill, asked.prompt, {asked.options[asked.answer]: 1.0})
