"""A pipeline in memory, and histories in it that somebody damaged."""

from types import SimpleNamespace
from typing import cast

from lucid_events.config import Settings
from lucid_events.domain import commands as cmd
from lucid_events.domain.ids import SessionId
from lucid_events.errors import StoreUnavailable
from lucid_events.handlers.commands import CommandHandler
from lucid_events.handlers.facts import Facts, Sign
from lucid_events.memory import MemoryBlobStore, MemoryCaptureGauge, MemoryKeyValue
from lucid_events.memory.stream import MSG_ID
from lucid_events.projections.base import Held
from lucid_events.projections.comparison import fold
from lucid_events.projections.status import StatusProjection
from lucid_events.projections.views import StatusViews
from lucid_events.service.adapters import Adapters
from tests.unit.handlers.command_side import BEAT_S, CommandSide

FIRST, SECOND, THIRD = SessionId("a1"), SessionId("b2"), SessionId("c3")
"""Sessions in the order in which the log has them."""


def away() -> StoreUnavailable:
    """Return what is raised while the server can't be asked."""
    return StoreUnavailable("the server is away")


class MemoryPipeline(CommandSide):
    """One server, one process, and the adapters of it; manifests are signed by `sign`."""

    def __init__(self, settings: Settings | None = None, *, sign: Sign | None = None) -> None:
        super().__init__()
        self.settings = settings or Settings()
        facts = Facts(self.store, self.capture, self.beats, self.clock, beat_interval_s=BEAT_S, sign=sign)
        self.handler = CommandHandler(self.histories, self.store, facts, self.clock)
        self.blobs = MemoryBlobStore(self.server, self.subjects.chunks_bucket)
        self.gauge = MemoryCaptureGauge(self.server)
        self.views = StatusViews(self.kv(self.subjects.status_bucket(1)))

    def kv(self, bucket: str) -> MemoryKeyValue:
        """Return the bucket of that name."""
        return MemoryKeyValue(self.server, bucket)

    @property
    def adapters(self) -> Adapters:
        """What a service works with."""
        return cast(
            Adapters,
            SimpleNamespace(
                settings=self.settings,
                subjects=self.subjects,
                clock=self.clock,
                store=self.store,
                capture=self.capture,
                gauge=self.gauge,
                chunks=self.blobs,
                bucket=lambda name: self.blobs,
                kv=self.kv,
                meta=self.kv(self.subjects.meta_bucket),
            ),
        )

    async def stop(self, session: SessionId) -> None:
        """Bring an active session to its manifest."""
        await self.ask(cmd.Stop(), id=f"{session}-stop", session=session)
        await self.ask(cmd.Detach(epoch=1, offset=0), id=f"{session}-detach", session=session)
        await self.handler.append_internal(session, cmd.Finish(), cause="test", reaction="test")

    async def view(self, session: SessionId) -> None:
        """Write the status view of a session as it is now."""
        projection = StatusProjection(self.subjects.events_stream, self.server.incarnation)
        upto = int(await self.store.version(session))
        view = await fold(projection, self.store, session, upto=upto)
        assert view is not None
        await self.views.save(view, Held())

    def damage(self, session: SessionId, *, at_end: bool = False) -> None:
        """Put an event that can't be decoded into the history, and another behind it, unless `at_end`."""
        last = self.server.stream(self.subjects.events_stream).last(self.subjects.history(session))
        assert last is not None
        headers = {key: value for key, value in last.headers.items() if key != MSG_ID}
        self.server.publish(last.subject, b"?", headers)
        if not at_end:
            self.server.publish(last.subject, last.data, headers)

    def litter(self, session: SessionId) -> None:
        """Put a message that is no event into the history, so that it does not hold."""
        self.server.publish(f"{self.subjects.prefix}.evt.{session}.junk", b"?")
