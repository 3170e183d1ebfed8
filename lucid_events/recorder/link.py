"""What the recorder knows of its session: from replies, beats, the live feed and the history's tail.

No single one of them is relied on: a lost live message costs at most a beat.
"""

import asyncio
import contextlib
import logging

from lucid_events import codec
from lucid_events.client import Commands
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import SessionId, Version
from lucid_events.domain.replies import Accepted, BeatReply
from lucid_events.domain.transitions import TRANSITIONS, State, target, trigger_of
from lucid_events.errors import (
    AppendUncertain,
    ConfigError,
    ContractError,
    Fenced,
    LucidError,
    StoreUnavailable,
)
from lucid_events.ports import Clock, EventStore, LiveFeed, LiveMessage
from lucid_events.recorder.options import RecorderOptions
from lucid_events.recorder.receipts import Receipts
from lucid_events.recorder.waiting import Signal, wait_by
from lucid_events.subjects import Subjects

_ASK_S = 5.0
"""How long a fenced recorder waits to hear why."""
_STATES = {str(state): state for state in TRANSITIONS.values()}
_log = logging.getLogger(__name__)


class SessionLink:
    """Follows one session on behalf of the recorder of `epoch`.

    Attributes:
        state: the session's state at `version`, the newest heard of; `moved` is notified of changes.
    """

    def __init__(
        self,
        commands: Commands,
        live: LiveFeed,
        history: EventStore | None,
        clock: Clock,
        subjects: Subjects,
        session: SessionId,
        *,
        options: RecorderOptions,
        receipts: Receipts,
        moved: Signal,
    ) -> None:
        self._commands, self._live, self._history, self._clock = commands, live, history, clock
        self._subjects, self._session, self._options, self._receipts = subjects, session, options, receipts
        self.state: State | None = None
        self.version = self.epoch = 0
        self.ended: ev.SessionStopped | ev.SessionFailed | None = None
        self.leaving = False
        self.captured = 0
        self._moved = moved
        self._read_upto = self._attached_at = self._ready = 0
        self._beat_now = asyncio.Event()

    def heard(self, reply: Accepted | BeatReply) -> None:
        """Take the state a reply carries in, unless something newer is known."""
        if reply.version >= self.version:
            self._moved_to(_STATES.get(reply.state, self.state), reply.version)

    def attached(self, reply: Accepted) -> None:
        """Begin to speak for `reply.epoch`; the history before it is nobody's concern here."""
        self.epoch = reply.epoch
        self._read_upto = self._attached_at = reply.version
        self.heard(reply)

    async def explain(self, fenced: Fenced, *, safe: int, read: int) -> Fenced:
        """Return why this recorder was fenced, `safe` and `read` being how far it got itself."""
        # The fences stand before the event that says why is in the history: ask until it is.
        reply: BeatReply | None = None
        deadline = self._clock.now().timestamp() + _ASK_S
        while self._clock.now().timestamp() < deadline:
            with contextlib.suppress(StoreUnavailable, AppendUncertain, Fenced):
                reply = await self._commands.beat(
                    self._session, epoch=self.epoch, offset=safe, timeout_s=_ASK_S
                )
                if not reply.attached:
                    break
            await self._clock.sleep(self._options.retry_first_s)
        return tell_apart(fenced, reply, self._session, epoch=self.epoch, safe=safe, read=read)

    def beat_soon(self) -> None:
        """Beat, and look at the history's tail, without waiting for the interval."""
        self._beat_now.set()

    async def run_beats(self) -> None:
        """Beat for ever; read the history's tail whenever a reply says that there is one.

        Raises:
            Fenced: the epoch is over.
        """
        while True:
            self._beat_now.clear()
            try:
                await self.beat()
                await self.catch_up()
            except (StoreUnavailable, AppendUncertain) as exc:
                _log.debug("no answer to a beat", extra={"session": self._session, "reason": str(exc)})
            await wait_by(self._clock, self._beat_now, self._options.beat_interval_s)

    async def beat(self) -> BeatReply:
        """Say that the recorder is alive and take in the answer.

        Raises:
            Fenced: the epoch is over, and the recorder had not left itself.
        """
        reply = await self._commands.beat(
            self._session, epoch=self.epoch, offset=self.captured, timeout_s=self._options.beat_interval_s
        )
        self.heard(reply)
        if self._history is None:
            # The beat before said so, too: by now the live feed has brought the events, with their digests,
            # unless it lost them.
            self._receipts.ready_below(min(reply.ready, self._ready))
            self._ready = reply.ready
        if reply.version < self._attached_at:
            return reply  # word from before we attached, which says nothing about us
        if not self.leaving and (not reply.attached or reply.epoch != self.epoch):
            raise Fenced(f"epoch {self.epoch} of {self._session} is over", epoch=reply.epoch)
        return reply

    async def catch_up(self) -> None:
        """Read what the history has behind what was read, if it may be read."""
        if self._history is None or self.version <= self._read_upto:
            return
        try:
            async for message in self._history.read(self._session, after=Version(self._read_upto)):
                if isinstance(message, Recorded):
                    self._note(message.event, int(message.sequence))
                self._read_upto = int(message.sequence)
        except ConfigError as exc:
            if "forbidden" not in exc.fields:
                raise
            # A role that writes need not be able to read: then live feed and beats bring receipts.
            self._history = None
            _log.info("the history may not be read", extra={"session": self._session})

    async def run_live(self) -> None:
        """Follow the live feed for ever; a feed that ends is taken up again."""
        while True:
            try:
                async with self._live.listen(self._subjects.live_history(self._session)) as messages:
                    async for message in messages:
                        self._note_live(message)
            except (StoreUnavailable, AppendUncertain) as exc:
                _log.warning("the live feed broke off", extra={"session": self._session, "reason": str(exc)})
            await self._clock.sleep(self._options.retry_most_s)

    def _note_live(self, message: LiveMessage) -> None:
        kind = ev.EVENT_TYPES.get(message.headers.get(codec.TYPE, ""))
        if kind is None or codec.missing_header(message.headers) is not None:
            return  # not an event: nobody builds on it
        try:
            event = codec.decode(message.data, kind)
        except ContractError:
            return
        self._note(event, message.sequence)

    def _note(self, event: ev.SessionEvent, sequence: int) -> None:
        self._receipts.note(event)
        if isinstance(event, ev.SessionStopped | ev.SessionFailed):
            self.ended = event
        if sequence <= self.version and self.state is not None:
            return
        # A message may have been lost before this one; then the table has no way, and a beat tells.
        trigger = trigger_of(self.state, event)
        reached = target(self.state, trigger) if trigger else None
        if trigger and reached is None:
            self.beat_soon()
        self._moved_to(reached or self.state, sequence)

    def _moved_to(self, state: State | None, version: int) -> None:
        self.version = version
        changed, self.state = state is not self.state, state
        if changed:
            _log.info(
                "session state", extra={"session": self._session, "state": str(state), "version": version}
            )
        self._moved.notify()


def tell_apart(
    error: LucidError, reply: BeatReply | None, session: SessionId, *, epoch: int, safe: int, read: int
) -> Fenced:
    """Return what a fenced recorder says: who writes now, which bytes are safe and which are not."""
    if reply and reply.epoch == epoch:  # behind another epoch's beginning are bytes that are not ours
        safe = max(safe, reply.offset)
    lost = f"bytes up to {safe} are safe" + (
        "" if read <= safe else f", bytes {safe} to {read} are not stored"
    )
    if reply is None:
        why = "the service does not answer"
    elif reply.epoch > epoch:
        why = f"another recorder took over as epoch {reply.epoch}"
    elif reply.state in ("error", "cleanup", "destroyed"):
        why = f"the session is {reply.state}; this recorder was given up as lost, or the session was failed"
    else:
        why = f"the session is {reply.state} without this recorder"
    return Fenced(
        f"recording of {session} as epoch {epoch} is over: {why}. {lost}",
        session=session,
        epoch=epoch,
        owner=reply.epoch if reply else None,
        state=reply.state if reply else None,
        safe_offset=safe,
        read_offset=read,
        cause=error.message,
    )
