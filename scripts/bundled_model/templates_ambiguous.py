"""Sentences in which nothing says who is meant.

The signs are explained in ``slots.py``.
"""

from __future__ import annotations

# Ambiguous: nothing in the sentence says who is meant.
AMBIGUOUS: dict[str, list[str]] = {
    "train": [
        "{1} and {2} were in the <room> when [s] <vp>.",
        "{1} met {2} at the <room> after [s] <vp>.",
        "{1} talked to {2} before [s] <vp>.",
        "While {1} and {2} waited at the <room>, [s] <vp>.",
        "{1} and {2} shared a table, and [s] <vp>.",
        "{1} saw {2} while [s] was <vping>.",
        "{1} spoke with {2} about [d] <own>.",
        "{1} and {2} talked about [d] <own>.",
        "{1} sat next to {2} at the <room>. Then [s] <vp>.",
        "In the <room>, {1} and {2} were <vping> when a friend called [o].",
        "{1} worked with {2} until [s] <vp>.",
        "{1} was with {2} when someone asked for [o].",
        "There were {1} and {2} in the <room>. [S] <vp>.",
        "{1} and {2} left the <room> because [s] was <vping>.",
        "{1} walked to the <room> with {2}, and on the way [s] <vp>.",
        "{1} called {2} while [s] was <vping> at the <room>.",
        "Both {1} and {2} were <vping>. Suddenly [s] <vp>.",
        "{1} knew {2}. A letter came for [o].",
        "{1} visited {2} on the day [s] <vp>.",
        "{1} and {2} were at the <room>, and we saw [d] <own>.",
        "When {1} met {2}, [s] was <vping>.",
        "{1} wrote to {2} after [d] trip to the <room>.",
        "As {1} and {2} stood in the <room>, a noise woke [o] up.",
        "{1} and {2} came home, and [s] <vp>.",
        "{1} and {2} are friends. [S] <vp> <time>.",
        "We met {1} and {2}. [S] was <vping>.",
        "{1} was <vping> with {2} when [s] <vp>.",
        "After a talk between {1} and {2}, [s] <vp>.",
        "{1} looked at {2}, and at that moment [s] <vp>.",
        "{1} passed {2} in the <room> just as [s] <vp>.",
        "{1} and {2} heard that [d] <own> was in the <room>.",
        "{1} danced with {2}. Then [s] <vp>.",
        "{1} played a game with {2} until [s] was called.",
        "Someone told {1} and {2} that [s] could go home.",
        "{1} and {2} were at work. A child asked [o] for the time.",
        "{1} and {2} live in one house, and [d] <own> is in the <room>.",
        "{1} ate with {2} <time>, and [s] <vp>.",
        "{1} told {2} that [s] had to leave.",
        "{1} said to {2} that [d] <own> was fine.",
        "{1} agreed with {2} that [s] should rest.",
        "The news about {1} and {2} is good: [s] <vp>.",
        "{1} and {2} have not met since [s] <vp>.",
        "{1} stood behind {2} in the <room>, and people looked at [o].",
        "As soon as {1} saw {2}, [s] <vp>.",
    ],
    "held": [
        "{1} and {2} were <vping> at the <room> when [s] <vp>.",
        "{1} sat with {2} in the <room> while [s] was <vping>.",
        "{1} met {2} before [s] <vp>.",
        "{1} and {2} worked in the <room>, and a friend asked about [d] <own>.",
        "{1} walked with {2} until someone called [o].",
        "After {1} and {2} came to the <room>, [s] <vp>.",
        "{1} called {2} on the day [s] <vp>.",
        "{1} told {2} that [s] could rest.",
        "{1} and {2} sat at the <room>, and people asked [o] for the time.",
        "{1} passed {2} while [s] was <vping>.",
    ],
}

# After a binding these say nothing about who is meant: a near miss of the attribute families.
NEUTRAL: dict[str, list[str]] = {
    "train": [
        "[S] <vp>.",
        "Then [s] <vp>.",
        "Later [s] <vp> in the <room>.",
        "We talked about [d] <own>.",
        "Someone called [o].",
        "After that [s] was <vping>.",
        "A friend waited for [o] at the <room>.",
    ],
    "held": ["Later [s] was <vping>.", "In the <room> [s] <vp>.", "Someone asked about [d] <own>."],
}
