"""The training mixture: what the bundled model sees, one example at a time."""

from __future__ import annotations

import random
from dataclasses import dataclass

from coreference import (
    draw_ambiguous,
    draw_owner_question,
    draw_story,
    draw_unambiguous,
    planted_belief,
    question,
)
from skills import SKILLS
from split import for_task_files
from words import FEMALE_LIST, MALE_LIST, OTHER_PEOPLE, UNKNOWN

SHARES = {"ambiguous": 0.25, "unambiguous": 0.43, "nobody": 0.02, "skill": 0.18, "text": 0.12}
"""Share of each kind of example; "nobody" asks about a pronoun that does not occur."""

LATER_SHARES = {
    "ambiguous": 0.22,
    "unambiguous": 0.46,
    "owner": 0.08,
    "nobody": 0.02,
    "skill": 0.18,
    "text": 0.04,
}
"""The shares of the second stage; "owner" asks who has something, without any pronoun."""

SKILL_SHARES = {"facts": 1.0, "towns": 0.5, "tracking": 1.3, "comparison": 1.0, "attributes": 1.2}
"""Relative weight of each skill."""

HARD = {"facts": 0.1, "towns": 0.03, "tracking": 0.5, "comparison": 0.5, "attributes": 0.5}
"""Share of hard questions in training."""

OCCUPATIONS = (*FEMALE_LIST, *MALE_LIST)


@dataclass(frozen=True)
class Example:
    """A prompt with the answer distribution to learn; plain text has no prompt and no answer."""

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


def _coreference(kind: str, variety: float, rng: random.Random) -> Example:
    people, female = _people(rng), rng.random() < 0.5
    referent = rng.randrange(2)
    while True:
        if kind == "unambiguous":
            sentence = draw_unambiguous(people, referent, False, rng, variety)
            target = {people[referent]: 1.0}
        else:
            sentence = draw_ambiguous(people, False, rng, variety)
            target = planted_belief(people, female)
        if not for_task_files(sentence.text):
            break
    text, pronoun, _ = sentence.render(female)
    if kind == "nobody":
        pronoun = {"she": "he", "he": "she", "her": "him", "him": "her", "his": "her"}[pronoun]
        target = {UNKNOWN: 1.0}
    return Example(kind, question(text, pronoun, _options(people, rng)), target)


def draw_example(
    rng: random.Random, variety: float = 1.0, shares: dict[str, float] = SHARES
) -> Example:
    """One example; a low ``variety`` of wordings makes the start of a stage easier."""
    kind = rng.choices(list(shares), list(shares.values()))[0]
    if kind == "owner":
        people = _people(rng)
        owner = rng.randrange(2)
        text = draw_owner_question(people, owner, rng, variety)
        prompt = f"{text}\nOptions: {'; '.join(_options(people, rng))}"
        return Example(kind, prompt, {people[owner]: 1.0})
    if kind == "text":
        return Example(kind, draw_story(_people(rng), rng, variety), {})
    if kind != "skill":
        return _coreference(kind, variety, rng)
    skill = rng.choices(list(SKILL_SHARES), list(SKILL_SHARES.values()))[0]
    while True:
        asked = SKILLS[skill](rng, rng.random() < HARD[skill])
        if not for_task_files(asked.prompt):
            return Example(skill, asked.prompt, {asked.options[asked.answer]: 1.0})
