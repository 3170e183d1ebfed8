"""Status views over a real server: what the projectors keep is what the log says."""

import asyncio
import json
from collections.abc import Sequence

import nats

from lucid_events import codec
from lucid_events.clock import SystemClock
from lucid_events.domain import events as ev
from lucid_events.domain.ids import NO_DIGEST, SessionId, Version
from lucid_events.domain.transitions import State
from lucid_events.memory import MemoryKeyValue, MemoryServer
from lucid_events.ports import Inbox
from lucid_events.projections.comparison import compare
from lucid_events.projections.index import ENTRIES, SessionIndex, entry_key, entry_of, view_key
from lucid_events.projections.projector import Projector
from lucid_events.projections.reads import StatusReads
from lucid_events.projections.rebuild import Rebuild
from lucid_events.projections.runner import Limits, ProjectionRunner
from lucid_events.projections.status import StatusProjection
from lucid_events.projections.status_view import StatusView
from lucid_events.projections.views import StatusViews
from tests.contract.bundle import PATIENCE_S, Ports
from tests.contract.jetstream_ports import jetstream_ports
from tests.nats_server import NatsServer
from tests.unit.domain.specification import active, ready, sealed
from tests.unit.projections.chained import new

SESSIONS = [SessionId(f"s{number}") for number in range(4)]
STATUS = "status"
HISTORY: Sequence[ev.SessionEvent] = [
    *active(),
    *(event for i in range(5) for event in (sealed(i, i * 10, 10), ready(i, i * 10, 10))),
    ev.SessionStopping(reason="done"),
    ev.RecorderDetached(epoch=1, offset=50),
]


def runner(ports: Ports, inbox: Inbox) -> ProjectionRunner[StatusView]:
    """A projector process with a cache of its own."""
    projection = StatusProjection(ports.subjects.events_stream)
    return ProjectionRunner(
        inbox,
        Projector(projection, ports.store, StatusViews(ports.kv)),
        subjects=ports.subjects,
        clock=SystemClock(),
        limits=Limits(batch=7, fetch_wait_s=0.2),
    )


async def record(ports: Ports, session: SessionId) -> Version:
    """Append a whole history event by event; returns its version."""
    version, head = Version(0), NO_DIGEST
    for number, event in enumerate(HISTORY, 1):
        made = [new(event, number, session=session)]
        done = await ports.store.append(session, made, expected=version, head=head)
        version, head = done.version, done.head
    return version


def test_two_projectors_beside_four_recordings(shared_server: NatsServer) -> None:
    """While histories grow, two projectors keep views that a rebuild from sequence 1 equals byte by byte."""

    async def _() -> None:
        async with jetstream_ports(shared_server.url) as ports, asyncio.timeout(PATIENCE_S):
            inbox = await ports.add_consumer(STATUS, [ports.subjects.all_events])
            runners = [runner(ports, inbox), runner(ports, await ports.bind(STATUS))]
            views = StatusViews(ports.kv)
            reads = StatusReads(views, SystemClock())
            async with asyncio.TaskGroup() as tasks:
                for one in runners:
                    tasks.create_task(one.run())
                versions = await asyncio.gather(*(record(ports, session) for session in SESSIONS))
                for session, version in zip(SESSIONS, versions, strict=True):
                    view = await reads.read(session, min_position=version, timeout_s=PATIENCE_S)
                    assert (view.state, view.chunks.ready, view.events) == (State.STOPPING, 5, len(HISTORY))
                for one in runners:
                    one.stop()
            projection = StatusProjection(ports.subjects.events_stream)
            fresh = StatusViews(MemoryKeyValue(MemoryServer(), "fresh"))
            await Rebuild(projection, ports.store, fresh, clock=SystemClock()).run()
            comparison = await compare(projection, ports.store, views, fresh)
            assert (comparison.same, comparison.sessions) == (True, len(SESSIONS)), comparison
            page = await SessionIndex(ports.kv).page(state=State.STOPPING)
            assert {entry.session_id for entry in page.entries} == set(SESSIONS)
            assert (await SessionIndex(ports.kv).page(state=State.ACTIVE)).entries == ()

    asyncio.run(_())


def test_any_client_reads_a_view(shared_server: NatsServer) -> None:
    """A view is JSON under a plain key: a client that knows nothing of us gets it by its KV call."""

    async def _() -> None:
        async with jetstream_ports(shared_server.url) as ports, asyncio.timeout(PATIENCE_S):
            session = SESSIONS[0]
            version = await record(ports, session)
            projection = StatusProjection(ports.subjects.events_stream)
            projector = Projector(projection, ports.store, StatusViews(ports.kv))
            messages = [message async for message in ports.store.read(session)]
            view = await projector.apply(session, messages)
            client = await nats.connect(shared_server.url)
            try:
                bucket = await client.jetstream().key_value(ports.subjects.meta_bucket)
                entry = await bucket.get(view_key(session))
            finally:
                await client.close()
            assert entry.value == codec.encode(view)
            assert json.loads(entry.value or b"")["position"]["sequence"] == version

    asyncio.run(_())


def test_a_damaged_view_is_folded_anew(shared_server: NatsServer) -> None:
    """Over bytes that are no view the whole history is folded, and only the entry of its state is left."""

    async def _() -> None:
        async with jetstream_ports(shared_server.url) as ports, asyncio.timeout(PATIENCE_S):
            session = SESSIONS[0]
            views = StatusViews(ports.kv)
            version = await record(ports, session)
            messages = [message async for message in ports.store.read(session)]
            projection = StatusProjection(ports.subjects.events_stream)
            await Projector(projection, ports.store, views).apply(session, messages[:4])
            await ports.kv.put(view_key(session), b'{"broken')
            await Projector(projection, ports.store, views).apply(session, messages[-1:])
            view = (await views.load(session)).view
            assert view is not None
            assert (view.position.sequence, view.events) == (version, len(HISTORY))
            keys = [key async for key, _, _ in ports.kv.scan(ENTRIES)]
            entry = entry_of(view)
            assert entry is not None
            assert keys == [entry_key(entry)]

    asyncio.run(_())
