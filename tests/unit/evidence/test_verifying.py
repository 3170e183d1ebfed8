"""The verifier over a pipeline in memory, where buckets, rights and erasures get in its way."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import pytest
from msgspec.structs import replace

from lucid_events.cli.audit import Told, everything
from lucid_events.compression.measuring import Measurer
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import NewEvent
from lucid_events.domain.ids import EventId
from lucid_events.errors import ConfigError, IntegrityError, LucidError
from lucid_events.evidence.differences import Difference, What
from lucid_events.ports import BlobInfo, BlobStore
from lucid_events.service import erased
from lucid_events.service.auditing import Auditor, open_auditor
from lucid_events.service.inventory import Inventory
from lucid_events.service.verifying import EVERYTHING, Sample, SessionReport, Verifier
from lucid_events.subjects import object_name
from tests.unit.handlers.command_side import SID
from tests.unit.handlers.storing import ready_event
from tests.unit.service.damaged import FIRST, SECOND, MemoryPipeline

DATA = b"recorded"
FORBIDDEN = ConfigError("the server does not let this login publish to 'it'", forbidden="it")
NO_BUCKET = ConfigError("stream not found: run `lucid deploy`", status=404)


async def append(side: MemoryPipeline, event: ev.SessionEvent) -> None:
    """Append an event that nobody decided on."""
    last = (await side.events())[-1]
    new = NewEvent(
        id=EventId(f"forged-{last.sequence}"),
        session=SID,
        event=event,
        time=side.clock.now(),
        cause="test",
        correlation="test",
        actor="test",
    )
    await side.store.append(SID, [new], expected=await side.store.version(SID), head=last.digest)


async def erase(side: MemoryPipeline) -> None:
    """Bring the session to its end, and say that its bytes were erased."""
    for event in (
        ev.RecorderLost(epoch=1),
        ev.SessionFailed(code="x"),
        ev.SessionCleanupStarted(),
        ev.SessionDestroyed(objects=1, stored_bytes=1),
    ):
        await append(side, event)


async def stored(side: MemoryPipeline, **fields: str) -> ev.ChunkReady:
    """Record one chunk and say that it is ready, in the bucket and object of `fields`."""
    await side.start()
    await side.seal(DATA)
    (sealed,) = [one.event for one in await side.events() if isinstance(one.event, ev.ChunkSealed)]
    name = object_name(SID, 0, sealed.sha256)
    made = replace(
        ready_event(sealed),
        codec="store",
        stored_size=len(DATA),
        stored_sha256=sealed.sha256,
        **{"bucket": side.blobs.bucket, "object": name, **fields},
    )
    metadata = {"session": SID, "index": "0", "offset": "0", "size": str(len(DATA))}
    await side.blobs.put(name, DATA, metadata={**metadata, "sha256": sealed.sha256, "codec": "store"})
    await append(side, made)
    return made


async def verified(
    side: MemoryPipeline,
    bucket: Callable[[str], BlobStore] | None = None,
    *,
    sample: Sample = EVERYTHING,
) -> SessionReport:
    """What is said of the session."""
    async with Measurer(workers=1) as measurer:
        verifier = Verifier(
            side.store,
            bucket or (lambda name: side.blobs),
            measurer,
            chunks=side.blobs,
            sample=sample,
        )
        return await verifier.verify(SID)


class Bucket:
    """A bucket that another stands in front of."""

    def __init__(self, behind: BlobStore) -> None:
        self.bucket, self._behind = behind.bucket, behind

    async def info(self, name: str) -> BlobInfo | None:
        """Return what the bucket says."""
        return await self._behind.info(name)

    def stream(self, name: str, *, verify: bool = True) -> AsyncIterator[bytes]:
        """Give the bytes."""
        return self._behind.stream(name, verify=verify)


class Refusing(Bucket):
    """Answers everything with an error."""

    def __init__(self, behind: BlobStore, error: LucidError) -> None:
        super().__init__(behind)
        self._error = error

    async def info(self, name: str) -> BlobInfo | None:
        """Answer nothing."""
        raise self._error


class Vanishing(Bucket):
    """Is being erased: the object goes while it is read, its pieces first."""

    def __init__(self, behind: BlobStore, begun: Callable[[], Awaitable[None]], *, gone: bool) -> None:
        super().__init__(behind)
        self._begun, self._gone = begun, gone

    async def stream(self, name: str, *, verify: bool = True) -> AsyncIterator[bytes]:
        """Find no pieces any more."""
        await self._begun()
        if self._gone:
            await self._behind.delete(name)
        yield b""
        raise IntegrityError("object lacks pieces")


def kinds(report: SessionReport) -> list[What]:
    """Return the kinds of difference."""
    return [one.what for one in report.differences]


def test_a_bucket_that_may_not_be_read_is_no_difference() -> None:
    """A login without a right to a bucket hears so: nothing is said about chunks that were not looked at."""

    async def main() -> None:
        side = MemoryPipeline()
        await stored(side)
        assert (await verified(side)).holds
        refusing = Refusing(side.blobs, FORBIDDEN)
        with pytest.raises(ConfigError, match="does not let this login"):
            await verified(side, lambda name: cast(BlobStore, refusing))
        await erase(side)
        with pytest.raises(ConfigError, match="does not let this login"):
            await verified(side, lambda name: cast(BlobStore, refusing))

    asyncio.run(main())


@pytest.mark.parametrize("name", ["x.y", "a b", "*", ">", "", "a\x1b[2K"])
def test_what_is_no_bucket_is_not_asked_for(name: str) -> None:
    """An event that names no bucket has no object: the session does not hold, and the check does not end."""

    async def main() -> None:
        side = MemoryPipeline()
        await stored(side, bucket=name)

        def never(asked: str) -> BlobStore:
            raise AssertionError(asked)

        report = await verified(side, never)
        assert (kinds(report), report.missing) == ([What.OBJECT_MISSING], 1)
        await erase(side)
        assert (await verified(side, never)).holds

    asyncio.run(main())


def test_a_bucket_that_is_gone_holds_no_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the whole bucket was deleted, a chunk's object is missing, and none that was erased is left."""
    monkeypatch.setattr(erased, "SETTLE_S", 0.0)

    async def main() -> None:
        side = MemoryPipeline()
        await stored(side, bucket="gone")
        gone = Refusing(side.blobs, NO_BUCKET)
        report = await verified(side, lambda name: cast(BlobStore, gone))
        assert kinds(report) == [What.OBJECT_MISSING]
        await erase(side)
        assert (await verified(side, lambda name: cast(BlobStore, gone))).holds

    asyncio.run(main())


