"""Jobs over every session: a damaged one is told, those behind it are looked at, an outage ends the job."""

import asyncio
from collections.abc import Callable, Generator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from lucid_events.cli.audit_reconciling import _missing
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import NewEvent
from lucid_events.domain.ids import EventId
from lucid_events.domain.retention import Outlook
from lucid_events.domain.transitions import State
from lucid_events.errors import AppendUncertain, ConfigError, LucidError, StoreUnavailable
from lucid_events.projections.index import view_key
from lucid_events.service import listing
from lucid_events.service.client import Client
from lucid_events.service.inventory import Inventory
from lucid_events.service.reconciling import Reconciled, Totals, note, noted, reconcile
from lucid_events.service.replaying import against_generation
from lucid_events.service.retention import Outlooks
from tests.unit.handlers.command_side import SID
from tests.unit.handlers.storing import ready_event
from tests.unit.service.damaged import FIRST, SECOND, THIRD, MemoryPipeline, away


@pytest.fixture(autouse=True)
def _buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of these tests names no bucket but the default one."""

    async def named(adapters: object, upto: int, session: str = "*") -> tuple[int, set[str]]:
        return 0, set()

    monkeypatch.setattr(listing, "named_buckets", named)


async def two(*, stopped: bool = False) -> MemoryPipeline:
    """A pipeline with two sessions, the first of which is damaged at its end."""
    side = MemoryPipeline()
    for session in (FIRST, SECOND):
        await side.start(session=session)
        if stopped:
            await side.stop(session)
        await side.view(session)
    side.damage(FIRST)
    return side


async def reconciled(side: MemoryPipeline) -> dict[str, Reconciled]:
    """What a reconciliation says, by session."""
    return {one.session_id: one async for one in reconcile(side.adapters)}


def test_a_reconciliation_goes_on_behind_a_damaged_history() -> None:
    """A history that can't be read is told as damaged and incomplete, and counted; the next one adds up."""

    async def main() -> None:
        side = await two()
        await side.blobs.put(f"{FIRST}/00000000-x", b"x", metadata={})
        told = await reconciled(side)
        assert list(told) == [FIRST, SECOND]
        assert not told[FIRST].complete
        assert told[FIRST].damaged.startswith("message ")
        assert told[FIRST].named[0].startswith("damaged")
        assert (told[SECOND].complete, told[SECOND].state) == (True, State.ACTIVE)
        totals = Totals(at=side.clock.now())
        for one in told.values():
            totals = totals.with_(one)
        assert (totals.sessions, totals.incomplete, totals.damaged, totals.capture_unseen) == (2, 1, 1, 0)

    asyncio.run(main())


def test_a_history_damaged_while_it_is_compared_is_told() -> None:
    """An event that can't be read comes up when a session is read again by name: it is told as damaged."""

    async def main() -> None:
        side = MemoryPipeline()
        for session in (FIRST, SECOND):
            await side.start(session=session)
        await side.blobs.put(f"{FIRST}/00000000-x", b"x", metadata={})
        found = reconcile(side.adapters)
        assert (await anext(found)).session_id == SECOND
        side.damage(FIRST)
        assert [one.session_id for one in [one async for one in found] if one.damaged] == [FIRST]

    asyncio.run(main())


def test_an_outage_ends_a_reconciliation() -> None:
    """While histories can't be read there is no sum, damaged session or not."""

    async def main() -> None:
        side = await two()
        side.faults.fail_next("read", away(), skip=3)
        with pytest.raises(StoreUnavailable):
            await reconciled(side)

    asyncio.run(main())


REFUSED = ConfigError("the server does not let this login publish to it", forbidden="$JS.API")


def no_answer(error: LucidError) -> Callable[..., Any]:
    """Stand in for what capture is asked by: it raises `error` once it is awaited or iterated."""

    class Never:
        def __await__(self) -> Generator[None, None, None]:
            raise error

        def __aiter__(self) -> "Never":
            return self

        async def __anext__(self) -> None:
            raise error

    return lambda *args, **kwargs: Never()


