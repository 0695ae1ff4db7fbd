import random
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.errors import EquipoiseError
from equipoise.tasks import Item, Task, describe
from equipoise.tasks.splits import SHARES, assign_splits, digest, hold_out, split_of, unit_hash
from equipoise.tasks.subset import subset


def item(number: int, twin: int, *contexts: str, answer: int | None = None) -> Item:
    return Item(
        id=f"i{number}",
        twin=f"t{twin}",
        contexts=contexts,
        prompt="?",
        options=("a", "b"),
        sides=("pro", "anti"),
        answer=answer,
    )


def many(n: int = 4000, contexts: int = 20) -> list[Item]:
    draw = random.Random(0)
    names = [f"job{c}" for c in range(contexts)]
    rows = []
    for twin in range(n // 2):
        about, answer = draw.sample(names, 2), draw.choice([None, 0])
        rows += [item(2 * twin + k, twin, *about, answer=answer) for k in range(2)]
    return rows


def test_unit_hash_is_fixed():
    # A changed hash would silently move tested items into fits.
    sha = "a57de16e31a89703dd9151a217fb4a933d2fcd4757240f59f1883d222aebb70e"
    assert digest("split", "w12") == sha
    assert unit_hash("split", "w12") == int(sha[:13], 16) / 2**52
    assert split_of("w12") == "validation"
    assert sorted(hold_out(f"job{i}" for i in range(10))) == ["job0", "job6"]


def test_shares_of_the_splits():
    counts = defaultdict(int)
    for i in range(20_000):
        counts[split_of(f"twin{i}")] += 1
    for name, share in SHARES:
        assert counts[name] / 20_000 == pytest.approx(share, abs=0.015)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.sets(st.sampled_from("abcdefghijkl"), max_size=3)),
        max_size=30,
    )
)
def test_twins_stay_together_and_held_out_contexts_stay_out(rows):
    items = [item(n, twin, *sorted(contexts)) for n, (twin, contexts) in enumerate(rows)]
    placed = assign_splits(items)
    assert [replace(i, split="test") for i in placed] == [replace(i, split="test") for i in items]
    by_twin = defaultdict(set)
    for one in placed:
        by_twin[one.twin].add(one.split)
    assert all(len(splits) == 1 for splits in by_twin.values())
    chosen = hold_out(c for i in items for c in i.contexts)
    seen = {c for one in placed if one.split != "unseen" for c in one.contexts}
    assert not seen & chosen
    assert len(chosen) == (0 if len({c for i in items for c in i.contexts}) < 10 else 2)


def test_order_and_growth_of_a_file_move_nothing():
    items = many(400)
    splits = {i.id: i.split for i in assign_splits(items)}
    shuffled = random.Random(1).sample(items, len(items))
    assert {i.id: i.split for i in assign_splits(shuffled)} == splits
    held_out = hold_out(c for i in items for c in i.contexts)
    half = assign_splits(items[:200], held_out=held_out)
    assert all(splits[i.id] == i.split for i in half)


def test_few_contexts_hold_nothing_out():
    assert hold_out(f"job{i}" for i in range(9)) == frozenset()


@pytest.mark.parametrize("limit", [100, 401, 1000])
def test_a_subset_is_even_and_keeps_twins_whole(limit):
    task = Task("t", assign_splits(many()))
    small = subset(task, limit, seed=3)
    assert 0.9 * limit <= len(small.items) <= limit
    assert subset(task, limit, seed=3) == small
    assert subset(task, limit, seed=4) != small
    whole, part = describe(task), describe(small)
    twins = defaultdict(int)
    for one in small.items:
        twins[one.twin] += 1
    assert set(twins.values()) == {2}
    for name, split in whole.splits.items():
        share = (split.ambiguous + split.unambiguous) / len(task.items)
        kept = part.splits[name].ambiguous + part.splits[name].unambiguous
        assert abs(kept - share * limit) <= 4
    counts = defaultdict(int)
    for one in small.split("train"):
        for context in one.contexts:
            counts[context] += one.ambiguous
    if limit >= 400:  # below, a context comes once or twice
        assert len(counts) == 16
        assert min(counts.values()) >= 0.5 * max(counts.values())


def test_a_long_tail_does_not_starve_the_rare():
    rows = [item(n, n, "common") for n in range(500)]
    rows += [item(500 + n, 500 + n, "rare") for n in range(5)]
    rows += [item(505 + n, 505 + n) for n in range(5)]
    small = subset(Task("t", tuple(rows)), 30)
    assert sum(one.contexts == ("rare",) for one in small.items) == 5
    assert sum(one.contexts == () for one in small.items) == 5


def test_limits_that_leave_nothing_are_errors():
    task = Task("t", tuple(item(n, 0, "a") for n in range(10)))
    for limit in (0, -1, 3):
        with pytest.raises(EquipoiseError, match="limit"):
            subset(task, limit)
    assert subset(task, 10) is task


def test_describe_counts():
    rows = (
        replace(item(0, 0, "nurse"), split="test"),
        replace(item(1, 0, "nurse"), split="test"),
        replace(item(2, 1, "nurse", "cook"), split="test"),
        replace(item(3, 2, "driver", answer=0), split="test"),
        replace(item(4, 3, "pilot", "nurse"), split="unseen"),
    )
    summary = describe(Task("t", rows, notes=("a note",)))
    assert (summary.ambiguous, summary.unambiguous, summary.twins) == (4, 1, 4)
    assert summary.contexts == ("cook", "nurse", "pilot")
    assert summary.held_out_contexts == ("pilot",)
    assert list(summary.splits) == ["test", "unseen"]
    test = summary.splits["test"]
    assert (test.ambiguous, test.unambiguous, test.twins) == (3, 1, 3)
    assert test.contexts == ("cook", "nurse")
    assert test.single_twin == ("cook",)
    assert summary.splits["unseen"].contexts == ("pilot",)
    assert summary.notes == ("a note",)
