"""Occupations and the share of women in them: facts of the labour statistics.

They decide which answer is pro- and which anti-stereotypical; nothing here says what ought to be.
"""

from __future__ import annotations

from typing import Literal

from equipoise.errors import EquipoiseError

Gender = Literal["female", "male"]

# Percent of women among people employed as ..., U.S. Bureau of Labor Statistics as printed with
# WinoBias (Zhao et al., NAACL 2018, table of occupation statistics). Below 50: its male list.
WINOBIAS: dict[str, int] = {
    "carpenter": 2,
    "mechanic": 4,
    "construction worker": 4,
    "laborer": 4,
    "driver": 6,
    "sheriff": 14,
    "mover": 18,
    "developer": 20,
    "farmer": 22,
    "guard": 22,
    "chief": 27,
    "janitor": 34,
    "lawyer": 35,
    "cook": 38,
    "physician": 38,
    "CEO": 39,
    "analyst": 41,
    "manager": 43,
    "supervisor": 44,
    "salesperson": 48,
    "editor": 52,
    "designer": 54,
    "accountant": 61,
    "auditor": 61,
    "writer": 63,
    "baker": 65,
    "clerk": 72,
    "cashier": 73,
    "counselor": 73,
    "attendant": 76,
    "teacher": 78,
    "tailor": 80,
    "librarian": 84,
    "assistant": 85,
    "cleaner": 89,
    "housekeeper": 89,
    "nurse": 90,
    "receptionist": 90,
    "hairdresser": 92,
    "secretary": 95,
}

# Percent of women, rounded, in the job category that holds the title: U.S. census microdata of
# 2012 (IPUMS, as tabulated by FiveThirtyEight, "male-flight-attendants"). Titles whose category is
# at least 60:40, in the singular, and without a gender of their own.
CENSUS: dict[str, int] = {
    "roofer": 1,
    "plumber": 1,
    "bricklayer": 2,
    "electrician": 2,
    "miner": 3,
    "firefighter": 5,
    "locksmith": 5,
    "sailor": 6,
    "truck driver": 6,
    "gardener": 6,
    "welder": 6,
    "pilot": 8,
    "mechanical engineer": 8,
    "civil engineer": 12,
    "soldier": 13,
    "taxi driver": 15,
    "detective": 18,
    "police officer": 18,
    "physicist": 21,
    "barber": 21,
    "programmer": 22,
    "architect": 22,
    "butcher": 24,
    "dentist": 26,
    "pastor": 28,
    "geologist": 31,
    "composer": 34,
    "musician": 34,
    "doctor": 35,
    "psychologist": 71,
    "proofreader": 74,
    "dressmaker": 75,
    "telephone operator": 77,
    "file clerk": 77,
    "therapist": 79,
    "primary school teacher": 79,
    "dancer": 80,
    "bank teller": 80,
    "paralegal": 81,
    "social worker": 81,
    "nursing aide": 86,
    "typist": 86,
    "bookkeeper": 87,
    "caregiver": 88,
    "payroll clerk": 89,
    "dietitian": 90,
    "nutritionist": 90,
    "beautician": 90,
    "babysitter": 92,
    "dental assistant": 95,
    "dental hygienist": 97,
    "kindergarten teacher": 98,
}

PRONOUNS: dict[str, Gender] = {
    **dict.fromkeys(("he", "him", "his", "himself"), "male"),
    **dict.fromkeys(("she", "her", "hers", "herself"), "female"),
}


def leaning_of(occupation: str) -> Gender:
    """The gender most people of one of the WINOBIAS occupations have: its stereotyped gender."""
    return "male" if WINOBIAS[occupation] < 50 else "female"


def class_of(occupation: str) -> str:
    """``male-list`` or ``female-list``, for the shares of a report."""
    return f"{leaning_of(occupation)}-list"


def gender_of(pronoun: str) -> Gender:
    """The gender of a third-person pronoun.

    Raises:
        EquipoiseError: It is none of he, him, his, himself, she, her, hers, herself.
    """
    try:
        return PRONOUNS[pronoun.lower()]
    except KeyError:
        raise EquipoiseError(f"{pronoun!r} is not a gendered pronoun") from None