@pytest.mark.parametrize("asked", ["held", "count", "end"])
def test_capture_that_may_not_be_read_is_not_looked_at(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login without a right to capture is told what was not looked at, never that all is there."""

    async def main() -> None:
        side = MemoryPipeline()
        await side.start()
        await side.seal(b"chunk")
        owner: object = side.gauge if asked == "end" else side.capture
        monkeypatch.setattr(owner, asked, no_answer(REFUSED))
        one = (await reconciled(side))[SID]
        seen = {"held": one.capture_left, "count": one.capture_lost, "end": one.captured_bytes}
        assert [name for name, value in seen.items() if value is None] == [asked]
        assert one.unseen
        totals = Totals(at=side.clock.now()).with_(one)
        assert totals.capture_unseen == 1
        assert not await note(side.adapters, totals)
        assert await noted(side.adapters) is None
        assert "capture not looked at" in _missing(one)

    asyncio.run(main())


@pytest.mark.parametrize("error", [away(), ConfigError("no such stream"), AppendUncertain("no reply")])
@pytest.mark.parametrize("asked", ["held", "count", "end"])
def test_an_outage_of_capture_ends_a_reconciliation(
    asked: str, error: LucidError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Capture that could not be asked is an error, and no session is said to be complete for it."""

    async def main() -> None:
        side = MemoryPipeline()
        await side.start()
        await side.seal(b"chunk")
        owner: object = side.gauge if asked == "end" else side.capture
        monkeypatch.setattr(owner, asked, no_answer(error))
        with pytest.raises(type(error)):
            await reconciled(side)

    asyncio.run(main())


def test_the_inventory_goes_on_behind_a_damaged_history() -> None:
    """Of a damaged session one remark is made, and what nobody knows behind it is named all the same."""

    async def main() -> None:
        side = await two()
        for name in (f"{FIRST}/00000000-x", f"{FIRST}/00000001-x", f"{SECOND}/00000000-x"):
            await side.blobs.put(name, b"x", metadata={})
        told = [one async for one in Inventory().unknown(side.store, side.blobs)]
        assert [(one.session, bool(one.object)) for one in told] == [(FIRST, False), (SECOND, True)]
        assert "can't be told which of its 2 objects" in told[0].reason
        side.faults.fail_next("read", away())
        with pytest.raises(StoreUnavailable):
            [one async for one in Inventory().unknown(side.store, side.blobs)]

    asyncio.run(main())


def test_an_object_of_an_erased_chunk_is_named() -> None:
    """An object that an erasure left is told apart from one that no history ever knew."""

    async def main() -> None:
        side = MemoryPipeline()
        await side.start(session=FIRST)
        ready = ready_event(
            ev.ChunkSealed(
                index=0,
                epoch=1,
                n=0,
                offset=0,
                size=1,
                sha256="ab" * 32,
                first_seq=1,
                last_seq=1,
                gap_before=0,
                started_at=side.clock.now(),
                ended_at=side.clock.now(),
                cut="size",
            )
        )
        for name in (f"{FIRST}/left", f"{FIRST}/foreign"):
            await side.blobs.put(name, b"x", metadata={})
        ready = replace(ready, object=f"{FIRST}/left")
        for event in (ready, ev.SessionDestroyed(objects=1, stored_bytes=1)):
            version = await side.store.version(FIRST)
            last = (await side.events(FIRST))[-1]
            new = NewEvent(
                id=EventId(f"{type(event).__name__}"),
                session=FIRST,
                event=event,
                time=side.clock.now(),
                cause="test",
                correlation="test",
                actor="test",
            )
            await side.store.append(FIRST, [new], expected=version, head=last.digest)
        told = {one.object: one.reason async for one in Inventory().unknown(side.store, side.blobs)}
        assert "was erased" in told[f"{side.blobs.bucket}/{FIRST}/left"]
        assert "no history" in told[f"{side.blobs.bucket}/{FIRST}/foreign"]

    asyncio.run(main())


def test_views_are_compared_behind_a_damaged_history() -> None:
    """A history or a view that can't be read disagrees, and the session behind it is compared."""

    async def main() -> None:
        side = MemoryPipeline()
        for session in (FIRST, SECOND, THIRD):
            await side.start(session=session)
            await side.view(session)
        side.damage(FIRST)
        held = await side.views.load(FIRST)
        assert held.view is not None
        beyond = replace(held.view.position, sequence=int(await side.store.version(FIRST)))
        await side.views.save(replace(held.view, position=beyond), held)
        await side.kv(side.subjects.status_bucket(1)).put(view_key(SECOND), b"?")
        told = [await against_generation(side.adapters, one, 1) for one in (FIRST, SECOND, THIRD)]
        found = [[(each.kind, each.reason[:11]) for each in one.disagreements] for one in told]
        assert found == [[("unreadable", "the history")], [("unreadable", "the view in")], []]
        assert [one.differ for one in told] == [1, 1, 0]
        side.faults.fail_next("read", away())
        with pytest.raises(StoreUnavailable):
            await against_generation(side.adapters, SECOND, 1)

    asyncio.run(main())


def test_what_is_due_is_told_behind_a_damaged_history() -> None:
    """A session whose history can't be read is told with the reason, and no other is left out for it."""

    async def main() -> None:
        side = await two(stopped=True)
        client = SimpleNamespace(adapters=side.adapters, settings=side.settings, store=side.store)
        outlooks = Outlooks(cast(Client, client))

        async def due() -> list[Outlook]:
            return [one async for one in outlooks.due(within_days=100_000, metadata=True)]

        told = await due()
        assert [(one.session_id, one.state) for one in told] == [
            (FIRST, State.STOPPED),
            (SECOND, State.STOPPED),
        ]
        assert "can't be read" in told[0].because
        assert (told[0].metadata_until is None, told[1].metadata_until is None) == (True, False)
        side.faults.fail_next("read", away())
        with pytest.raises(StoreUnavailable):
            await due()

    asyncio.run(main())
