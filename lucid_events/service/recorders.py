"""Recorders that run in this process on behalf of others: bytes pushed to us, screens, programs.

What is durable is in the history and in capture; here is only who is writing at the moment. A
process that dies takes nothing with it that was acknowledged: the next one attaches to the same
session and goes on at the offset that has.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from weakref import WeakValueDictionary

from lucid_events.config import Settings
from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import State, triggers_from
from lucid_events.domain.values import MIB
from lucid_events.errors import CommandRejected, Fenced, LucidError, NotFound, NotReady
from lucid_events.recorder import PushSource, RecorderOptions, Recording, Refused, Source, Spool
from lucid_events.service.client import Client

TURN_S = 5.0
"""How long an upload waits for the one before it in the same session. Half refuses clients that send
the next piece early, twice keeps one waiting behind a connection that is dead and not yet given up."""
OPEN_S = 60.0
"""How long a recorder may take to attach: it may have to listen for the one before, and salvage it."""
DURABLE_S = 60.0
"""How long bytes may wait for the server's acknowledgement before whoever sent them is told."""
READ_AHEAD_BYTES = 2 * MIB
"""Taken and not yet cut, per session: a hundred sessions are 200 MiB when the server stalls."""

_log = logging.getLogger(__name__)


class Hosted:
    """One recording of this process.

    Attributes:
        error: what ended the recording early, once something has.
        turn: held by the upload whose bytes are next.
    """

    def __init__(self, session: SessionId, source: Source, recording: Recording) -> None:
        self.session, self.source, self.recording = session, source, recording
        self.error: LucidError | None = None
        self.turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def run(self, ended: Callable[["Hosted"], None]) -> None:
        """Begin to record; `ended` is called once it is over, whatever ended it."""
        self._task = asyncio.create_task(self._record(), name=f"record {self.session}")
        self._task.add_done_callback(lambda _: ended(self))

    @property
    def running(self) -> bool:
        """Whether it has been started and not ended."""
        return self._task is not None and not self._task.done()

    async def until(self, condition: Callable[[], object], *, what: str, within_s: float) -> None:
        """Return once `condition()` holds; it is looked at whenever the recording gets on.

        Raises:
            LucidError: the recording has ended before: its own error, if it had one.
            NotReady: it does not hold `within_s`; `offset` is what is durable.
        """
        waiting = asyncio.create_task(self.recording.until(condition), name=what)
        tasks = {waiting} if self._task is None else {waiting, self._task}
        try:
            await asyncio.wait(tasks, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done() or condition():
                return
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        if not self.running:
            raise self.error or self.refusal()
        raise self.not_ready(what, within_s)

    def not_ready(self, what: str, within_s: float) -> NotReady:
        """Return that the session was not `what` in time, with the offset up to which it is durable."""
        safe = self.recording.acked_upto
        return NotReady(
            f"session {self.session} was not {what} within {within_s:g} s: its bytes up to {safe} are "
            "durable; ask for the offset and go on from there",
            session=self.session,
            offset=safe,
        )

    def refusal(self) -> CommandRejected:
        """Return the refusal of bytes in the state the session is in."""
        state = self.recording.state
        return CommandRejected(
            f"session {self.session} is {state}: bytes are taken while it is active",
            reason="not_active",
            allowed=tuple(map(str, triggers_from(state))),
            state=str(state),
            offset=self.recording.acked_upto,
        )

    async def end(self, *, within_s: float) -> None:
        """End the recording: pushed bytes go on elsewhere, what we produce ourselves is over.

        What has not ended `within_s` is given up; its bytes stand in capture until its lease is over.
        """
        if self._task is None:
            return
        self.recording.leave() if isinstance(self.source, PushSource) else self.recording.stop()
        await asyncio.wait({self._task}, timeout=within_s)
        if not self._task.done():
            _log.warning("a recording did not end in time", extra={"session": self.session})
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _record(self) -> None:
        try:
            totals = await self.recording.run()
        except LucidError as exc:
            self.error = exc
            level = logging.INFO if isinstance(exc, CommandRejected | NotFound) else logging.WARNING
            _log.log(level, "recording ended", extra={"session": self.session, "reason": exc.message})
        except Exception:  # noqa: BLE001 - the edge of a session: its bug must not end the others
            self.error = LucidError(f"the recorder of {self.session} met a bug: the log says which")
            _log.exception("a recording met a bug", extra={"session": self.session})
        else:
            extra = {"session": self.session, "bytes": totals.bytes, "chunks": totals.chunks}
            _log.info("recorded", extra=extra)


class Upload:
    """Bytes on their way into a session: from `begin` up to `end` so far, nobody else's in between."""

    def __init__(self, hosted: Hosted, source: PushSource) -> None:
        self._hosted, self._source, self._recording = hosted, source, hosted.recording
        self.begin = self.end = hosted.recording.taken_upto

    @property
    def durable_upto(self) -> int:
        """Every byte below it is stored, whatever happens to this process."""
        return self._recording.acked_upto

    async def write(self, block: bytes) -> None:
        """Return when the recorder has taken `block`, which it does as fast as the server stores.

        Raises:
            CommandRejected: the session takes no bytes any more; `block` is not part of it.
            NotReady: the server takes none for longer than `DURABLE_S`; whether `block` is part of the
                session shows at the next offset.
            LucidError: the recording has ended with this error.
        """
        if self._recording.state is not State.ACTIVE:
            raise self._hosted.error or self._hosted.refusal()
        try:
            async with asyncio.timeout(DURABLE_S):
                await self._source.write(block)
        except Refused:
            raise self._hosted.error or self._hosted.refusal() from None
        except TimeoutError:
            raise self._hosted.not_ready("taken in", DURABLE_S) from None
        self.end += len(block)

    async def confirm(self) -> None:
        """Return when `begin` is an offset that can be told: all before it is stored, and we still record.

        Raises:
            NotReady: not all of it is stored in time, or another recorder has taken over; ask again.
            StoreUnavailable, AppendUncertain: nobody answers who could tell.
            LucidError: the recording has ended before.
        """
        self._recording.send_now()
        await self._hosted.until(self._is_durable, what="stored", within_s=DURABLE_S)
        try:
            await self._recording.confirm()
        except Fenced:
            await self._hosted.end(within_s=0)  # the next to ask attaches anew, or is told who records
            session = self._hosted.session
            raise NotReady(
                f"another recorder has taken session {session} over: ask for the offset again",
                session=session,
            ) from None

    async def durable(self, *, end_chunk: bool = False) -> int:
        """Return when everything written is stored; with `end_chunk`, a chunk ends there.

        Returns:
            The index of the chunk that the last byte is in.

        Raises:
            NotReady: it takes longer than `DURABLE_S`.
            LucidError: the recording has ended before.
        """
        self._recording.send_now(end_chunk=end_chunk)
        if self.end > self.begin:
            await self._hosted.until(self._is_durable, what="stored", within_s=DURABLE_S)
        if end_chunk:
            ended = self._is_ended
            await self._hosted.until(ended, what="cut", within_s=DURABLE_S)
        return self._recording.open_index - (self._is_ended() and self._recording.open_index > 0)

    @property
    def ended_upto(self) -> int:
        """Every byte below it is in a chunk that has ended; the rest of this upload's waits for more."""
        return min(self.end, self._recording.ended_upto)

    def _is_durable(self) -> bool:
        return self._recording.acked_upto >= self.end

    def _is_ended(self) -> bool:
        return self._recording.ended_upto >= self.end


class Recorders:
    """The recordings of one process, by session; made by `hosting`."""

    def __init__(self, client: Client) -> None:
        self._client, self._settings = client, client.settings
        self._hosted: dict[SessionId, Hosted] = {}
        self._opening: WeakValueDictionary[SessionId, asyncio.Lock] = WeakValueDictionary()
        self._closing = False

    def find(self, session: SessionId) -> Hosted | None:
        """Return the session's recording, if it runs here."""
        found = self._hosted.get(session)
        return found if found and found.running else None

    async def record(self, session: SessionId, source: Source, *, actor: str) -> Hosted:
        """Attach to `session`, which has to wait for a recorder, and record `source` into it.

        Returns as soon as the recorder is attached and the source has begun.

        Raises:
            CommandRejected: another recorder is alive, or the session's state does not allow it.
            NotFound: there is no such session.
            ConfigError: the source can't be recorded.
            NotReady: it was not attached within `OPEN_S`, or this process is about to end.
        """
        async with self._opening.setdefault(session, asyncio.Lock()):
            return await self._record(session, source, actor)

    async def pushing(self, session: SessionId, *, actor: str, content_type: str = "") -> Hosted:
        """Return the recording that takes pushed bytes, attaching one when the session has none here.

        Raises:
            CommandRejected: another recorder is alive, or the session's state does not allow it.
            NotFound: there is no such session.
            NotReady: it was not attached within `OPEN_S`, or this process is about to end.
        """
        async with self._opening.setdefault(session, asyncio.Lock()):
            found = self.find(session)
            if found is None:
                name = f"pushed to {socket.gethostname()}"
                source = PushSource(name, content_type=content_type)
                try:
                    found = await self._record(session, source, actor)
                except CommandRejected as exc:
                    if exc.fields.get("reason") == "illegal_transition":
                        exc.fields["reason"] = "not_active"
                    if exc.fields.get("reason") == "recorder_alive":
                        raise await self._elsewhere(session, exc) from exc
                    raise
        if not isinstance(found.source, PushSource):
            raise CommandRejected(
                f"session {session} records {found.source.name}: nothing can be pushed into it",
                reason="not_pushed",
                state=str(found.recording.state),
            )
        return found

    @asynccontextmanager
    async def upload(
        self, session: SessionId, *, actor: str, offset: int | None = None, content_type: str = ""
    ) -> AsyncIterator[Upload]:
        """Give the session's turn to one upload; its first byte has to be byte `offset`, if that is given.

        Whatever was written when the context is left is on its way to the server and part of the
        recording, also when the upload broke off: `Upload.end` says how far it came.

        Raises:
            CommandRejected: as `pushing`; `busy`: another upload has the turn; `offset_mismatch`: the
                session goes on at another `offset`; `not_active`: it takes no bytes now.
        """
        hosted = await self.pushing(session, actor=actor, content_type=content_type)
        assert isinstance(hosted.source, PushSource)  # noqa: S101 - `pushing` gives no other
        try:
            async with asyncio.timeout(TURN_S):
                await hosted.turn.acquire()
        except TimeoutError:
            raise _busy(hosted) from None
        try:
            await _settled(hosted, hosted.source)
            upload = Upload(hosted, hosted.source)
            if offset is not None and offset != upload.begin:
                await upload.confirm()
                raise CommandRejected(
                    f"session {session} goes on at byte {upload.begin}, not at {offset}: send from there",
                    reason="offset_mismatch",
                    offset=upload.begin,
                )
            try:
                yield upload
            finally:
                hosted.recording.send_now()
        finally:
            hosted.turn.release()

    async def close(self, *, within_s: float) -> None:
        """End every recording: those of pushed bytes leave their session for the next recorder."""
        self._closing = True
        hosted = list(self._hosted.values())
        await asyncio.gather(*(one.end(within_s=within_s) for one in hosted))

    async def _record(self, session: SessionId, source: Source, actor: str) -> Hosted:
        self._refuse_when_closing(session)
        if found := self.find(session):
            raise CommandRejected(
                f"session {session} is recorded here already, from {found.source.name}",
                reason="recorder_alive",
                state=str(found.recording.state),
            )
        # Whoever pushes still has the bytes that are not acknowledged; a screen has not.
        spool, folder = None, self._settings.spool
        if folder and not isinstance(source, PushSource):
            spool = await Spool.opened(Path(folder), session, max_bytes=self._settings.spool_max_mib * MIB)
        try:
            self._refuse_when_closing(session)  # once more: `close` ends only what runs when it is called
            recording = self._recording(session, source, actor, spool)
        except BaseException:
            if spool:
                spool.close()
            raise
        hosted = Hosted(session, source, recording)
        self._hosted[session] = hosted
        hosted.run(self._ended)
        try:
            await hosted.until(lambda: hosted.recording.opened, what="attached", within_s=OPEN_S)
        except NotReady:
            await hosted.end(within_s=0)
            raise
        return hosted

    def _refuse_when_closing(self, session: SessionId) -> None:
        if self._closing:
            raise NotReady("this process is about to end: ask again in a moment", session=session)

    async def _elsewhere(self, session: SessionId, refused: CommandRejected) -> CommandRejected:
        """Return the refusal as it is told to who pushes: their bytes go to the recorder there is."""
        recorder = await self._attached(session)
        return CommandRejected(
            f"session {session} is recorded by {recorder or 'another process'}, which is alive: "
            "send the bytes to that gateway, or stop the session first",
            **{**refused.fields, "recorder": recorder},
        )

    async def _attached(self, session: SessionId) -> str | None:
        """Return what the recorder of `session` calls itself, as far as the views know."""
        with suppress(LucidError):  # a hint: without it the refusal is as true
            view = await self._client.status(session)
            return view.recorder.recorder if view.recorder else None
        return None

    def _recording(self, session: SessionId, source: Source, actor: str, spool: Spool | None) -> Recording:
        adapters = self._client.adapters
        return Recording(
            session,
            source,
            commands=self._client.commands_as(actor),
            capture=adapters.capture,
            live=adapters.live,
            clock=adapters.clock,
            subjects=adapters.subjects,
            history=adapters.store,
            options=recorder_options(self._settings),
            spool=spool,
        )

    def _ended(self, hosted: Hosted) -> None:
        if self._hosted.get(hosted.session) is hosted:
            del self._hosted[hosted.session]


async def _settled(hosted: Hosted, source: PushSource) -> None:
    """Wait until the last block of an upload that broke off is counted: before, no offset is the end."""
    try:
        async with asyncio.timeout(TURN_S):
            await source.settled()
    except TimeoutError:
        raise _busy(hosted) from None


def _busy(hosted: Hosted) -> CommandRejected:
    return CommandRejected(
        f"another upload into {hosted.session} is under way: wait for it, or for its time-out",
        reason="busy",
        offset=hosted.recording.acked_upto,
    )


def recorder_options(settings: Settings) -> RecorderOptions:
    """Return how a recorder of this process behaves; its session has to wait for it."""
    return RecorderOptions(
        recorder=f"{socket.gethostname()}:{os.getpid()}",
        attach_only=True,
        wait_for_lease=False,
        window_bytes=settings.window_mib * MIB,
        read_ahead_bytes=READ_AHEAD_BYTES,
        flush_interval_s=settings.flush_interval_s,
        beat_interval_s=settings.beat_interval_s,
        spool_after_s=settings.spool_after_s,
    )


@asynccontextmanager
async def hosting(client: Client, *, shutdown_s: float) -> AsyncIterator[Recorders]:
    """Give recorders for the time of the context; leaving it ends them within `shutdown_s`."""
    recorders = Recorders(client)
    try:
        yield recorders
    finally:
        await recorders.close(within_s=shutdown_s)
