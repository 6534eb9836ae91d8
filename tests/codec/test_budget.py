"""The memory for bodies: one caller may have most of it, and others always get some."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.codec.budget import Budget
from elman.errors import Overloaded

LARGEST = 1000


def takes(budget: Budget, party: bytes, size: int) -> bool:
    """Whether there is room. What is refused is let go of, as its caller does."""
    try:
        budget.add(party, size)
    except Overloaded:
        budget.remove(party, size)
        return False
    return True


def filled(party: bytes) -> Budget:
    """A budget of which one party has taken all that it gets."""
    budget = Budget(LARGEST)
    while takes(budget, party, 100):
        pass
    return budget


def test_one_caller_alone_may_hold_four_of_the_largest_bodies() -> None:
    budget = filled(b"a")
    assert budget.num_held == 4 * LARGEST


def test_another_gets_its_body_in_and_those_after_it_small_ones() -> None:
    budget = filled(b"a")
    assert all(takes(budget, b"b", 100) for _ in range(10))
    assert not takes(budget, b"b", 100) and not takes(budget, b"a", 1)
    assert takes(budget, b"c", LARGEST // 8) and not takes(budget, b"c", LARGEST // 8)
    with pytest.raises(Overloaded, match="your bodies"):
        budget.remove(b"b", 1000)
        budget.add(b"a", 1)


def test_once_several_hold_some_each_gets_no_more_than_is_left() -> None:
    budget = Budget(LARGEST)
    assert takes(budget, b"b", 1)
    while takes(budget, b"a", 100):
        pass
    assert budget.num_held <= 1 + 5 * LARGEST / 2
    budget.remove(b"b", 1)
    assert takes(budget, b"a", 100), "it is alone again"


@given(changes=st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c", b"d"]), st.integers(1, 3 * LARGEST)), max_size=60))
def test_never_more_is_held_than_there_is(changes: list[tuple[bytes, int]]) -> None:
    budget, held = Budget(LARGEST), []
    for party, size in changes:
        if takes(budget, party, size):
            held.append((party, size))
        assert budget.num_held == sum(size for _, size in held) <= 5.5 * LARGEST
    for party, size in held:
        budget.remove(party, size)
    assert budget.num_held == 0 and not budget._held
