"""The promises of `EventStore.read` and `version`: one history, whole, strays included."""

import pytest

from lucid_events import codec
from lucid_events.domain.envelope import Stray
from lucid_events.domain.ids import NO_DIGEST, Digest, SessionId, Version
from lucid_events.errors import ContractError, VersionConflict
from tests.contract.bundle import OTHER, SID, Ports, Run, events, labels


def test_an_unknown_history_is_empty(run: Run) -> None:
    """A history nobody wrote to has version 0 and no messages."""

    @run
    async def _(ports: Ports) -> None:
        await ports.append(events("c1", "a", session=OTHER))
        assert await ports.store.version(SID) == 0
        assert await ports.history() == []


def test_another_session_s_envelope_is_a_stray(run: Run) -> None:
    """An event on a history whose envelope names another session is a stray, never that session's event."""

    @run
    async def _(ports: Ports) -> None:
        headers, body = codec.encode_event(events("c1", "a", session=OTHER)[0], NO_DIGEST)
        await ports.publish(ports.subjects.event(SID, "session.marked.v1"), body, headers)
        (stray,) = await ports.history()
        assert isinstance(stray, Stray)
        assert stray.session == SID
        assert OTHER in stray.reason


def test_a_stray_counts_for_the_version(run: Run) -> None:
    """A message that is no event is yielded as a stray, and the next append must expect it."""

    @run
    async def _(ports: Ports) -> None:
        one = await ports.append(events("c1", "a"))
        sequence = await ports.publish(f"{ports.subjects.prefix}.evt.{SID}.forged", b'{"stream":"X"}')
        assert await ports.store.version(SID) == sequence
        with pytest.raises(VersionConflict):
            await ports.append(events("c2", "b"), expected=one.version, head=one.head)
        await ports.append(events("c2", "b"), expected=sequence, head=one.head)
        found = await ports.history()
        assert labels(found) == ["a", "stray", "b"]
        stray = found[1]
        assert isinstance(stray, Stray)
        assert (stray.sequence, stray.session) == (sequence, SID)
        assert stray.subject.endswith(".forged")
        assert stray.reason


def test_a_stray_on_a_strange_subject_stops_nobody(run: Run) -> None:
    """A message under the log's prefix whose subject fits no history is yielded by replay as a stray."""

    @run
    async def _(ports: Ports) -> None:
        await ports.append(events("c1", "a"))
        await ports.publish(f"{ports.subjects.prefix}.evt.short")
        await ports.publish(f"{ports.subjects.prefix}.evt.no$session.at.all", b"x", {"some": "header"})
        await ports.append(events("c1", "b", session=OTHER))
        assert labels([one async for one in ports.store.replay()]) == ["a", "stray", "stray", "b"]


def test_reading_begins_behind_a_version_and_ends_at_a_sequence(run: Run) -> None:
    """`after` is excluded and `upto` included, whatever other histories stand between."""

    @run
    async def _(ports: Ports) -> None:
        version, head, sequences = 0, NO_DIGEST, []
        for label in "abcd":
            one = await ports.append(events(label, label), expected=version, head=head)
            version, head = one.version, one.head
            sequences.append(int(one.version))
            await ports.append(events(label, "x", session=SessionId(f"other-{label}")))

        async def read(after: int, upto: int | None) -> list[str]:
            return labels([one async for one in ports.store.read(SID, after=Version(after), upto=upto)])

        assert await read(0, None) == list("abcd")
        assert await read(sequences[1], None) == list("cd")
        assert await read(sequences[0], sequences[2]) == list("bc")
        assert await read(sequences[0] + 1, sequences[2] + 1) == list("bc")
        assert await read(sequences[3], None) == []
        assert await read(0, sequences[0] - 1) == []


def test_long_histories_are_read_whole(run: Run) -> None:
    """A history of many pages is yielded once each, in order."""

    @run
    async def _(ports: Ports) -> None:
        version, head = 0, NO_DIGEST
        for batch in range(3):
            wanted = [f"{i}" for i in range(batch * 700, batch * 700 + 700)]
            one = await ports.append(events(f"c{batch}", *wanted), expected=version, head=head)
            version, head = one.version, one.head
        assert labels(await ports.history()) == [f"{i}" for i in range(2100)]


def test_what_cannot_be_decoded_is_an_error(run: Run) -> None:
    """Reading an event of an unknown type is an error, and what stands before it is still yielded."""

    @run
    async def _(ports: Ports) -> None:
        await ports.append(events("c1", "a"))
        headers, body = codec.encode_event(events("c2", "b")[0], Digest("0" * 64))
        headers[codec.TYPE] = "session.teleported.v9"
        await ports.publish(ports.subjects.event(SID, "session.teleported.v9"), body, headers)
        found = []

        async def read() -> None:
            async for one in ports.store.read(SID):
                found.append(one)

        with pytest.raises(ContractError, match=r"session\.teleported\.v9"):
            await read()
        assert labels(found) == ["a"]
