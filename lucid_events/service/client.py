"""What a command line, a gateway or a script works with: commands, histories, views, recordings."""

import asyncio
import getpass
import logging
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import datetime
from typing import NoReturn

from lucid_events.client import Commands
from lucid_events.compression import ByteBudget, Compressor
from lucid_events.config import Settings
from lucid_events.domain.commands import View
from lucid_events.domain.envelope import Recorded, Stray
from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import AT_REST, State
from lucid_events.domain.values import MIB
from lucid_events.errors import NotFound, NotReady, StoreUnavailable
from lucid_events.handlers.vouching import voucher_of
from lucid_events.measures import ProcessMeasures
from lucid_events.playback import FOLLOW_POLL_S, Bytes, Missing, Player
from lucid_events.projections.generations import Generations
from lucid_events.projections.index import Page
from lucid_events.projections.live_views import LiveViews
from lucid_events.projections.reads import StatusReads
from lucid_events.projections.status import StatusProjection
from lucid_events.projections.status_view import StatusView
from lucid_events.service.adapters import Adapters, open_adapters

PLAY_WORKERS = 2
PLAY_BYTES = 256 * MIB
"""Bytes in decompression at once: two chunks of the largest size, raw and stored."""

NOTE_VIEW_S = 10.0
"""How long a viewing waits to be noted: a leader election takes 5 s. Half fails in every election,
twice keeps a viewer waiting for workers that are not there."""

RETRY_S = 0.5
"""Between two attempts at a server that is away. Half only asks more often, twice shows in every restart."""

_log = logging.getLogger(__name__)


class Client:
    """One user's view of a running pipeline; made by `connect`."""

    def __init__(self, adapters: Adapters, compressor: Compressor) -> None:
        self.adapters = adapters
        self.settings, self.subjects = adapters.settings, adapters.subjects
        self.store, self.chunks, self.live = adapters.store, adapters.chunks, adapters.live
        self.commands = Commands(
            adapters.bus, adapters.subjects, adapters.clock, actor=self.settings.actor or default_actor()
        )
        self.player = Player(adapters.store, adapters.bucket, compressor, adapters.subjects, adapters.live)
        self.views = LiveViews(
            Generations(adapters.meta, StatusProjection.name),
            lambda generation: adapters.kv(adapters.subjects.status_bucket(generation)),
            adapters.clock,
        )
        self._reads = StatusReads(self.views, adapters.clock)
        self._voucher = voucher_of(self.settings)

    def commands_as(self, actor: str) -> Commands:
        """Return a sender of commands on behalf of `actor`, whose identity the caller has checked.

        It is vouched for with the key of the access file; where there is none, it is a claim.
        """
        vouch = self._voucher.vouch if self._voucher else None
        return Commands(self.adapters.bus, self.subjects, self.adapters.clock, actor=actor, vouch=vouch)

    async def status(self, session: SessionId, *, min_version: int = 0, timeout_s: float = 5.0) -> StatusView:
        """Return the session's status, at least as of `min_version`.

        Raises:
            NotFound: there is no such session.
            NotReady: the view did not get there in time.
        """
        return await self._reads.read(session, min_position=min_version or None, timeout_s=timeout_s)

    async def status_now(self, session: SessionId, *, timeout_s: float = 2.0) -> StatusView:
        """Return the session's status with everything that was in its history when this was asked.

        While the views are further behind than `timeout_s`, it is what they have: `position` tells.

        Raises:
            NotFound: there is no such session.
            NotReady: the session is not in the views yet.
        """
        # Both at once: one after the other they wait twice behind everything else that this process does.
        found, held = await asyncio.gather(
            self.store.version(session), self.views.load(session), return_exceptions=True
        )
        if isinstance(found, BaseException):
            raise found
        version = int(found)
        if not version:
            await self.missing(session)
        view = None if isinstance(held, BaseException) else held.view
        if view is not None and view.position.sequence >= version:
            return view
        try:
            return await self.status(session, min_version=version, timeout_s=timeout_s)
        except NotReady:
            try:
                return await self.status(session)
            except NotFound:
                pass
            raise

    async def watch_status(self, session: SessionId) -> AsyncGenerator[StatusView, None]:
        """Yield the session's status after every event, until it has ended."""
        seen = -1
        async with self.live.listen(self.subjects.live_history(session)) as feed:
            # What was appended before the feed stood is not told by it, and may not be applied yet.
            view = await self.status(session, min_version=int(await self.store.version(session)))
            while True:
                if view.position.sequence != seen:
                    seen = view.position.sequence
                    yield view
                if view.state in AT_REST and not view.chunks.waiting:
                    return
                try:
                    async with asyncio.timeout(FOLLOW_POLL_S):
                        message = await anext(feed)
                    view = await self.status(session, min_version=message.sequence)
                except TimeoutError:
                    view = await self.status(session)  # nothing said, or the message was lost

    async def status_in(
        self, session: SessionId, states: Collection[State], *, min_version: int = 0, timeout_s: float
    ) -> StatusView:
        """Return the session's status as soon as it is in one of `states`, or as it is after `timeout_s`.

        Raises:
            NotFound: there is no such session.
            NotReady: the view is behind `min_version` for too long.
        """
        view = await self.status(session, min_version=min_version)
        if view.state in states or timeout_s <= 0:
            return view
        try:
            async with asyncio.timeout(timeout_s), aclosing(self.watch_status(session)) as views:
                async for view in views:
                    if view.state in states:
                        break
        except TimeoutError:
            pass  # as it is now, which the caller can tell
        return view

    async def sessions(
        self, *, owner: str | None = None, state: State | None = None, after: int = 0, limit: int = 100
    ) -> Page:
        """Return a page of sessions, the one that changed its state longest ago first."""
        return await self.views.page(owner=owner, state=state, after=after, limit=limit)

    async def events(
        self,
        *,
        kinds: Sequence[str] = (),
        session: SessionId | None = None,
        after: int | None = None,
        since: datetime | None = None,
        follow: bool = False,
    ) -> AsyncGenerator[Recorded | Stray, None]:
        """Yield events of the log; with `follow`, new ones too, none left out.

        Without a beginning, everything is replayed, or, when following, only what is new.
        """
        filters = [self.subjects.events_of_type(kind, session or "*") for kind in kinds]
        if not filters and session is not None:
            filters = [self.subjects.history(session)]
        live = (
            self.subjects.live_history(session) if session else self.subjects.live(self.subjects.all_events)
        )
        if after is None:
            after = (await self.store.last_position()).sequence if follow and since is None else 0
        async with AsyncExitStack() as stack:
            feed = await stack.enter_async_context(self.live.listen(live)) if follow else None
            while True:
                async with aclosing(self.store.replay(filters, after=after, since=since)) as stored:
                    async for recorded in stored:
                        after, since = int(recorded.sequence), None
                        yield recorded
                if feed is None:
                    return
                try:
                    # The live feed only wakes us up: what is yielded is read from the log, so a
                    # lost live message costs time and never an event.
                    async with asyncio.timeout(FOLLOW_POLL_S):
                        await anext(feed)
                except TimeoutError:
                    continue

    async def note_view(
        self, session: SessionId, *, start: int, end: int | None, how: str, commands: Commands | None = None
    ) -> None:
        """Have it in the history that bytes are about to be handed out, once in five minutes per viewer.

        Args:
            how: what for, such as `play` or `export`.
            commands: sender on behalf of the viewer; ourselves when left out.

        Raises:
            StoreUnavailable: nobody could note it within `NOTE_VIEW_S`: hand nothing out.
        """
        sender = commands or self.commands
        await sender.send(session, View(start=start, end=end, how=how), give_up_after_s=NOTE_VIEW_S)

    async def play(
        self, session: SessionId, *, start: int = 0, end: int | None = None, follow: bool = False
    ) -> AsyncGenerator[Bytes | Missing, None]:
        """Play as `Player.play` does, once the history says who looks; raises like both."""
        await self.note_view(session, start=start, end=end, how="play")
        async with aclosing(self.player.play(session, start=start, end=end, follow=follow)) as parts:
            async for part in parts:
                yield part

    async def missing(self, session: SessionId) -> NoReturn:
        """Raise `NotFound` for a session without a history."""
        raise NotFound(f"there is no session {session}", session=session)


