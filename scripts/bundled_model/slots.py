"""Slots and their words, and the wordings that may stand around a sentence.

Signs in all templates: {1} and {2} are the people in order of mention, [s] [o] [d] the pronoun
(she/he, her/him, her/his; a capital for the start of a sentence). {p} belongs to the first person
mentioned, {q} to the second, {r} is the one of the two that the sentence comes back to. <name> is a
slot filled from ``SLOTS``.

Every group of templates has a ``train`` and a ``held`` part: held-out wordings are never trained
on and make up the test and unseen splits.
"""

from __future__ import annotations

SLOTS: dict[str, str] = {
    "time": "yesterday|last week|on Monday|on Friday|this morning|one evening|after lunch|"
    "in the afternoon|last night|at noon|before dinner|in the spring|last summer|at the weekend",
    "room": "office|kitchen|garden|library|hall|station|park|cafe|market|school|hotel|museum|"
    "theater|airport|bank|shop|harbor|church|gym|house|street|restaurant|building|square",
    "vp": "laughed|sat down|got a call|looked at the clock|drank some water|felt tired|smiled|"
    "started to sing|read a book|ate an apple|made some tea|wrote a letter|took a break|"
    "opened the window|closed the door|told a story|heard a noise|fell asleep|made a joke|"
    "asked a question|felt happy|felt cold|was very busy|was in a hurry|had a headache|"
    "found a coin|lost a glove|waved at the crowd|checked the time|turned on the light|"
    "got some good news|won a prize|bought a ticket|had a bad day|needed a rest",
    "vping": "laughing|eating|reading|working|waiting|talking|cooking|resting|singing|walking|"
    "writing|sleeping|drawing|cleaning|dancing|running|thinking|packing",
    "did": "called|helped|thanked|saw|greeted|visited|hugged|invited|found|followed|trusted|liked|"
    "admired|watched|joined",
    "state": "tired|hungry|cold|ill|late|busy|sad|angry|lost|happy|bored|early|afraid|calm",
    "rested": "stayed|left|laughed|waited|watched|went away|was fine|said nothing|did nothing|"
    "stayed up|was away|went home|only smiled",
    "own": "car|phone|house|plan|family|trip|garden|boat|coat|book|letter|desk|holiday|idea|"
    "birthday|watch|job|dog|bike|computer",
    "skill": "swim|cook|dance|paint|sing|drive|sail|ski|draw|knit|type|fish",
    "gift": "book|lamp|coat|map|pen|knife|rope|cup|chair|radio|tent|bike|ladder|blanket|key",
}

DOMAINS: dict[str, str] = {
    "thing": "bag|hat|coat|lamp|map|pen|rope|cup|chair|radio|tent|bike|ladder|blanket|key|book|"
    "letter|box|clock|mirror|camera|basket|bottle|candle|carpet|drum|flag|guitar|hammer|jacket|"
    "kettle|knife|mug|necklace|pillow|plate|ring|scarf|shirt|spoon|sweater|table|ticket|towel|"
    "vase|violin|wallet|watch|whistle|dog|cat|horse|parrot|rabbit|boat|truck|van|wagon",
    "color": "red|green|blue|yellow|white|black|brown|pink|purple|gray|golden|silver",
    "place": "bank|park|library|market|station|museum|beach|forest|lake|river|church|school|"
    "hotel|bakery|theater|harbor|bridge|castle|farm|garden|stadium|temple|tower|village|zoo|"
    "factory|hospital|cinema|cafe|gym",
    "topic": "music|math|history|chess|tennis|football|poetry|physics|French|Spanish|German|"
    "Greek|Latin|biology|cooking|painting|law|golf|soup|rice|bread|fish|cheese|pasta|salad|"
    "coffee|tea|milk|juice|honey|cake|yoga|jazz|opera|gardening|photography",
    "day": "January|February|March|April|May|June|July|August|September|October|November|December",
}

OPENINGS = (
    "Yesterday,|One day,|In the end,|Last week,|At noon,|As always,|That evening,|This morning,|"
    "It was a cold day.|It was late.|The sun was out.|It was raining.|Here is what happened.|"
    "This is a short story.|On Monday,|After lunch,"
)
"""Put before some sentences for variety."""
