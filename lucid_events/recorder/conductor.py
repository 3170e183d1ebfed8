"""Follows a session from state to state: when to read, when to drain, when it is over."""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any, NoReturn

from lucid_events.client import Commands
from lucid_events.domain.commands import Detach, Drained, Fail, SessionCommand, Stop
from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import State
from lucid_events.errors import CommandRejected, ConfigError, Fenced, IntegrityError, StoreUnavailable
from lucid_events.recorder.cutter import Reason
from lucid_events.recorder.intake import Intake
from lucid_events.recorder.link import SessionLink
from lucid_events.recorder.options import Checkpoint, RecorderOptions
from lucid_events.recorder.receipts import Receipts
from lucid_events.recorder.sealer import Sealer
from lucid_events.recorder.sources import Source
from lucid_events.recorder.waiting import Signal
from lucid_events.recorder.writer import CaptureWriter

LEAVES = "the recorder leaves, the session goes on"
"""Reason of a detach that does not end the session."""


class Conductor:
    """Reads `source` into `intake` while the session is active, and answers its pauses and its stop.

    Attributes:
        read_bytes: taken from the source so far; `digest` is of all of them.
    """

    def __init__(
        self,
        session: SessionId,
        source: Source,
        *,
        commands: Commands,
        link: SessionLink,
        intake: Intake,
        writer: CaptureWriter,
        sealer: Sealer,
        receipts: Receipts,
        options: RecorderOptions,
        moved: Signal,
        checkpoint: Checkpoint,
    ) -> None:
        self._session, self._source, self._commands, self._link = session, source, commands, link
        self._intake, self._writer, self._sealer, self._receipts = intake, writer, sealer, receipts
        self._options, self._moved, self._checkpoint = options, moved, checkpoint
        self._asked_to_stop = self._asked_to_leave = False
        self.read_bytes = 0
        self.digest = hashlib.sha256()

    @property
    def _state(self) -> State | None:
        return self._link.state

    def stop(self) -> None:
        """End in order, as if the session had been told to stop."""
        self._asked_to_stop = True
        self._moved.notify()

    def leave(self) -> None:
        """End without stopping the session: seal what was read and detach, so that another may go on."""
        self._asked_to_leave = True
        self._moved.notify()

    async def run(self) -> Reason:
        """Follow the session from state to state until it is stopped, or this recorder leaves it."""
        while True:
            if self._asked_to_leave and self._state is not State.STOPPING:
                return await self._leave()
            if self._asked_to_stop:
                return await self._finish("stop")
            match self._state:
                case State.ACTIVE:
                    await self._source.resume()
                    if await self._read():
                        return await self._finish("end")
                case State.PAUSING:
                    await self._source.pause()
                    await self._drain("pause")
                    await self._ask(Drained(epoch=self._link.epoch, offset=self._sealer.sealed_upto))
                case State.PAUSED:
                    await self._moved.until(lambda: self._called or self._state is not State.PAUSED)
                case State.STOPPING:
                    return await self._finish("stop")
                case _:
                    raise Fenced(f"session {self._session} is {self._state}", epoch=self._link.epoch)

    @property
    def _called(self) -> bool:
        return self._asked_to_stop or self._asked_to_leave

    def _may_read(self) -> bool:
        return self._state is State.ACTIVE and not self._called

    async def _read(self) -> bool:
        """Take in what the source gives, as long as the session is active; True when it has ended."""
        halted = asyncio.create_task(self._moved.until(lambda: not self._may_read()), name="halted")
        reading: asyncio.Task[bytes] | None = None
        try:
            while self._may_read():
                reading = asyncio.create_task(self._source.read(), name="read")
                await _first(reading, halted)
                if not reading.done():
                    reading.cancel()  # loses nothing: that is what a source promises
                    await asyncio.gather(reading, return_exceptions=True)
                    if reading.cancelled():
                        return False
                try:
                    block, reading = reading.result(), None
                except OSError as exc:
                    await self._give_up(exc)
                if not block:
                    return True
                await self._put(block)
        except asyncio.CancelledError:
            await self._keep(reading)
            raise
        finally:
            halted.cancel()
            await asyncio.gather(halted, return_exceptions=True)
        return False

    async def _give_up(self, exc: OSError) -> NoReturn:
        """Seal what the source gave before it failed, say so in the history, and end."""
        why = f"{self._source.name} can't be read any further: {exc.strerror or exc}"
        await self._drain("end")
        self._link.leaving = True
        await self._ask(Fail(code="source_failed", reason=why[:500]))
        raise ConfigError(
            f"{why}; bytes up to {self._sealer.sealed_upto} are sealed, the session is in error",
            safe_offset=self._sealer.sealed_upto,
        ) from exc

    async def _keep(self, reading: "asyncio.Task[bytes] | None") -> None:
        """Leave what a cancelled recording had just read where `save` finds it."""
        if reading is None:
            return
        reading.cancel()
        (block,) = await asyncio.gather(reading, return_exceptions=True)
        if isinstance(block, bytes):
            self._intake.in_hand = block

    async def _put(self, block: bytes) -> None:
        await self._intake.put(block)
        self.read_bytes += len(block)
        if len(block) >= self._options.hash_off_loop_bytes:
            await asyncio.to_thread(self.digest.update, block)
        else:
            self.digest.update(block)

    async def _drain(self, reason: Reason) -> None:
        """Return when everything read is sealed."""
        self._intake.mark(reason)
        await self._progress(lambda: self._sealer.sealed_upto >= self._intake.end, "sealed")

    async def _leave(self) -> Reason:
        await self._source.pause()
        await self._drain("pause")
        self._link.leaving = True
        detach = Detach(epoch=self._link.epoch, offset=self._sealer.sealed_upto, reason=LEAVES)
        await self._ask(detach)
        return "pause"

    async def _finish(self, reason: Reason) -> Reason:
        if self._state is State.PAUSED:
            # What the source still holds can only be sealed once the session takes bytes again.
            await self._ask_to_stop(reason)
        if reason != "end":
            try:
                await self._source.stop()
                while block := await self._source.read():
                    await self._put(block)
            except OSError as exc:
                await self._give_up(exc)
        await self._drain(reason)
        if self._state is not State.STOPPING:
            await self._ask_to_stop(reason)
        epoch, offset = self._link.epoch, self._sealer.sealed_upto
        await self._ask(Drained(epoch=epoch, offset=offset))
        self._link.leaving = True
        await self._ask(Detach(epoch=epoch, offset=offset, reason=reason, exit_code=self._source.exit_code))
        await self._wait_until_stopped()
        return reason

    async def _ask_to_stop(self, reason: Reason) -> None:
        why = (
            f"{self._source.name} ended" if reason == "end" else f"{self._options.recorder} was told to stop"
        )
        await self._ask(Stop(reason=why[:500]))

    async def _wait_until_stopped(self) -> None:
        """Return when the session has its manifest and every chunk sealed here is confirmed."""
        self._link.beat_soon()
        await self._progress(
            lambda: (
                self._state is not State.STOPPING
                and not (self._state is State.STOPPED and self._receipts.waiting)
            ),
            "stored",
        )
        if self._state is not State.STOPPED:
            raise IntegrityError(
                f"session {self._session} went to {self._state} while its last chunks were being stored: "
                "every byte is captured and sealed; recover or verify it",
                state=str(self._state),
            )
        if self._receipts.failed:
            index, why = next(iter(self._receipts.failed.items()))
            raise IntegrityError(
                f"{len(self._receipts.failed)} chunks of {self._session} could not be stored, "
                f"first {index} ({why}): their bytes are kept in capture, see the dead letters",
                failed=tuple(self._receipts.failed),
            )

    async def _progress(self, done: Callable[[], bool], what: str) -> None:
        """Wait until `done()`, as long as anything moves within `finish_timeout_s`."""
        while not done():
            before = self._marks()
            try:
                async with asyncio.timeout(self._options.finish_timeout_s):
                    await self._moved.until(lambda: done() or self._marks() != before)  # noqa: B023 - awaited here
            except TimeoutError as exc:
                acked, sealed = before[0], before[1]
                raise StoreUnavailable(
                    f"nothing more of {self._session} was {what} within "
                    f"{self._options.finish_timeout_s:g} s: bytes up to {acked} are in capture, "
                    f"up to {sealed} sealed, {len(self._receipts.waiting)} chunks unconfirmed",
                    acked=acked,
                    sealed=sealed,
                    unconfirmed=self._receipts.waiting,
                ) from exc

    def _marks(self) -> tuple[int, int, int, State | None]:
        return self._writer.acked_upto, self._sealer.sealed_upto, len(self._receipts.waiting), self._state

    async def _ask(self, command: SessionCommand) -> None:
        """Send a command of the recorder's own; when the session has moved on meanwhile, look again."""
        await self._checkpoint(f"{command.verb}.sending")
        try:
            accepted = await self._commands.send(
                self._session, command, give_up_after_s=self._options.finish_timeout_s
            )
        except CommandRejected as exc:
            if exc.code != "illegal_transition":
                raise
            await self._link.beat()
        else:
            self._link.heard(accepted)
        await self._checkpoint(f"{command.verb}.accepted")


async def _first(*tasks: "asyncio.Task[Any]") -> None:
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
