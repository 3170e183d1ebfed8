"""The checker of histories, held against what the pipeline really writes, in memory."""

import asyncio
import hashlib
import random
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import NewEvent
from lucid_events.domain.ids import Digest, SessionId, Version, event_id
from lucid_events.domain.values import Quality
from lucid_events.errors import ContractError
from lucid_events.evidence.bundle_contents import Contents
from lucid_events.evidence.differences import MAX_DIFFERENCES, What
from lucid_events.evidence.histories import HistoryCheck, KnownHead
from lucid_events.evidence.keys import KeyList
from lucid_events.evidence.manifests import sign_manifest
from lucid_events.evidence.signing import Signer, generate_seed
from lucid_events.handlers.facts import Facts
from lucid_events.jetstream.connection import StoredMessage
from lucid_events.jetstream.history import decode
from lucid_events.service.exporting import take
from tests.unit.domain.specification import recorded
from tests.unit.handlers.command_side import SID, CommandSide

SIGNER = Signer(generate_seed())
BEGAN = datetime(2000, 1, 1, tzinfo=UTC)
KEYS = KeyList().add(SIGNER.key, at=BEGAN)


async def session(side: CommandSide, rng: random.Random) -> None:
    """Bring a random session to its second manifest: gaps, failures, chunks ready in any order."""
    side.handler._facts = Facts(
        side.store,
        side.capture,
        side.beats,
        side.clock,
        beat_interval_s=5,
        sign=lambda sid, manifest: sign_manifest(SIGNER, sid, manifest),
    )
    await side.start()
    offset, sealed = 0, []
    for n in range(rng.randint(1, 6)):
        if rng.random() < 0.4:
            gap = cmd.Gap(epoch=1, start=offset, end=offset + rng.randint(1, 50), reason="cut")
            await side.ask(gap, id=f"gap-{n}")
            offset = gap.end
        data = rng.randbytes(rng.randint(1, 99))
        await side.seal(data, offset=offset, n=n)
        sealed.append((offset, data))
        offset += len(data)
    order = rng.sample(range(len(sealed)), len(sealed))
    failed = set(rng.sample(order, rng.randint(0, len(order) - 1)))
    for index in order:
        if index in failed:
            refused = cmd.ChunkRefused(index=index, code="wrong")
            await side.handler.append_internal(SID, refused, cause=f"r-{index}", reaction="chunks")
        else:
            await ready(side, index, *sealed[index], rng)
    await side.ask(cmd.Stop(), id="stop")
    await side.ask(cmd.Detach(epoch=1, offset=offset), id="detach")
    await finish(side)
    for index in failed:
        await ready(side, index, *sealed[index], rng)
    await finish(side)


async def ready(side: CommandSide, index: int, offset: int, data: bytes, rng: random.Random) -> None:
    """Say that a chunk is stored."""
    stored = cmd.ChunkStored(
        index=index,
        offset=offset,
        size=len(data),
        stored_size=rng.randint(1, len(data)),
        sha256=hashlib.sha256(data).hexdigest(),
        stored_sha256="0" * 64,
        codec=rng.choice(["gzip", "zstd", "store"]),
        level=None,
        ratio=1.0,
        quality=Quality(score=1.0, complete=1.0),
        hash_by="recorder",
        bucket="b",
        object="o",
    )
    await side.handler.append_internal(SID, stored, cause=f"stored-{index}", reaction="chunks")


async def finish(side: CommandSide) -> None:
    """Ask for the manifest that is due, if one is."""
    cause = (await side.events())[-1].id
    await side.handler.append_internal(SID, cmd.Finish(), cause=cause, reaction="finaliser")


def written(rng: random.Random) -> list[StoredMessage]:
    """Return the stored messages of a random session."""
    side = CommandSide()
    asyncio.run(session(side, rng))
    return kept(side)


def kept(side: CommandSide) -> list[StoredMessage]:
    """Return the stored messages of the log."""
    found = side.server.stream(side.subjects.events_stream).messages()
    return [StoredMessage(m.subject, m.sequence, m.stored_at, dict(m.headers), m.data) for m in found]


def checked(
    messages: list[StoredMessage], *, keys: KeyList | None = KEYS, heads: tuple[KnownHead, ...] = ()
) -> HistoryCheck:
    """Return the check of a history, to its end."""
    check = HistoryCheck(SID, keys=keys, heads=heads)
    for message in messages:
        try:
            check.take(decode(message))
        except ContractError as exc:
            check.take_unreadable(cast(int, exc.fields["sequence"]), exc.message)
    check.end(require_signature=True)
    return check


def renumbered(messages: list[StoredMessage]) -> list[StoredMessage]:
    """Return the messages with sequences as a log would give them."""
    return [
        StoredMessage(m.subject, number, m.stored_at, m.headers, m.data)
        for number, m in enumerate(messages, 1)
    ]


