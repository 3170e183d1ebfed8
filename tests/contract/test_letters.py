"""The promises of `Letters`."""

import asyncio

import pytest

from lucid_events.errors import ContractError, StoreUnavailable
from tests.contract.bundle import SID, Ports, Run


def test_a_letter_is_stored_once_per_id(run: Run) -> None:
    """Publishing again under an id stores nothing and returns the first letter's sequence."""

    @run
    async def _(ports: Ports) -> None:
        subject = ports.subjects.outcome(SID, "c1")
        first = await ports.letters.publish(subject, b"accepted", headers={"a": "b"}, id="c1")
        second = await ports.letters.publish(ports.subjects.outcome(SID, "c2"), b"x", headers={}, id="c2")
        again = await ports.letters.publish(subject, b"accepted", headers={}, id="c1")
        assert (first, second, again) == (1, 2, 1)
        assert await ports.sequences(ports.subjects.outcomes_stream, ">") == [1, 2]


def test_one_id_at_once(run: Run) -> None:
    """Of publishes under one id at the same time one is stored, and all return its sequence."""

    @run
    async def _(ports: Ports) -> None:
        subject = ports.subjects.dead_letter("chunks")
        sequences = await asyncio.gather(
            *(ports.letters.publish(subject, b"{}", headers={}, id="chunks-7") for _ in range(5))
        )
        assert set(sequences) == {1}
        assert await ports.sequences(ports.subjects.dlq_stream, ">") == [1]


def test_a_letter_keeps_headers_and_body(run: Run) -> None:
    """What a consumer of the stream gets is what was published, headers included."""

    @run
    async def _(ports: Ports) -> None:
        subject = ports.subjects.dead_letter("chunks")
        inbox = await ports.add_consumer("redrive", [subject], stream=ports.subjects.dlq_stream)
        await ports.letters.publish(
            subject, b'{"sequence":7}', headers={"Lucid-Reason": "poison"}, id="chunks-7"
        )
        (letter,) = await inbox.fetch(1, wait_s=10)
        assert (letter.subject, letter.data) == (subject, b'{"sequence":7}')
        assert letter.headers["Lucid-Reason"] == "poison"
        await letter.ack()


def test_a_subject_of_no_stream_is_unavailable(run: Run) -> None:
    """A letter nobody stores is an error, never silently gone."""

    @run
    async def _(ports: Ports) -> None:
        with pytest.raises(StoreUnavailable):
            await ports.letters.publish("nowhere.at.all", b"", headers={}, id="x")


def test_the_last_letter_of_a_subject_is_read(run: Run) -> None:
    """The last message on a subject is returned as published, and nothing of another subject's."""

    @run
    async def _(ports: Ports) -> None:
        subject = ports.subjects.outcome(SID, "c1")
        assert await ports.letters.last(subject) is None
        await ports.letters.publish(subject, b"first", headers={"Lucid-Reason": "x"}, id="1")
        sequence = await ports.letters.publish(subject, b"second", headers={"Lucid-Reason": "y"}, id="2")
        await ports.letters.publish(ports.subjects.outcome(SID, "c10"), b"other", headers={}, id="3")
        await ports.letters.publish(ports.subjects.dead_letter("c1"), b"pointer", headers={}, id="4")
        last = await ports.letters.last(subject)
        assert last is not None
        assert (last.subject, last.sequence, last.data) == (subject, sequence, b"second")
        assert last.headers["Lucid-Reason"] == "y"
        assert last.headers["Nats-Msg-Id"] == "2"
        pointer = await ports.letters.last(ports.subjects.dead_letter("c1"))
        assert pointer is not None
        assert pointer.data == b"pointer"
        with pytest.raises(ContractError):
            await ports.letters.last(ports.subjects.history(SID))
