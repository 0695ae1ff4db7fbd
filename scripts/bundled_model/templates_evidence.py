"""Other evidence: roles in an event, contrasts of opposites, and grammar.

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

# Grammar: the structure alone decides. Each pair is (the first person is meant, the second is).
GRAMMAR: dict[str, list[tuple[str, str]]] = {
    "train": [
        ("{1}, who had lost [d] <gift>, waited for {2}.",
         "{1} waited for {2}, who had lost [d] <gift>."),
        ("{1}, who said [s] was tired, met {2} at the <room>.",
         "{1} met {2}, who said [s] was tired, at the <room>."),
        ("When {1} arrived at the <room>, {2} greeted [o].",
         "{1} arrived at the <room>, saw {2} and greeted [o]."),
        ("{1} fell, and {2} helped [o] up.", "{1} saw {2} fall and helped [o] up."),
        ("{1} was in the <room>, and {2} called [o].",
         "{1} knew that {2} was in the <room> and called [o]."),
        ("{1} <vp>, and {2} looked at [o].", "{1} looked at {2} and smiled at [o]."),
        ("{1} was hungry, so [s] ate, and {2} only watched.",
         "{1} only watched, but {2} was hungry, so [s] ate."),
        ("{1} was tired, so [s] went to bed. {2} stayed up.",
         "{1} stayed up. {2} was tired, so [s] went to bed."),
        ("{1} (whose friends liked [o]) met {2}.", "{1} met {2} (whose friends liked [o])."),
        ("{1} took [d] own <own> and left {2} alone.",
         "{1} was left alone when {2} took [d] own <own> and left."),
        ("{1} <vp> when {2} called [o].", "{1} called {2} and asked [o] to come."),
        ("{1} finished [d] own work while {2} slept.",
         "{1} slept while {2} finished [d] own work."),
        ("{1} thought that {2} would visit [o].", "{1} promised {2} to visit [o]."),
        ("{1} hoped {2} would call [o].", "{1} told {2} the news and then called [o]."),
        ("{1} and [d] friends sang for {2}.", "{1} sang for {2} and [d] friends."),
        (
            "{1}, so proud of [d] own <own>, met {2}.",
            "{1} met {2}, who was proud of [d] own <own>.",
        ),
        ("{1} left when {2} asked [o] to.", "{1} asked {2} to leave and watched [o] go."),
        ("{1} heard that {2} liked [o].", "{1} heard {2} and thanked [o]."),
        ("{1} came in, and then {2} saw [o].", "{1} came in, found {2} and hugged [o]."),
        ("{1} slept in [d] own bed, and {2} on the floor.",
         "{1} slept on the floor, and {2} in [d] own bed."),
        ("{1}, who <vp> in [d] room, did not see {2}.",
         "{1} did not see {2}, who <vp> in [d] room."),
        ("As for {1}, [s] <vp>. {2} did not.", "{1} did nothing. As for {2}, [s] <vp>."),
        ("{1} was alone. [S] <vp>. Then {2} came.", "{1} went away. {2} was alone. [S] <vp>."),
        ("{1} <vp> after [s] got up, and {2} did not.",
         "{1} did not get up, and {2} <vp> after [s] got up."),
        ("{1} said to {2}: help me! So {2} helped [o].",
         "{1} heard {2} say: help me! So {1} helped [o]."),
        ("{1} looked ill. {2} took [o] home.", "{1} was fine and took {2} home. {1} made [o] tea."),
        ("While {1} was at [d] own house, {2} was away.",
         "While {1} was away, {2} was at [d] own house."),
        ("{1} cut [d] own hair, so {2} laughed.", "{1} laughed because {2} cut [d] own hair."),
    ],
    "held": [
        ("{1}, who had lost [d] <own>, called {2}.", "{1} called {2}, who had lost [d] <own>."),
        ("When {1} was in the <room>, {2} called [o].",
         "{1} was in the <room>, saw {2} and called [o]."),
        ("{1} sat in [d] own house, and {2} in the rain.",
         "{1} sat in the rain, and {2} in [d] own house."),
        ("{1} was tired, so [s] left, and {2} stayed.",
         "{1} stayed, but {2} was tired, so [s] left."),
        ("{1}, who <vp> at [d] own house, called {2}.",
         "{1} called {2}, who <vp> at [d] own house."),
        ("{1} left, and then {2} called [o].", "{1} left with {2} and thanked [o]."),
        ("{1} came to the <room>, so {2} hugged [o].",
         "{1} found {2} in the <room> and hugged [o]."),
        ("{1} was hungry, so [s] <vp>. {2} was not.", "{1} was not hungry. {2} was, so [s] <vp>."),
    ],
}  # fmt: skip