def last_head(messages: list[StoredMessage]) -> KnownHead:
    """Return what somebody remembers who has read the whole history."""
    return KnownHead(source="a friend", sequence=len(messages), digest=Digest(checked(messages).head or ""))


def test_what_the_pipeline_writes_holds(rng: random.Random) -> None:
    """Manifests made by the writer are those the checker adds up to, whatever happened before."""
    for _ in range(20):
        messages = written(rng)
        check = checked(messages)
        assert check.holds, check.differences
        assert (check.signed.verdict, check.signed.key) == ("signed", SIGNER.key)
        assert check.events == len(messages)


def test_every_single_change_of_a_history_is_found(rng: random.Random) -> None:
    """One message left out, doubled, swapped with the next or changed in any byte: it does not hold."""
    messages = written(rng)
    head = last_head(messages)
    for place, message in enumerate(messages):
        without = messages[:place] + messages[place + 1 :]
        assert not checked(without, heads=(head,)).holds, place
        twice = renumbered([*messages[: place + 1], *messages[place:]])
        assert not checked(twice).holds, place
        if place:
            swapped = [*messages]
            swapped[place - 1 : place + 1] = swapped[place], swapped[place - 1]
            assert not checked(renumbered(swapped)).holds, place
        for at in range(len(message.data)):
            data = bytearray(message.data)
            data[at] ^= 1 << rng.randrange(8)
            changed = StoredMessage(
                message.subject, message.sequence, message.stored_at, message.headers, bytes(data)
            )
            check = checked([*messages[:place], changed, *messages[place + 1 :]], heads=(head,))
            assert not check.holds, (place, at)


def test_a_history_that_was_longer_is_cut(rng: random.Random) -> None:
    """Whoever remembers a later end than there is, has seen events that were removed."""
    messages = written(rng)
    head = last_head(messages)
    for end in range(len(messages)):
        first = checked(messages[:end], heads=(head,)).differences[0]
        assert (first.what, first.sequence) == (What.TRUNCATED, len(messages))
    assert checked(messages, heads=(head,)).holds
    other = KnownHead(source="a friend", sequence=2, digest=Digest("ab" * 32))
    assert checked(messages, heads=(other, head)).differences[0].what is What.REWRITTEN


def test_a_command_that_took_effect_twice_is_named() -> None:
    """Two events of one id, each linked and allowed, are a difference at the second."""

    async def main() -> list[StoredMessage]:
        side = CommandSide()
        await side.ask(cmd.Create(), id="create")
        for place in range(3):  # what a writer does that looks nothing up
            head = (await side.events())[-1]
            event = NewEvent(
                id=event_id(SID, "other" if place == 1 else "y", 0),
                session=SID,
                event=ev.SessionMarked(label="once", offset=0),
                time=side.clock.now(),
                cause="y",
                correlation="y",
                actor="test",
            )
            await side.clock.advance(600)  # past the server's window
            await side.store.append(SID, [event], expected=Version(head.sequence), head=head.digest)
        kept = side.server.stream(side.subjects.events_stream).messages()
        return [StoredMessage(m.subject, m.sequence, m.stored_at, dict(m.headers), m.data) for m in kept]

    check = HistoryCheck(SID)
    for message in asyncio.run(main()):
        check.take(decode(message))
    assert [(found.what, found.sequence) for found in check.differences] == [(What.REPEATED, 4)]


def test_what_comes_behind_a_broken_place_is_not_judged_by_the_rules(rng: random.Random) -> None:
    """A history without its first event has one difference: its rules can't be known any more."""
    check = checked(written(rng)[1:])
    assert [difference.what for difference in check.differences] == [What.CHAIN]


def test_what_comes_behind_a_foreign_message_is_judged_by_the_rules() -> None:
    """A message that is no event hides nothing: an event that is illegal behind it is told too."""
    stray = StoredMessage(f"lucid.evt.{SID}.junk", 1, BEGAN, {}, b"{}")
    check = HistoryCheck(SID)
    check.take(decode(stray))
    check.take(recorded(ev.SessionStarted(), 2))
    assert [difference.what for difference in check.differences] == [What.FOREIGN, What.ILLEGAL]


def test_differences_are_counted_beyond_those_kept() -> None:
    """However many there are, memory holds `MAX_DIFFERENCES` of them."""
    check = HistoryCheck(SID)
    for number in range(1, MAX_DIFFERENCES + 51):
        check.take_unreadable(number, "no JSON")
    assert (check.found, len(check.differences)) == (MAX_DIFFERENCES + 50, MAX_DIFFERENCES)
    assert [one.sequence for one in check.differences[:2]] == [1, 2]