@pytest.mark.parametrize("gone", [True, False])
def test_an_object_that_is_erased_while_it_is_read_is_not_damaged(gone: bool) -> None:
    """Pieces that go with their object are an erasure; pieces that go alone are damage."""

    async def main() -> None:
        side = MemoryPipeline()
        await stored(side)

        async def begun() -> None:
            await append(side, ev.SessionCleanupStarted())

        vanishing = Vanishing(side.blobs, begun, gone=gone)
        report = await verified(side, lambda name: cast(BlobStore, vanishing))
        assert report.holds is gone
        assert kinds(report) == ([] if gone else [What.OBJECT_BYTES])

    asyncio.run(main())


@pytest.mark.parametrize("ready", [True, False])
def test_an_object_that_an_erasure_left_is_named(ready: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object of a destroyed session is a difference, whether it was ever said to be ready or not."""
    monkeypatch.setattr(erased, "SETTLE_S", 0.0)

    async def main() -> None:
        side = MemoryPipeline()
        if ready:
            name = (await stored(side)).object
        else:
            await side.start()
            await side.seal(DATA)
            (sealed,) = [one.event for one in await side.events() if isinstance(one.event, ev.ChunkSealed)]
            name = object_name(SID, 0, sealed.sha256)
            await side.blobs.put(name, DATA, metadata={})
        await erase(side)
        report = await verified(side)
        left = [(one.index, one.object) for one in report.differences if one.what is What.OBJECT_LEFT]
        assert (report.left, left) == (1, [(0, f"{side.blobs.bucket}/{name}")])
        assert not report.holds
        inventory, alone = Inventory(), Inventory()
        inventory.add(report)
        assert [one async for one in inventory.unknown(side.store, side.blobs)] == []
        (again,) = [one async for one in alone.unknown(side.store, side.blobs)]
        assert isinstance(again, Difference)
        assert again.what is What.OBJECT_LEFT
        await side.blobs.delete(name)
        assert (await verified(side)).left == 0
        assert [one async for one in alone.unknown(side.store, side.blobs)] == []

    asyncio.run(main())


def test_what_a_worker_deletes_in_a_moment_is_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that was put beside the erasure and is deleted again within the pause is no difference."""

    async def main() -> None:
        side = MemoryPipeline()
        name = (await stored(side)).object
        await erase(side)

        sleep, paused = asyncio.sleep, []

        async def pause(seconds: float) -> None:
            if seconds == erased.SETTLE_S:
                paused.append(await side.blobs.delete(name))
            else:
                await sleep(seconds)

        monkeypatch.setattr(asyncio, "sleep", pause)
        assert (await verified(side)).holds
        assert paused == [True]

    asyncio.run(main())


def test_erased_chunks_outside_the_sample_are_not_asked_for() -> None:
    """A sample looks at its share of the erased chunks, as of all others."""

    async def main() -> None:
        side = MemoryPipeline()
        await stored(side)
        await erase(side)
        assert (await verified(side, sample=Sample(fraction=0.0, seed=""))).holds

    asyncio.run(main())


def judged(side: MemoryPipeline, monkeypatch: pytest.MonkeyPatch, *, allow_strays: bool = False) -> bool:
    """Verify everything, as the command does; returns whether it holds."""

    class Bar:
        task_ids = (0,)

        def update(self, *args: object, **kwargs: object) -> None: ...

    async def nothing(auditor: Auditor) -> list[Difference]:
        return []

    async def main() -> bool:
        told = Told(json=False, sample=EVERYTHING)
        async with Measurer(workers=1) as measurer:
            auditor = await open_auditor(side.adapters, measurer, allow_strays=allow_strays)
            bar = cast(Any, Bar())
            await everything(auditor, told, whole=True, since=None, bar=bar, allow_strays=allow_strays)
        return told.end()

    monkeypatch.setattr(Auditor, "log", nothing)
    return asyncio.run(main())


def test_messages_beside_all_histories_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What names a session and is on no subject of a history is told, and sessions behind it are judged."""
    side = MemoryPipeline()
    asyncio.run(side.start(session=FIRST))
    envelope = side.server.stream(side.subjects.events_stream).messages()[0].headers
    headers = {name: value for name, value in envelope.items() if name.startswith(("ce-", "Lucid-"))}
    side.server.publish("lucid.evt.ghost", b"?")
    side.server.publish(f"lucid.evt.{FIRST}", b"?")
    side.server.publish("lucid.evt.spectre", b"{}", {**headers, "ce-subject": "spectre"})
    asyncio.run(side.start(session=SECOND))
    assert not judged(side, monkeypatch)
    said = capsys.readouterr().out.replace("\n", " ")
    assert "foreign_message: event 4: not an event, on 'lucid.evt.ghost'" in said
    assert f"foreign_message: event 5: not an event, on 'lucid.evt.{FIRST}'" in said
    assert "foreign_message: session spectre: a message in the log is of this session" in said
    assert f"{SECOND}: holds" in said
    assert judged(side, monkeypatch, allow_strays=True)


def test_what_an_erasure_left_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of everything, an object of an erased chunk is told with its session and not again with its bucket."""
    monkeypatch.setattr(erased, "SETTLE_S", 0.0)
    side = MemoryPipeline()

    async def main() -> str:
        name = (await stored(side)).object
        await erase(side)
        return name

    name = asyncio.run(main())
    assert not judged(side, monkeypatch)
    said = capsys.readouterr().out.replace("\n", " ")
    assert (said.count("object_left"), said.count(name)) == (1, 1)