@asynccontextmanager
async def connect(
    settings: Settings,
    *,
    name: str = "lucid-client",
    measures: ProcessMeasures | None = None,
    wait_s: float = 0.0,
) -> AsyncIterator[Client]:
    """Connect to the pipeline that `settings` point to; `measures` is told what is captured here.

    Args:
        wait_s: how long to ask again while no server answers, or none with a pipeline; a warning says so.

    Raises:
        StoreUnavailable: no server answers, or no pipeline was set up on it.
        ConfigError: credentials or context are wrong.
    """
    client, opened = await _opened_in_time(settings, name, measures, wait_s)
    async with opened:
        yield client


async def _opened_in_time(
    settings: Settings, name: str, measures: ProcessMeasures | None, wait_s: float
) -> tuple[Client, AsyncExitStack]:
    loop = asyncio.get_running_loop()
    deadline, level = loop.time() + wait_s, logging.WARNING
    while True:
        try:
            return await _opened(settings, name, measures)
        except StoreUnavailable as exc:
            if (left_s := deadline - loop.time()) <= 0:
                if wait_s:
                    exc.message = f"{exc.message}; it was waited for, {wait_s:g} s in vain"
                raise
            reason = f"{exc.message}; asking again for {wait_s:g} s"
            _log.log(level, "waiting for the server", extra={"reason": reason})
            level = logging.DEBUG  # whoever waits was told
            await asyncio.sleep(min(RETRY_S, left_s))


async def _opened(
    settings: Settings, name: str, measures: ProcessMeasures | None
) -> tuple[Client, AsyncExitStack]:
    """Return a client that has seen the pipeline, and what closes it."""
    async with AsyncExitStack() as stack:
        adapters = await stack.enter_async_context(open_adapters(settings, name=name, measures=measures))
        client = Client(adapters, await stack.enter_async_context(_compressor()))
        await client.views.refresh()
        return client, stack.pop_all()


def default_actor() -> str:
    """Return `user@host`; it is stored as an unverified claim."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _compressor() -> Compressor:
    return Compressor(workers=PLAY_WORKERS, budget=ByteBudget(PLAY_BYTES))
