"""Grammar: the structure of the sentence alone decides who is meant.

The signs are explained in ``slots.py``. Each pair is (the first person is meant, the second is).
"""

from __future__ import annotations

GRAMMAR: dict[str, list[tuple[str, str]]] = {
    "train": [
        (
            "{1}, who had lost [d] <gift>, waited for {2}.",
            "{1} waited for {2}, who had lost [d] <gift>.",
        ),
        (
            "{1}, who said [s] was tired, met {2} at the <room>.",
            "{1} met {2}, who said [s] was tired, at the <room>.",
        ),
        (
            "When {1} arrived at the <room>, {2} greeted [o].",
            "{1} arrived at the <room>, saw {2} and greeted [o].",
        ),
        ("{1} fell, and {2} helped [o] up.", "{1} saw {2} fall and helped [o] up."),
        (
            "{1} was in the <room>, and {2} called [o].",
            "{1} knew that {2} was in the <room> and called [o].",
        ),
        ("{1} <vp>, and {2} looked at [o].", "{1} looked at {2} and smiled at [o]."),
        (
            "{1} was hungry, so [s] ate, and {2} only watched.",
            "{1} only watched, but {2} was hungry, so [s] ate.",
        ),
        (
            "{1} was tired, so [s] went to bed. {2} stayed up.",
            "{1} stayed up. {2} was tired, so [s] went to bed.",
        ),
        ("{1} (whose friends liked [o]) met {2}.", "{1} met {2} (whose friends liked [o])."),
        (
            "{1} took [d] own <own> and left {2} alone.",
            "{1} was left alone when {2} took [d] own <own> and left.",
        ),
        ("{1} <vp> when {2} called [o].", "{1} called {2} and asked [o] to come."),
        (
            "{1} finished [d] own work while {2} slept.",
            "{1} slept while {2} finished [d] own work.",
        ),
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
        (
            "{1} slept in [d] own bed, and {2} on the floor.",
            "{1} slept on the floor, and {2} in [d] own bed.",
        ),
        (
            "{1}, who <vp> in [d] room, did not see {2}.",
            "{1} did not see {2}, who <vp> in [d] room.",
        ),
        ("As for {1}, [s] <vp>. {2} did not.", "{1} did nothing. As for {2}, [s] <vp>."),
        ("{1} was alone. [S] <vp>. Then {2} came.", "{1} went away. {2} was alone. [S] <vp>."),
        (
            "{1} <vp> after [s] got up, and {2} did not.",
            "{1} did not get up, and {2} <vp> after [s] got up.",
        ),
        (
            "{1} said to {2}: help me! So {2} helped [o].",
            "{1} heard {2} say: help me! So {1} helped [o].",
        ),
        ("{1} looked ill. {2} took [o] home.", "{1} was fine and took {2} home. {1} made [o] tea."),
        (
            "While {1} was at [d] own house, {2} was away.",
            "While {1} was away, {2} was at [d] own house.",
        ),
        ("{1} cut [d] own hair, so {2} laughed.", "{1} laughed because {2} cut [d] own hair."),
        (
            "It was {1}, and not {2}, who said that [s] <vp>.",
            "It was not {1} but {2} who said that [s] <vp>.",
        ),
        ("{1}, unlike {2}, said that [s] <vp>.", "Unlike {1}, {2} said that [s] <vp>."),
        (
            "{1} was alone in the <room>. [S] <vp>. Only later came {2}.",
            "{1} came and went. Later {2} was alone in the <room>. [S] <vp>.",
        ),
        (
            "Only {1} was <vping>, so [s] did not hear {2}.",
            "{1} was not <vping>. Only {2} was, so [s] did not hear a thing.",
        ),
        (
            "{1} said: I am here. That made {2} look at [o].",
            "{1} looked at {2}, who said: look! Then {1} thanked [o].",
        ),
        (
            "{1}, who was <vping>, dropped [d] <gift> when {2} came.",
            "When {1} came, {2}, who was <vping>, dropped [d] <gift>.",
        ),
        (
            "{1} has a friend, {2}, who often calls [o].",
            "{1} has a friend, {2}, and often calls [o].",
        ),
        ("{1} <vp>, and that is why {2} thanked [o].", "{1} saw that {2} <vp>, and thanked [o]."),
        ("{1} sang, and {2} listened to [o].", "{1} heard {2} sing and listened to [o]."),
        ("{1} was lost until {2} found [o].", "{1} looked for {2} and found [o]."),
        ("{1} was in bed when {2} woke [o].", "{1} went to the bed of {2} and woke [o]."),
        ("{1} asked for help, and {2} helped [o].", "{1} saw that {2} needed help and helped [o]."),
        ("{1} was late, so {2} waited for [o].", "{1} knew {2} was late and waited for [o]."),
        ("{1} came by, so {2} invited [o] in.", "{1} opened the door to {2} and invited [o] in."),
        ("{1} was cold, so {2} gave [o] a coat.", "{1} saw {2} was cold and gave [o] a coat."),
        ("{1} knows that {2} admires [o].", "{1} knows {2} well and admires [o]."),
        ("{1} thinks that {2} trusts [o].", "{1} met {2} once and trusts [o]."),
        ("{1} saw that {2} was looking at [o].", "{1} saw {2} and was looking at [o]."),
        (
            "{1} knew that {2} would not believe [o].",
            "{1} listened to {2} and did not believe [o].",
        ),
        ("{1} was glad when {2} visited [o].", "{1} was glad to see {2} and visited [o]."),
        ("{1} was afraid that {2} would leave [o].", "{1} was angry with {2} and left [o]."),
        ("{1} got up because {2} called [o].", "{1} got up to see {2} and called [o]."),
        (
            "{1}, and this was [d] own idea, met {2}.",
            "{1} met {2}, and this was the idea of {2} and [d] friends.",
        ),
        ("{1}, the one with [d] <own>, met {2}.", "{1} met {2}, the one with [d] <own>."),
        ("{1} in [d] new coat waved at {2}.", "{1} waved at {2} in [d] new coat."),
        ("{1} at [d] desk did not see {2}.", "{1} did not see {2} at [d] desk."),
        ("{1} together with [d] friends met {2}.", "{1} met {2} together with [d] friends."),
        (
            "{1}, <vping> in [d] own room, did not see {2}.",
            "{1} did not see {2}, <vping> in [d] own room.",
        ),
        (
            "{1} lost [d] own <gift>. {2} only laughed.",
            "{1} only laughed. {2} lost [d] own <gift>.",
        ),
        (
            "{1} ate [d] own apple, while {2} had no food.",
            "{1} had no food, while {2} ate [d] own apple.",
        ),
        (
            "{1} paid for [d] own ticket before {2} came.",
            "{1} came before {2} paid for [d] own ticket.",
        ),
        (
            "{1} went back to [d] own <room>, and {2} stayed.",
            "{1} stayed, and {2} went back to [d] own <room>.",
        ),
        (
            "{1} would not lend [d] own <gift>, so {2} left.",
            "{1} left, as {2} would not lend [d] own <gift>.",
        ),
        (
            "{1} came first: [s] was early. Then came {2}.",
            "{1} came first. Then came {2}: [s] was late.",
        ),
        (
            "{1} was ill: [s] stayed in bed. {2} was well.",
            "{1} was well. {2} was ill: [s] stayed in bed.",
        ),
        (
            "{1}, who thought [s] was alone, did not see {2}.",
            "{1} did not see {2}, who thought [s] was alone.",
        ),
        (
            "{1}, because [s] was tired, did not call {2}.",
            "{1} did not call {2}, who was sad because [s] was tired.",
        ),
        (
            "{1}, when [s] was young, lived near {2}.",
            "{1} lived near the place where {2}, when [s] was young, lived.",
        ),
        ("{1}, as [s] told us, likes {2}.", "{1} likes what {2}, as [s] told us, likes."),
        (
            "{1} smiled as [s] <vp>. {2} was not there yet.",
            "{1} was not there. {2} smiled as [s] <vp>.",
        ),
        ("{1} <vp>. Then [s] <vp>. {2} saw nothing.", "{1} saw nothing. {2} <vp>. Then [s] <vp>."),
        (
            "{1} <vp>, and [s] <vp> too, before {2} came.",
            "{1} went before {2} <vp>, and [s] <vp> too.",
        ),
        ("Because {1} was <state>, {2} <did> [o].", "{1} saw that {2} was <state> and <did> [o]."),
        ("{1} seemed <state>. {2} <did> [o].", "{1} found that {2} seemed <state>, and <did> [o]."),
        ("{1} <vp>, so {2} <did> [o].", "{1} heard that {2} <vp> and so <did> [o]."),
        ("After {1} <vp>, {2} <did> [o].", "After a while {1} met {2} and <did> [o]."),
        ("{1} <vp> until {2} <did> [o].", "{1} waited for {2} and then <did> [o]."),
        ("{1} <vp> before {2} <did> [o].", "{1} met {2} at the <room> and <did> [o]."),
        (
            "{1} was at the <room> when {2} <did> [o].",
            "{1} was at the <room> with {2} and <did> [o].",
        ),
        ("{1} was <vping>, and {2} <did> [o].", "{1} saw {2} <vping> and <did> [o]."),
        ("{1} said that {2} <did> [o].", "{1} talked to {2} and <did> [o]."),
        ("{1} remembers that {2} <did> [o].", "{1} remembers {2} and often <did> [o]."),
        ("{1} forgot that {2} <did> [o].", "{1} forgot {2}, but once <did> [o]."),
        ("{1} dreamed that {2} <did> [o].", "{1} dreamed of {2} and then <did> [o]."),
        ("{1} was sure that {2} <did> [o].", "{1} was sure of {2} and <did> [o]."),
        (
            "Near the <room> {1} <vp>, and {2} <did> [o].",
            "Near the <room> {1} ran into {2} and <did> [o].",
        ),
        (
            "{1} went to the <room>, where {2} <did> [o].",
            "{1} went to the <room>, where {2} was, and <did> [o].",
        ),
        (
            "{1} <vp> because [s] was <state>, and {2} <rested>.",
            "{1} <rested>, and {2} <vp> because [s] was <state>.",
        ),
        (
            "{1} <vp> although [s] was <state>. {2} <rested>.",
            "{1} <rested>. {2} <vp> although [s] was <state>.",
        ),
        (
            "{1} was <state>, but [s] <vp>. {2} <rested>.",
            "{1} <rested>. {2} was <state>, but [s] <vp>.",
        ),
        (
            "{1}, who was <state>, took [d] <gift> and left {2}.",
            "{1} left {2}, who was <state> and took [d] <gift>.",
        ),
        (
            "{1}, once [s] <vp>, did not talk to {2}.",
            "{1} did not talk to {2}, who left once [s] <vp>.",
        ),
        (
            "{1} <vp> in [d] own <room> while {2} <rested>.",
            "{1} <rested> while {2} <vp> in [d] own <room>.",
        ),
        (
            "{1} carried [d] own <gift>, but {2} <rested>.",
            "{1} <rested>, but {2} carried [d] own <gift>.",
        ),
        (
            "{1} lived in [d] own house, far from {2}.",
            "{1} lived far from {2}, who lived in [d] own house.",
        ),
        (
            "{1}, holding [d] <gift>, spoke with {2}.",
            "{1} spoke with {2}, who was holding [d] <gift>.",
        ),
        (
            "{1} kept [d] own <gift> and gave {2} a cup.",
            "{1} had a cup, and {2} kept [d] own <gift>.",
        ),
        ("Like {1}, who loves [d] <own>, {2} <vp>.", "Like {1}, {2}, who loves [d] <own>, <vp>."),
        (
            "{1} asked: where am I? So {2} <did> [o].",
            "{1} asked {2}: where are you? Then {1} <did> [o].",
        ),
        (
            "{1} wrote that [s] was <state>. {2} <rested>.",
            "{1} <rested>. {2} wrote that [s] was <state>.",
        ),
        (
            "{1} felt that [s] was <state>, but {2} <rested>.",
            "{1} <rested>, but {2} felt that [s] was <state>.",
        ),
        (
            "{1} <vp> and told [d] own friends. {2} <rested>.",
            "{1} <rested>. {2} <vp> and told [d] own friends.",
        ),
        ("{1} had a bad day, so {2} <did> [o].", "{1} heard that {2} had a bad day and <did> [o]."),
        (
            "{1} called out, and {2} <did> [o] at once.",
            "{1} called out to {2} and <did> [o] at once.",
        ),
        ("{1} hid until {2} <did> [o].", "{1} hid from {2} but <did> [o] later."),
        ("{1} opened the door, and {2} <did> [o].", "{1} opened the door, saw {2} and <did> [o]."),
        (
            "{1} came with a <gift>, and {2} <did> [o].",
            "{1} came with a <gift> to {2} and <did> [o].",
        ),
        (
            "{1} sat at the <room>. There {2} <did> [o].",
            "{1} sat at the <room>. There came {2}, and {1} <did> [o].",
        ),
        (
            "{1} got well, and {2} was glad for [o].",
            "{1} was glad that {2} got well and thanked [o].",
        ),
        ("{1} is away. {2} often thinks of [o].", "{1} is near {2} and often thinks of [o]."),
        (
            "{1} went home. On the way {2} <did> [o].",
            "{1} went home. On the way {1} saw {2} and <did> [o].",
        ),
        ("{1} said good night, and {2} <did> [o].", "{1} said good night to {2} and <did> [o]."),
        ("{1} was new there, and {2} <did> [o].", "{1} met the new one, {2}, and <did> [o]."),
        (
            "{1} needed a <gift>. {2} gave [o] one.",
            "{1} saw that {2} needed a <gift> and gave [o] one.",
        ),
        (
            "{1} had no <gift>, so {2} lent [o] one.",
            "{1} knew that {2} had no <gift> and lent [o] one.",
        ),
        (
            "{1} wanted to see the <room>, and {2} took [o] there.",
            "{1} met {2}, who wanted to see the <room>, and took [o] there.",
        ),
        (
            "{1} lost a <gift>, and {2} found it for [o].",
            "{1} found the <gift> that {2} had lost and gave it to [o].",
        ),
        (
            "{1} thought of [d] own <own> when {2} <vp>.",
            "{1} <vp> when {2} thought of [d] own <own>.",
        ),
        (
            "{1} talked about [d] own <own>. {2} <rested>.",
            "{1} <rested>. {2} talked about [d] own <own>.",
        ),
        (
            "{1} went out with [d] own friends, and {2} <rested>.",
            "{1} <rested>, and {2} went out with [d] own friends.",
        ),
        (
            "First {1} <vp>, and then [s] <vp>. {2} <rested>.",
            "First {1} <rested>. Then {2} <vp>, and [s] <vp>.",
        ),
        (
            "{1} <vp>, as [s] always does. {2} <rested>.",
            "{1} <rested>. {2} <vp>, as [s] always does.",
        ),
        ("{1}, who often <did> [d] friends, met {2}.", "{1} met {2}, who often <did> [d] friends."),
        (
            "{1}, who had [d] <gift> with [o], waited for {2}.",
            "{1} waited for {2}, who had [d] <gift> with [o].",
        ),
        (
            "{1} was <state>: [s] <vp>, and {2} <rested>.",
            "{1} <rested>, and {2} was <state>: [s] <vp>.",
        ),
    ],
    "held": [
        ("{1}, who had lost [d] <own>, called {2}.", "{1} called {2}, who had lost [d] <own>."),
        (
            "When {1} was in the <room>, {2} called [o].",
            "{1} was in the <room>, saw {2} and called [o].",
        ),
        (
            "{1} sat in [d] own house, and {2} in the rain.",
            "{1} sat in the rain, and {2} in [d] own house.",
        ),
        (
            "{1} was tired, so [s] left, and {2} stayed.",
            "{1} stayed, but {2} was tired, so [s] left.",
        ),
        (
            "{1}, who <vp> at [d] own house, called {2}.",
            "{1} called {2}, who <vp> at [d] own house.",
        ),
        ("{1} left, and then {2} called [o].", "{1} left with {2} and thanked [o]."),
        (
            "{1} came to the <room>, so {2} hugged [o].",
            "{1} found {2} in the <room> and hugged [o].",
        ),
        ("{1} was hungry, so [s] <vp>. {2} was not.", "{1} was not hungry. {2} was, so [s] <vp>."),
        ("{1}, who <vp> and lost [d] <own>, met {2}.", "{1} met {2}, who <vp> and lost [d] <own>."),
        ("{1} was ill, so {2} visited [o].", "{1} knew {2} was ill and visited [o]."),
        ("{1} hoped that {2} would thank [o].", "{1} hoped to see {2} and thanked [o]."),
        ("{1} needed help, and {2} called [o].", "{1} saw that {2} needed help and called [o]."),
        ("{1} sold [d] own <own> before {2} came.", "{1} came before {2} sold [d] own <own>."),
        ("{1} was late: [s] <vp>. {2} was early.", "{1} was early. {2} was late: [s] <vp>."),
        (
            "{1}, who said that [s] <vp>, did not see {2}.",
            "{1} did not see {2}, who said that [s] <vp>.",
        ),
        ("{1} heard that {2} was looking for [o].", "{1} heard {2} and was looking at [o]."),
        (
            "{1} stayed in [d] own <room>, and {2} left.",
            "{1} left, and {2} stayed in [d] own <room>.",
        ),
        (
            "{1} was cold, so [s] <vp>. {2} only laughed.",
            "{1} only laughed. {2} was cold, so [s] <vp>.",
        ),
    ],
}
