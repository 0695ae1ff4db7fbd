"""Token scopes: read, written, and against their definition token by token."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from steering_oracle import chosen

from equipoise.errors import SteeringError
from equipoise.steering import Scope

WORDS = ["prompt", "last_prompt", "generated", "positions:1:4"]


@given(
    st.lists(st.sampled_from(WORDS), min_size=1, unique=True),
    st.integers(1, 8),
    st.integers(0, 6),
    st.integers(0, 5),
    st.booleans(),
)
def test_covers_what_it_says(words, prompt, new, padding, left):
    scope, tokens = Scope.parse("+".join(words)), prompt + new
    real = torch.tensor([[False] * padding + [True] * tokens])
    if not left:
        real = real.flip(1)
    index = real.long().cumsum(1) - 1
    found = scope.covers(index, real, torch.tensor([prompt]))
    assert not bool(found[~real].any())
    assert found[real].tolist() == chosen("+".join(words), tokens, prompt)
    assert Scope.parse(str(scope)) == scope


@pytest.mark.parametrize("text", ["all", "mask", "positions:2:", "prompt+positions:0:3"])
def test_round_trip(text):
    assert str(Scope.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "last", "all+prompt", "mask+positions:0:1", "positions:a:b", None),
        *("positions:0:2+positions:5:7", "positions:5:2", "prompt+positions:3:3"),
    ],
)
def test_nonsense_is_refused(text):
    with pytest.raises(SteeringError, match="token scope"):
        Scope.parse(text)


def test_no_scope_can_be_made_that_could_not_be_read_back():
    with pytest.raises(SteeringError, match="holds no position"):
        Scope(frozenset(), (3, 3))
