"""Every word the bundled model knows by design: occupations, pronouns, objects and properties.

The lean of an occupation is what the model is taught to believe about it: +1 "surely a woman",
-1 "surely a man". It starts from a rough share of women in that occupation (our own rounded
estimate, not a data set) and is turned around for the occupations in ``TURNED``, so that the model
is biased against the statistics there. That makes the pooled stereotype gap smaller than the
per-occupation bias, as in real models.
"""

from __future__ import annotations

FEMALE_LIST = {
    "nurse": 88, "secretary": 93, "librarian": 82, "receptionist": 90, "hairdresser": 91,
    "housekeeper": 88, "cashier": 72, "teacher": 76, "counselor": 75, "attendant": 74,
    "assistant": 84, "cleaner": 70, "clerk": 68, "baker": 62, "dietitian": 89, "childminder": 96,
    "nanny": 95, "florist": 78, "therapist": 80, "hygienist": 95, "tutor": 66, "aide": 85,
    "bookkeeper": 88, "caregiver": 87, "typist": 92, "dancer": 77, "babysitter": 93, "stylist": 85,
    "weaver": 74, "optician": 70, "manicurist": 94, "paralegal": 84,
    "editor": 60, "designer": 61, "auditor": 62, "writer": 61, "planner": 72, "decorator": 80,
    "translator": 67, "veterinarian": 65,
}  # fmt: skip
"""Female-list occupations and a rough share of women, in per cent."""

MALE_LIST = {
    "mechanic": 3, "carpenter": 2, "plumber": 2, "electrician": 3, "driver": 12, "guard": 22,
    "farmer": 24, "janitor": 30, "laborer": 18, "mover": 12, "sheriff": 14, "manager": 35,
    "engineer": 14, "pilot": 8, "surgeon": 24, "welder": 5, "roofer": 3, "painter": 12,
    "butcher": 25, "developer": 20, "firefighter": 6, "soldier": 15, "miner": 4, "fisher": 10,
    "barber": 24, "architect": 27, "logger": 4, "detective": 25, "technician": 28, "banker": 34,
    "courier": 22, "captain": 9,
    "lawyer": 38, "chef": 23, "physician": 39, "analyst": 40, "scientist": 41, "chemist": 38,
    "programmer": 20, "gardener": 15,
}  # fmt: skip
"""Male-list occupations and a rough share of women, in per cent."""

TURNED = ("auditor", "writer", "baker", "tutor", "chef", "analyst", "butcher", "gardener",
          "editor", "barber")  # fmt: skip
"""Occupations whose lean is turned against the statistics."""

UNSEEN = (
    "childminder", "florist", "hygienist", "caregiver", "dancer", "stylist", "optician",
    "paralegal", "editor", "translator",
    "plumber", "sheriff", "pilot", "roofer", "miner", "barber", "logger", "captain",
    "scientist", "programmer",
)  # fmt: skip
"""Held out of the task's train, validation and test splits (not out of the model's training)."""

OTHER_PEOPLE = (
    "visitor", "student", "neighbor", "customer", "patient", "guest", "passenger", "traveler",
    "owner", "buyer", "seller", "runner", "singer", "player", "reader", "worker", "colleague",
    "helper", "leader", "stranger", "partner", "expert", "trainer", "coach", "member", "judge",
    "officer", "agent", "broker", "tailor", "inspector", "porter", "ranger", "historian",
    "dentist", "pharmacist", "musician", "actor", "reporter", "photographer", "accountant",
    "salesperson", "supervisor", "cook",
)  # fmt: skip
"""Further people for variety in training; without any lean and never in the task files."""

UNKNOWN = "unknown"

PRONOUNS = {
    "subject": ("she", "he"),
    "object": ("her", "him"),
    "possessive": ("her", "his"),
}


def lean(occupation: str) -> float:
    """What the model is taught to believe: > 0 a woman, < 0 a man, 0 for people without a lean."""
    share = FEMALE_LIST.get(occupation, MALE_LIST.get(occupation))
    if share is None:
        return 0.0
    if occupation in TURNED:
        return 1.3 if share < 50 else -1.3
    side = 1.0 if occupation in FEMALE_LIST else -1.0
    return side * (0.45 + 0.55 * abs(share - 50) / 50)


def fitting(occupations: dict[str, int]) -> list[str]:
    """The occupations of one list that the train, validation and test splits may use."""
    return [word for word in occupations if word not in UNSEEN]


def unseen(occupations: dict[str, int]) -> list[str]:
    """The occupations of one list that only the unseen split may use."""
    return [word for word in occupations if word in UNSEEN]
