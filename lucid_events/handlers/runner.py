"""Runs one reaction over one durable consumer: fetch, take turns, handle, answer, never lose one.

    fetch ──> lanes ──> worker (bytes taken) ──> outcome ──┬─ Done    commit, finish, ack
              by turns                                     ├─ Skip    ack, count
                                                           ├─ Retry   later: in hand, or by the server
                                                           └─ Park    pointer stored, then terminated

A message is acknowledged after everything it brings about is stored, so a crash anywhere repeats
it; decider and guard make the repeat harmless. Order within a lane holds in one process; between
processes only the guard decides, which is all that histories need.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable
from typing import TypeVar

import msgspec

from lucid_events import codec
from lucid_events.compression.budget import ByteBudget
from lucid_events.errors import LucidError
from lucid_events.handlers.attempts import Attempts
from lucid_events.handlers.base import Checkpoint, Done, Message, Outcome, Park, Retry, Skip, no_checkpoint
from lucid_events.handlers.dead_letters import Copy, Pointer, set_aside
from lucid_events.handlers.execution import Execution
from lucid_events.handlers.lanes import Lanes
from lucid_events.handlers.progress import Lag, Progress
from lucid_events.ports import Clock, Delivery, Inbox, Letters
from lucid_events.subjects import Subjects

_log = logging.getLogger(__name__)
T = TypeVar("T")

FETCH_WAIT_S = 5.0
"""Longest one fetch waits; short enough that a consumer lost to a restart is noticed, long enough
that an idle worker asks the server twelve times a minute and not more."""
FETCH_BATCH = 64
"""Most messages of one fetch: at half, small events pay twice the round trips; more than the
buffer is never asked for."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one runner.

    `workers` handle at once; `buffer` messages are held at most (waiting ones included, so that
    sessions can take turns; for costly work keep it near `workers`, or one process hoards what
    another could do); `max_failures` own failures or `max_deaths` dead workers park a message;
    pauses grow from `retry_first_s` to `retry_most_s`; a stop waits `shutdown_s` for work in hand.
    """

    workers: int = 4
    buffer: int = 64
    max_failures: int = 5
    max_deaths: int = 5
    retry_first_s: float = 0.25
    retry_most_s: float = 30.0
    shutdown_s: float = 20.0


DEFAULT_LIMITS = Limits()


class _Held:
    """A message this process is answerable for, with its newest delivery."""

    def __init__(self, delivery: Delivery, message: Message, lane: str | None) -> None:
        self.delivery, self.message = delivery, message
        self.lane, self.owner, self.sequence = lane, message.owner, message.sequence
        self.begun = False
        self.tries = 0
        self.elapsed_ms = 0.0


class Runner:
    """Handles every message of `inbox` through `execution`.

    Args:
        stream: name of the stream behind the inbox, for the pointers of messages set aside.
        budget: bytes that messages in work may hold; not the compressor's own budget, or work in
            hand could wait for itself.
        carries: pointers carry a copy, because the stream is a work queue.
        checkpoint: called with `message.handled` and `message.acked`.
    """

    def __init__(
        self,
        inbox: Inbox,
        execution: Execution,
        *,
        stream: str,
        letters: Letters,
        attempts: Attempts,
        subjects: Subjects,
        clock: Clock,
        budget: ByteBudget,
        limits: Limits = DEFAULT_LIMITS,
        carries: bool = False,
        replaying: bool = False,
        checkpoint: Checkpoint = no_checkpoint,
    ) -> None:
        self.progress = Progress(inbox.name, clock)
        self._inbox, self._execution, self._stream = inbox, execution, stream
        self._letters, self._attempts, self._subjects = letters, attempts, subjects
        self._clock, self._budget, self._limits = clock, budget, limits
        self._carries, self._replaying, self._checkpoint = carries, replaying, checkpoint
        self._lanes: Lanes[_Held] = Lanes()
        self._held: dict[int, _Held] = {}
        self._room = asyncio.Event()
        self._stopping = asyncio.Event()
        self._beside: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Handle messages until `stop`; returns when what was in hand is answered, or `shutdown_s` later.

        Raises:
            ConfigError: the consumer does not exist.
        """
        async with asyncio.TaskGroup() as tasks:
            keeper = tasks.create_task(self._keep_hold())
            workers = [tasks.create_task(self._work(tasks)) for _ in range(self._limits.workers)]
            await self._fetch_until_stopped()
            for held in self._lanes.close():
                await self._give_back(held)
            await self._finish_in_hand(workers)
            keeper.cancel()

    def stop(self) -> None:
        """Fetch nothing more, finish what is in hand; `run` returns then."""
        self._stopping.set()

    async def lag(self) -> Lag:
        """Return how far behind the consumer is, as the server knows it."""
        return self.progress.lag(await self._inbox.lag())

    # intake

    async def _fetch_until_stopped(self) -> None:
        pause_s = self._limits.retry_first_s
        while not self._stopping.is_set():
            room = self._limits.buffer - len(self._held)
            if room <= 0:
                self._room.clear()
                await self._unless_stopped(self._room.wait())
                continue
            try:
                wait_s = FETCH_WAIT_S
                fetched = await self._unless_stopped(self._inbox.fetch(min(room, FETCH_BATCH), wait_s=wait_s))
            except LucidError as exc:
                if not exc.retry:
                    raise
                _log.warning(
                    "can't fetch, trying again", extra={"consumer": self._inbox.name, "reason": exc.message}
                )
                await self._unless_stopped(self._clock.sleep(pause_s * _jitter()))
                pause_s = min(pause_s * 2, self._limits.retry_most_s)
                continue
            pause_s = self._limits.retry_first_s
            for delivery in fetched or ():
                self._accept(delivery)

    def _accept(self, delivery: Delivery) -> None:
        held = self._held.get(delivery.sequence)
        if held is not None:
            # Redelivered while in hand (the server restarted, an extension was lost): the newest
            # delivery is the one whose answer counts; handling it twice at once helps nobody.
            held.delivery = delivery
            return
        message = Message.of(delivery, replaying=self._replaying)
        held = _Held(delivery, message, self._execution.reaction.lane(message))
        self._held[held.sequence] = held
        self._lanes.put(held)

    async def _keep_hold(self) -> None:
        """Extend the ack wait of everything in hand, waiting or in work."""
        while True:
            await self._clock.sleep(self._inbox.ack_wait_s / 3)
            for held in list(self._held.values()):
                try:
                    await held.delivery.working()
                except LucidError as exc:
                    # It will be delivered again and is recognised then.
                    _log.debug(
                        "an ack wait was not extended", extra={"sequence": held.sequence, "reason": str(exc)}
                    )

    # work

    async def _work(self, tasks: asyncio.TaskGroup) -> None:
        while (held := await self._lanes.take()) is not None:
            outcome = await self._handle(held)
            # Beside the next message: finishing, acking and waiting need no worker. Bounded by
            # `buffer`, and the lane stands still until the message is let go.
            closing = tasks.create_task(self._settle(held, outcome))
            self._beside.add(closing)
            closing.add_done_callback(self._beside.discard)

    async def _handle(self, held: _Held) -> Outcome:
        started = time.monotonic()
        if not held.begun:
            held.begun = True
            deaths = await self._attempts.begin(held.sequence, held.message.attempt)
            if deaths >= self._limits.max_deaths:
                return Park("workers_died", f"{deaths} workers died on this message or never answered for it")
        async with self._budget.take(self._cost(held.message)):
            self.progress.in_flight += 1
            try:
                outcome = await self._execution.run(held.message)
            finally:
                self.progress.in_flight -= 1
        held.tries += 1
        held.elapsed_ms = (time.monotonic() - started) * 1000
        await self._checkpoint("message.handled")
        return outcome

    def _cost(self, message: Message) -> int:
        # More than the whole budget is served alone, so a lie in a message can't stop the runner.
        return min(max(0, self._execution.reaction.cost_bytes(message)), self._budget.limit)

    # answers

    async def _settle(self, held: _Held, outcome: Outcome) -> None:
        if isinstance(outcome, Done):
            outcome = await self._execution.finish(held.message, outcome)
        if isinstance(outcome, Retry) and outcome.own_failure:
            self.progress.failed += 1
            failures = await self._attempts.end(held.sequence, held.message.attempt, failed=True)
            held.begun = False
            if failures >= self._limits.max_failures:
                outcome = Park("failed", f"failed {failures} times, last: {outcome.reason}")
        self._note(held, outcome)
        match outcome:
            case Retry():
                await self._later(held, outcome)
            case Park():
                await self._park(held, outcome)
            case Done() | Skip():
                if isinstance(outcome, Skip):
                    self.progress.skips[outcome.reason] += 1
                else:
                    self.progress.processed += 1
                await self._answered(held, held.delivery.ack())

    async def _later(self, held: _Held, retry: Retry) -> None:
        self.progress.retried += 1
        grown_s = self._limits.retry_first_s * 2 ** min(max(held.tries, held.message.attempt) - 1, 16)
        after_s = retry.after_s if retry.after_s is not None else min(grown_s, self._limits.retry_most_s)
        after_s *= _jitter()
        if held.lane is not None:
            # In hand: what comes after it in the lane must wait, and would overtake it otherwise.
            await self._unless_stopped(self._clock.sleep(after_s))
            if not self._stopping.is_set():
                self._lanes.again(held)
                return
        await self._give_back(held, after_s)

    async def _give_back(self, held: _Held, after_s: float | None = None) -> None:
        if held.begun:
            await self._attempts.end(held.sequence, held.message.attempt, failed=False)
        self._attempts.leave(held.sequence)
        pause_s = self._limits.retry_first_s * _jitter() if after_s is None else after_s
        await self._answer(held, held.delivery.retry(pause_s))
        self._release(held)

    async def _park(self, held: _Held, park: Park) -> None:
        message = held.message
        pointer = Pointer(
            stream=self._stream,
            sequence=message.sequence,
            subject=message.subject,
            consumer=self._inbox.name,
            code=park.code,
            reason=park.reason,
            attempts=held.delivery.attempt,
            time=self._clock.now(),
            copy=Copy(headers=dict(message.headers), data=message.data, stored_at=message.stored_at)
            if self._carries
            else None,
        )
        pause_s = self._limits.retry_first_s
        while True:
            trouble = await self._try_to_park(message, park, pointer)
            if trouble is None:
                break
            # Until the pointer is stored, this delivery is all that stands for the message.
            _log.warning(
                "a message can't be set aside yet",
                extra={"consumer": self._inbox.name, "sequence": held.sequence, "reason": trouble},
            )
            await self._unless_stopped(self._clock.sleep(pause_s * _jitter()))
            if self._stopping.is_set():
                await self._give_back(held, pause_s)
                return
            pause_s = min(pause_s * 2, self._limits.retry_most_s)
        self.progress.parked += 1
        await self._answered(held, held.delivery.terminate(f"{park.code}: {park.reason}"[:500]))

    async def _try_to_park(self, message: Message, park: Park, pointer: Pointer) -> str | None:
        retry = await self._execution.say_parked(message, park)
        if retry is not None:
            return retry.reason
        try:
            await set_aside(self._letters, self._subjects, pointer)
        except LucidError as exc:
            return exc.message
        return None

    async def _answered(self, held: _Held, answer: Awaitable[None]) -> None:
        await self._answer(held, answer)
        await self._checkpoint("message.acked")
        await self._attempts.forget(held.sequence)
        self.progress.settled(held.message.stored_at, held.elapsed_ms)
        self._release(held)

    async def _answer(self, held: _Held, answer: Awaitable[None]) -> None:
        try:
            await answer
        except LucidError as exc:
            # The message comes again and changes nothing then.
            _log.warning(
                "an answer did not reach the server",
                extra={"consumer": self._inbox.name, "sequence": held.sequence, "reason": exc.message},
            )

    def _release(self, held: _Held) -> None:
        self._held.pop(held.sequence, None)
        self._room.set()
        if held.lane is not None:
            self._lanes.done(held)

    def _note(self, held: _Held, outcome: Outcome) -> None:
        message = held.message
        level = logging.WARNING if isinstance(outcome, Retry) and outcome.own_failure else logging.INFO
        if isinstance(outcome, Park):
            level = logging.ERROR
        elif isinstance(outcome, Skip):
            level = logging.DEBUG  # nothing came of it; `progress.skips` counts why
        extra: dict[str, object] = {
            "consumer": self._inbox.name,
            "subject": message.subject,
            "sequence": message.sequence,
            "attempt": held.delivery.attempt,
            "outcome": type(outcome).__name__.lower(),
            "elapsed_ms": round(held.elapsed_ms, 1),
        }
        if traceparent := message.headers.get(codec.TRACE, ""):
            extra["trace"] = traceparent[3:35]
        if not isinstance(outcome, Done):
            extra["reason"] = outcome.reason
        _log.log(level, "handled", extra=extra)

    # stopping

    async def _unless_stopped(self, work: Awaitable[T]) -> T | None:
        """Return what `work` gives, None when the runner is stopped before; its errors are raised."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for one in (task, stop):
                one.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)

    async def _finish_in_hand(self, workers: list[asyncio.Task[None]]) -> None:
        deadline = time.monotonic() + self._limits.shutdown_s
        while in_hand := {task for task in (*workers, *self._beside) if not task.done()}:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            await asyncio.wait(in_hand, timeout=left_s)
        for task in in_hand:
            # Not answered: the server delivers it again after the ack wait.
            task.cancel()


def _jitter() -> float:
    return random.uniform(0.5, 1.5)
