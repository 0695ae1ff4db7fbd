"""Other evidence: roles in an event, and contrasts of opposites.

The signs are explained in ``slots.py``.
"""

from __future__ import annotations

# Roles: an event with an agent {x} and a patient {y}, in both orders, and a reason that fits one.
ROLES: dict[str, dict[str, list[str]]] = {
    "give": {
        "agent first": ["{x} gave {y} a <gift>", "{x} lent {y} a <gift>", "{x} sold {y} a <gift>",
                        "{x} brought {y} a <gift>", "{x} sent a <gift> to {y}"],
        "patient first": ["{y} got a <gift> from {x}", "{y} borrowed a <gift> from {x}",
                          "{y} bought a <gift> from {x}", "{y} took a <gift> from {x}"],
        "agent": ["had two of them", "did not need it anymore", "had too many of them"],
        "patient": ["needed one", "did not have one", "had asked for one"],
    },
    "teach": {
        "agent first": ["{x} taught {y} to <skill>", "{x} showed {y} how to <skill>"],
        "patient first": ["{y} learned to <skill> from {x}", "{y} was taught to <skill> by {x}"],
        "agent": ["was very good at it", "had done it for years", "knew how to do it"],
        "patient": ["wanted to learn it", "had never done it before", "did not know how to do it"],
    },
    "help": {
        "agent first": ["{x} helped {y}", "{x} did the work for {y}", "{x} offered help to {y}"],
        "patient first": ["{y} asked {x} for help", "{y} needed help from {x}",
                          "{y} was helped by {x}"],
        "agent": ["was kind and had time", "knew what to do", "was free to help"],
        "patient": ["could not do it alone", "did not know what to do", "had too much to do"],
    },
    "win": {
        "agent first": ["{x} beat {y} in the game", "{x} won the race against {y}"],
        "patient first": ["{y} lost the game to {x}", "{y} was beaten by {x} in the race"],
        "agent": ["was much faster", "had trained more", "played better"],
        "patient": ["was much slower", "had trained less", "played worse"],
    },
    "wait": {
        "agent first": ["{x} waited for {y}", "{x} had to wait for {y}"],
        "patient first": ["{y} kept {x} waiting", "{y} came after {x}"],
        "agent": ["was early", "had come too early", "was there first"],
        "patient": ["was late", "had missed the bus", "was there last"],
    },
    "sorry": {
        "agent first": ["{x} said sorry to {y}", "{x} wrote {y} a sorry note"],
        "patient first": ["{y} forgave {x}", "{y} was angry with {x}"],
        "agent": ["had broken the vase", "had made a mistake", "had told a lie"],
        "patient": ["had been hurt by the mistake", "had been told a lie",
                    "had been treated badly"],
    },
    "pay": {
        "agent first": ["{x} paid {y}", "{x} gave {y} some money"],
        "patient first": ["{y} was paid by {x}", "{y} got some money from {x}"],
        "agent": ["owed money for the work", "was happy with the work", "had ordered the work"],
        "patient": ["had done the work", "had finished the work", "had worked hard"],
    },
    "lead": {
        "agent first": ["{x} led {y} through the town", "{x} showed {y} the way"],
        "patient first": ["{y} followed {x} through the town", "{y} asked {x} for the way"],
        "agent": ["knew the town well", "had been there before", "had a map"],
        "patient": ["was lost", "had never been there before", "had no map"],
    },
    "news": {
        "agent first": ["{x} told {y} the news", "{x} wrote to {y} about the fire",
                        "{x} explained the plan to {y}"],
        "patient first": ["{y} heard the news from {x}", "{y} asked {x} about the fire",
                          "{y} was told about the plan by {x}"],
        "agent": ["had seen it all", "had heard it first", "knew more about it"],
        "patient": ["had not heard of it yet", "wanted to know about it", "had missed it"],
    },
    "carry": {
        "agent first": ["{x} carried {y} home", "{x} drove {y} home", "{x} took {y} home"],
        "patient first": ["{y} was carried home by {x}", "{y} went home with the help of {x}",
                          "{y} was taken home by {x}"],
        "agent": ["had a car outside", "was strong enough", "had a big van"],
        "patient": ["had broken a leg", "could not walk", "had hurt a foot"],
    },
    "hide": {
        "agent first": ["{x} ran away from {y}", "{x} hid from {y}"],
        "patient first": ["{y} frightened {x}", "{y} looked for {x}"],
        "agent": ["was afraid", "felt very small", "did not want to be found"],
        "patient": ["looked very angry", "shouted so loudly", "had a big stick"],
    },
    "feed": {
        "agent first": ["{x} cooked for {y}", "{x} made a cake for {y}", "{x} fed {y}"],
        "patient first": ["{y} ate what {x} had made", "{y} was fed by {x}",
                          "{y} had dinner from {x}"],
        "agent": ["liked to cook", "had food enough for two", "had learned to bake"],
        "patient": ["was hungry", "had not eaten all day", "could not cook"],
    },
    "praise": {
        "agent first": ["{x} praised {y}", "{x} gave {y} a prize"],
        "patient first": ["{y} got a prize from {x}", "{y} was praised by {x}"],
        "agent": ["liked the song very much", "had to choose the best", "had seen all the others"],
        "patient": ["had done very well", "had made the best picture", "had sung so well"],
    },
    "wake": {
        "agent first": ["{x} woke {y}", "{x} made a noise and woke {y}"],
        "patient first": ["{y} was woken by {x}", "{y} heard {x} in the night"],
        "agent": ["got up first", "was too loud", "had dropped a plate"],
        "patient": ["was still asleep", "had slept too long", "was still in bed"],
    },
}  # fmt: skip

