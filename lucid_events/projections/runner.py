"""Follows a durable consumer and keeps the views of one projection up to date.

A batch is grouped by session, so many events of a session cost one write; a message is
acknowledged after the write that holds it. A crash anywhere repeats, and the cutoff makes the
repeat harmless.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic

import msgspec

from lucid_events.domain.envelope import Recorded, Stray
from lucid_events.domain.ids import Sequence as StreamSequence
from lucid_events.domain.ids import SessionId
from lucid_events.errors import ConfigError, ContractError, LucidError
from lucid_events.ports import Clock, Delivery, Inbox
from lucid_events.projections.base import V
from lucid_events.projections.checkpoints import Checkpoints
from lucid_events.projections.projector import Projector
from lucid_events.stored import read_message
from lucid_events.subjects import Subjects

_log = logging.getLogger(__name__)

Park = Callable[[Delivery, str], Awaitable[None]]
"""Sets a message aside with a reason; returns when that is stored, raises when it is not."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one runner.

    `batch` messages are fetched at once, waiting `fetch_wait_s` for the first; `sessions` views are
    written side by side (each is a batch to the server, which has 50 open per stream). Pauses after
    a failure grow from `retry_first_s` to `retry_most_s`. A message that our own fault keeps out of its
    view is set aside at delivery `attempts`, half a minute behind the first: half as many end within two
    seconds, twice as many hold up for minutes whoever waits for all before it. A checkpoint is noted
    every `checkpoint_s`: each is a write, and a cut back stream is still cut back ten seconds later.
    """

    batch: int = 256
    fetch_wait_s: float = 1.0
    sessions: int = 16
    retry_first_s: float = 0.25
    retry_most_s: float = 30.0
    attempts: int = 8
    checkpoint_s: float = 10.0


DEFAULT_LIMITS = Limits()


class Counts(msgspec.Struct, kw_only=True):
    """What one runner did since it started, in messages.

    `strays` were no events, `undecodable` and `failed` were set aside, `retried` went back for another try.
    """

    applied: int = 0
    strays: int = 0
    undecodable: int = 0
    failed: int = 0
    retried: int = 0


class _Group:
    """What one batch holds of one session."""

    def __init__(self) -> None:
        self.messages: list[Recorded | Stray] = []
        self.deliveries: list[Delivery] = []
        self.undecodable: list[tuple[Delivery, str]] = []


class ProjectionRunner(Generic[V]):
    """Applies every message of `inbox` through `projector`.

    Args:
        park: called with an event this version can't decode, after its view says that it stands
            still, and with one that failed time and again, which the session's next event brings in with
            it; without `park` the event is only terminated, and the view and the log tell of it.
        checkpoints: keeps the highest position seen, so that a stream cut back is noticed.
    """

    def __init__(
        self,
        inbox: Inbox,
        projector: Projector[V],
        *,
        subjects: Subjects,
        clock: Clock,
        limits: Limits = DEFAULT_LIMITS,
        park: Park | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.counts = Counts()
        self._inbox, self._projector = inbox, projector
        self._subjects, self._clock, self._limits = subjects, clock, limits
        self._park, self._checkpoints = park, checkpoints
        self._stopping = False
        self._failures = 0
        self._seen = self._noted = 0
        self._noted_at = clock.now()

    async def run(self) -> None:
        """Apply messages until `stop`; returns within `fetch_wait_s` of it, the batch in hand answered.

        Raises:
            ConfigError: the consumer does not exist.
        """
        while not self._stopping:
            try:
                await self.step()
                self._failures = 0
            except LucidError as exc:
                if not exc.retry:
                    raise
                _log.warning(
                    "can't fetch, trying again", extra={"consumer": self._inbox.name, "reason": exc.message}
                )
                self._failures += 1
                await self._clock.sleep(self._pause(self._failures))
        await self._note(now=True)

    def stop(self) -> None:
        """Fetch nothing more; `run` returns when what is in hand is answered."""
        self._stopping = True

    async def step(self) -> int:
        """Fetch one batch, apply and answer it; returns how many messages it had.

        Raises:
            StoreUnavailable: nothing could be fetched.
        """
        deliveries = await self._inbox.fetch(self._limits.batch, wait_s=self._limits.fetch_wait_s)
        groups = await self._by_session(deliveries)
        at_once = asyncio.Semaphore(self._limits.sessions)
        async with asyncio.TaskGroup() as tasks:
            for session, group in groups.items():
                tasks.create_task(self._handle(session, group, at_once))
        self._seen = max([self._seen, *(delivery.sequence for delivery in deliveries)])
        await self._note()
        return len(deliveries)

    async def _by_session(self, deliveries: Sequence[Delivery]) -> dict[SessionId, _Group]:
        groups: dict[SessionId, _Group] = {}
        for delivery in deliveries:
            try:
                session = self._subjects.parse_event(delivery.subject)
            except ContractError:
                self.counts.strays += 1  # no session could own it: anyone's publish, or an acknowledgement
                await self._answer(delivery, delivery.ack())
                continue
            group = groups.setdefault(session, _Group())
            group.deliveries.append(delivery)
            group.messages.append(self._read(session, delivery, group))
        return groups

    def _read(self, session: SessionId, delivery: Delivery, group: _Group) -> Recorded | Stray:
        try:
            found = read_message(delivery, session)
        except ContractError as exc:
            group.undecodable.append((delivery, exc.message))
            # In the place of an event that can't be decoded, this makes the projector read the history,
            # which fails at the same message and halts the view there.
            return Stray(
                session=session,
                subject=delivery.subject,
                sequence=StreamSequence(delivery.sequence),
                stored_at=delivery.stored_at,
                reason=exc.message,
            )
        self.counts.strays += isinstance(found, Stray)
        return found

    async def _handle(self, session: SessionId, group: _Group, at_once: asyncio.Semaphore) -> None:
        async with at_once:
            try:
                await self._projector.apply(session, group.messages)
                aside = set()
                for delivery, reason in group.undecodable:
                    await self._set_aside(
                        delivery, reason, "an event can't be decoded, its session's view stands still"
                    )
                    self.counts.undecodable += 1
                    aside.add(delivery.sequence)
            except Exception as exc:  # noqa: BLE001 # one session's trouble must not stop the others
                await self._later(session, group, exc)
                return
        self.counts.applied += len(group.deliveries) - len(aside)
        async with asyncio.TaskGroup() as tasks:
            for delivery in group.deliveries:
                if delivery.sequence not in aside:
                    tasks.create_task(self._answer(delivery, delivery.ack()))

    async def _set_aside(self, delivery: Delivery, reason: str, told: str) -> None:
        if self._park is not None:
            await self._park(delivery, reason)
        _log.error(
            told,
            extra={"consumer": self._inbox.name, "sequence": delivery.sequence, "reason": reason},
        )
        await self._answer(delivery, delivery.terminate(reason[:500]))

    async def _later(self, session: SessionId, group: _Group, exc: Exception) -> None:
        expected = isinstance(exc, LucidError) and exc.retry
        _log.log(
            logging.WARNING if expected else logging.ERROR,
            "a view was not written, trying again",
            exc_info=None if expected else exc,
            extra={"consumer": self._inbox.name, "session": session, "reason": str(exc)},
        )
        # A wrong setting or topology concerns every message, and is mended outside: it is waited for.
        fault = not expected and not isinstance(exc, ConfigError)
        for delivery in group.deliveries:
            if fault and delivery.attempt >= self._limits.attempts and await self._gave_up(delivery, exc):
                continue
            self.counts.retried += 1
            await self._answer(delivery, delivery.retry(self._pause(delivery.attempt)))

    async def _gave_up(self, delivery: Delivery, exc: Exception) -> bool:
        """Set aside what failed too often; False when that was not possible."""
        reason = f"{type(exc).__name__}: {exc}"
        try:
            await self._set_aside(delivery, reason, "an event failed time and again, its view is behind")
        except Exception as not_stored:  # noqa: BLE001 # as above: the others go on
            _log.warning(
                "a message was not set aside, trying again",
                extra={
                    "consumer": self._inbox.name,
                    "sequence": delivery.sequence,
                    "reason": str(not_stored),
                },
            )
            return False
        self.counts.failed += 1
        return True

    async def _answer(self, delivery: Delivery, answer: Awaitable[None]) -> None:
        try:
            await answer
        except LucidError as exc:
            # It comes again, and the cutoff is past it then.
            _log.warning(
                "an answer did not reach the server",
                extra={"consumer": self._inbox.name, "sequence": delivery.sequence, "reason": exc.message},
            )

    async def _note(self, *, now: bool = False) -> None:
        """Note the highest sequence seen, if it is new and time for it, or `now`."""
        at = self._clock.now()
        due = now or (at - self._noted_at).total_seconds() >= self._limits.checkpoint_s
        if self._checkpoints is None or self._seen <= self._noted or not due:
            return
        self._noted_at, seen = at, self._seen
        try:
            await self._checkpoints.note(seen)
            self._noted = seen
        except LucidError as exc:
            if not exc.retry:
                raise
            _log.warning("a checkpoint was not noted", extra={"sequence": seen, "reason": exc.message})

    def _pause(self, attempt: int) -> float:
        grown = self._limits.retry_first_s * 2.0 ** min(attempt - 1, 16)
        return min(grown, self._limits.retry_most_s) * random.uniform(0.5, 1.5)