@pytest.mark.parametrize(
    ("keys", "verdict", "found"),
    [
        (None, "unlisted", What.KEY),
        (KeyList(), "unknown_key", What.KEY),
        (KEYS.retire(SIGNER.key, until=BEGAN + timedelta(days=1)), "key_not_valid", What.KEY),
        (KEYS.retire(SIGNER.key, until=datetime(2100, 1, 1, tzinfo=UTC)), "signed", None),
    ],
)
def test_who_is_believed(keys: KeyList | None, verdict: str, found: What | None, rng: random.Random) -> None:
    """A signature counts when its key is in the list and was valid then; without a list, nobody is sure."""
    check = checked(written(rng), keys=keys)
    assert check.signed.verdict == verdict
    assert [difference.what for difference in check.differences[:1]] == ([found] if found else [])


def test_an_open_session_has_nothing_to_be_signed() -> None:
    """A session that is still recorded is no difference for lack of a signature; it is remarked."""

    async def main() -> HistoryCheck:
        side = CommandSide()
        await side.start()
        check = HistoryCheck(SID, keys=KEYS)
        for event in await side.events():
            check.take(event)
        check.end(require_signature=True)
        return check

    check = asyncio.run(main())
    assert check.holds
    assert "no manifest" in check.remarks[0].reason


def test_a_history_of_another_session_does_not_pass_as_this_one(rng: random.Random) -> None:
    """The manifest is signed for one session: under another name the same events do not hold."""
    check = HistoryCheck(SessionId("another"), keys=KEYS)
    for message in written(rng):
        check.take(decode(message))
    assert check.differences[0].what is What.SIGNATURE


async def grown(side: CommandSide, rng: random.Random, *, ended: bool) -> None:
    """Record another chunk behind the manifest of a session; it is signed by nobody."""
    await session(side, rng)
    offset = (await side.histories.refresh(SID)).state.offset
    await side.ask(cmd.Recover(), id="recover")
    await side.ask(cmd.Start(), id="again")
    await side.ask(cmd.Attach(recorder="r2"), id="attach-2")
    await side.seal(b"more", offset=offset, epoch=2)
    if ended:
        await side.ask(cmd.Fail(code="x", reason="y"), id="fail")


@pytest.mark.parametrize("ended", [False, True])
def test_what_was_recorded_behind_the_last_manifest_is_not_signed(ended: bool, rng: random.Random) -> None:
    """A good signature on an older manifest says nothing of chunks that came later: that is told.

    Once the session has ended, or in a copy of it, it is a difference where signatures are required.
    """
    side = CommandSide()
    asyncio.run(grown(side, rng, ended=ended))
    for goes_on, required in ((True, True), (True, False), (False, True), (False, False)):
        check = HistoryCheck(SID, keys=KEYS)
        for message in kept(side):
            check.take(decode(message))
        check.end(require_signature=required, goes_on=goes_on)
        assert check.signed.verdict == "signed"
        differs = required and (ended or not goes_on)
        told = [one.reason for one in check.differences] + [one.reason for one in check.remarks]
        assert told == [
            f"manifest {check.signed.manifest} does not cover what was recorded behind it, chunks and gaps: 1"
        ]
        assert [one.what for one in check.differences] == ([What.UNSIGNED] if differs else [])


def test_a_copy_of_an_open_session_is_not_signed() -> None:
    """An open session may yet be signed; a copy of one may have been cut off, or made up."""
    side = CommandSide()
    asyncio.run(side.start())
    for goes_on in (True, False):
        check = HistoryCheck(SID, keys=KEYS)
        for message in kept(side):
            check.take(decode(message))
        check.end(require_signature=True, goes_on=goes_on)
        assert check.holds is goes_on
        assert [one.what for one in check.differences] == ([] if goes_on else [What.UNSIGNED])


def test_a_time_that_is_none_in_utc_is_unreadable(rng: random.Random) -> None:
    """A time before the first day of the calendar, or behind the last, can't be read; it is no crash."""
    one = written(rng)[0]
    for time in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
        headers = {**one.headers, "ce-time": time}
        found = take(Contents(), StoredMessage(one.subject, 1, one.stored_at, headers, one.data))
        assert isinstance(found, ContractError)


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z"])
def test_a_time_at_the_end_of_the_calendar_is_a_difference(time: str, rng: random.Random) -> None:
    """Times that nothing can be added to or taken from are judged like any other change, without a crash."""
    messages = written(rng)
    one = messages[1]
    headers = {**one.headers, "ce-time": time}
    check = checked(
        [messages[0], StoredMessage(one.subject, 2, one.stored_at, headers, one.data), *messages[2:]]
    )
    assert not check.holds
    assert check.differences[0].sequence in (2, 3)
