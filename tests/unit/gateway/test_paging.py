"""Cursors of lists."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucid_events.errors import ContractError
from lucid_events.gateway.paging import cursor, place


@given(st.integers(0, 2**63 - 1))
def test_a_cursor_comes_back_as_its_place(number: int) -> None:
    """What a cursor was made of is what it stands for, in its own list only."""
    made = cursor("pipelines", number)
    assert made is not None
    assert place("pipelines", made) == number
    with pytest.raises(ContractError):
        place("recordings", made)


@given(st.text(max_size=60))
def test_any_text_is_a_place_or_refused(text: str) -> None:
    """A cursor nobody made is refused as such, whatever it is."""
    try:
        found = place("pipelines", text)
    except ContractError:
        return
    assert found >= 0


def test_the_ends_of_a_list() -> None:
    """No cursor is the beginning, and the end has none."""
    assert place("pipelines", None) == 0
    assert cursor("pipelines", None) is None
