import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucid_events.domain.ids import (
    SessionId,
    command_id,
    derived_command_id,
    event_id,
    session_id,
)
from lucid_events.errors import ContractError

VALID = ["a", "A-b_9", "0", "-", "_", "x" * 100]
INVALID = ["", "x" * 101, "a.b", "a b", "a*", ">", "é", "a\n", "\n", "٣", "a/b", "~", None, 7, b"a"]


@given(st.text(), st.integers(0, 1000), st.text())
def test_derived_ids_are_uuids_of_version_5(cause: str, index: int, purpose: str) -> None:
    """Any language's library derives the same ids from the same names (RFC 9562)."""
    namespace = uuid.uuid5(uuid.NAMESPACE_URL, "lucid_events/event-id")
    session = SessionId("s1")
    assert event_id(session, cause, index) == str(uuid.uuid5(namespace, f"s1\n{cause}\n{index}"))
    assert derived_command_id(session, cause, purpose) == str(
        uuid.uuid5(namespace, f"s1\n{cause}\n{purpose}")
    )


@pytest.mark.parametrize("text", VALID)
def test_valid_ids(text: str) -> None:
    """One to a hundred characters of `A-Z a-z 0-9 _ -` are a session id and a command id."""
    assert (session_id(text), command_id(text)) == (text, text)


@pytest.mark.parametrize("text", INVALID)
def test_invalid_ids(text: object) -> None:
    """Everything else is refused with the field it was meant for, and with a bounded message."""
    with pytest.raises(ContractError) as session:
        session_id(text)
    with pytest.raises(ContractError) as command:
        command_id(text)
    assert (session.value.fields["field"], command.value.fields["field"]) == ("session_id", "ce-id")
    assert len(str(session.value)) < 200


def test_an_event_s_id_stands() -> None:
    """The derivation is pinned: a retry after an upgrade must be the same event."""
    assert event_id(SessionId("s1"), "c1", 0) == "90a9ed48-0f43-59d9-81a4-b8fc4600a096"
    assert derived_command_id(SessionId("s1"), "c1", "finish") == "37305b86-a94d-5821-ab2d-10d40c438a00"


ids = st.from_regex(r"\A[A-Za-z0-9_-]{1,8}\Z")


@given(st.lists(st.tuples(ids, ids, st.integers(0, 9)), unique=True, max_size=20))
def test_event_ids_differ(places: list[tuple[str, str, int]]) -> None:
    """Another session, cause or index is another id, so no session can suppress another's event."""
    derived = {event_id(SessionId(session), cause, index) for session, cause, index in places}
    assert len(derived) == len(places)


@given(ids, ids, st.integers(0, 9))
def test_derived_ids_are_command_ids(session: str, cause: str, index: int) -> None:
    """A derived id is a UUID of version 5 and itself a valid cause; commands and events don't share one."""
    event: str = event_id(SessionId(session), cause, index)
    command: str = derived_command_id(SessionId(session), cause, "finish")
    assert uuid.UUID(event).version == uuid.UUID(command).version == 5
    assert command_id(event) == event
    assert event != command
