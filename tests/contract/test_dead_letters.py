"""The promises of `DeadLetterStore`."""

from tests.contract.bundle import SID, Ports, Run, events


async def set_aside(ports: Ports, consumer: str, *names: str) -> list[int]:
    """Publish a pointer per name; returns their sequences."""
    subject = ports.subjects.dead_letter(consumer)
    return [
        await ports.letters.publish(subject, name.encode(), headers={"Lucid-Reason": name}, id=name)
        for name in names
    ]


def test_pointers_are_listed_oldest_first(run: Run) -> None:
    """Pointers come in the order they were set aside, of all consumers or of one."""

    @run
    async def _(ports: Ports) -> None:
        await set_aside(ports, "chunks", "a", "b")
        await set_aside(ports, "eraser", "c")
        await set_aside(ports, "chunks", "d")

        async def listed(consumer: str | None = None, **bounds: int) -> list[bytes]:
            return [letter.data async for letter in ports.dead_letters.letters(consumer, **bounds)]

        assert await listed() == [b"a", b"b", b"c", b"d"]
        assert await listed("chunks") == [b"a", b"b", b"d"]
        assert await listed("nobody") == []
        assert await listed("chunks", after=1, limit=1) == [b"b"]
        assert await listed(after=4) == []
        assert await listed(limit=3) == [b"a", b"b", b"c"]


def test_a_pointer_is_found_by_its_sequence(run: Run) -> None:
    """A pointer carries what was published, until it is dropped."""

    @run
    async def _(ports: Ports) -> None:
        (sequence,) = await set_aside(ports, "chunks", "poison")
        letter = await ports.dead_letters.letter(sequence)
        assert letter is not None
        assert (letter.sequence, letter.data) == (sequence, b"poison")
        assert letter.subject == ports.subjects.dead_letter("chunks")
        assert letter.headers["Lucid-Reason"] == "poison"
        assert await ports.dead_letters.letter(sequence + 1) is None
        assert await ports.dead_letters.drop(sequence) is True
        assert await ports.dead_letters.letter(sequence) is None
        assert await ports.dead_letters.drop(sequence) is False
        assert [one async for one in ports.dead_letters.letters()] == []


def test_the_original_is_read_as_stored(run: Run) -> None:
    """The message a pointer names is read from its own stream, byte for byte."""

    @run
    async def _(ports: Ports) -> None:
        appended = await ports.append(events("c1", "a"))
        stream = ports.subjects.events_stream
        original = await ports.dead_letters.original(stream, appended.version)
        assert original is not None
        assert original.subject == ports.subjects.event(SID, "session.marked.v1")
        assert original.headers["ce-id"] == appended.recorded[0].id
        (stored,) = await ports.timed_history()
        assert (original.data, original.stored_at) == (b'{"label":"a","offset":0}', stored.stored_at)
        assert await ports.dead_letters.original(stream, appended.version + 1) is None