ANTONYMS = (
    "tall short|old young|strong weak|fast slow|rich poor|loud quiet|calm nervous|happy sad|"
    "lazy busy|early late|healthy sick|brave afraid|warm cold|full hungry|clean dirty|dry wet"
)
"""Pairs of opposites for the contrast families."""

CONTRAST: dict[str, list[str]] = {
    "train": [
        "{1} was {p} and {2} was {q}. [S] had always been {r}.",
        "{1} was {p}, but {2} was {q}. People said [s] was too {r}.",
        "{1} seemed {p}; {2} seemed {q}. It was easy to see that [s] was {r}.",
        "While {1} was {p}, {2} was {q}. Being {r}, [s] left.",
        "{1} felt {p} and {2} felt {q}. [S] did not want to be so {r}.",
        "{1} met {2}. {1} was very {p} and {2} was very {q}. [S] was the {r} one.",
        "{1}, who was {p}, met {2}, who was {q}. [S] was {r} all day.",
        "{1} looked {p} and {2} looked {q}. We asked why [s] was {r}.",
        "Of the two, {1} was {p} and {2} was {q}. So [s] was called the {r} one.",
        "{1} became {p} when {2} became {q}. [S] was {r} for years.",
        "The {p} one was {1}. The {q} one was {2}. [S] was {r} like nobody else.",
        "{1} had been {p} and {2} had been {q}. Now [s] was not {r} anymore.",
        "We knew that {1} was {p} and {2} was {q}. To be {r} was hard for [o].",
        "{1} was {p}. {2} was {q}. Everyone could see [o] being {r}.",
        "If {1} was {p}, {2} was {q}. [S] hated being {r}.",
        "{1} came home {p} and {2} came home {q}. [S] did not mind being {r}.",
        "{1} thinks of being {p}, {2} of being {q}. One day [s] will be {r}.",
        "{1} is {p}, but {2} is {q}. It is good for [o] to be {r}.",
        "There were two: {1}, {p}, and {2}, {q}. [S] was as {r} as a child.",
        "Today {1} is {p} and {2} is {q}. [S] is often {r}.",
        "{1} sat down, {p}, and so did {2}, {q}. [S] was still {r} at night.",
    ],
    "held": [
        "{1} seemed {p}, while {2} seemed {q}. [S] was {r} all day.",
        "{1} was {p}; {2} was {q}. It was [s] who was {r}.",
        "{1} became {p} and {2} became {q}. Everyone asked why [s] was {r}.",
        "{1} looked {p}, but {2} looked {q}. [S] had been {r} for years.",
        "We knew that {1} was {p}, but {2} was {q}. [S] was still {r} at night.",
    ],
}
