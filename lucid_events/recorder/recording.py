"""One recording from beginning to end: a source's bytes into a session, until all of it is proven stored."""

import asyncio
import logging
from collections.abc import Callable

from lucid_events.client import Commands
from lucid_events.domain.commands import Create
from lucid_events.domain.ids import SessionId
from lucid_events.domain.replies import Accepted
from lucid_events.domain.transitions import State
from lucid_events.domain.values import Frames
from lucid_events.errors import Fenced, LucidError
from lucid_events.ports import CaptureStore, Clock, EventStore, LiveFeed
from lucid_events.recorder.conductor import Conductor
from lucid_events.recorder.cutter import Cutter, Reason
from lucid_events.recorder.intake import Intake, Step
from lucid_events.recorder.link import SessionLink
from lucid_events.recorder.opening import attach_of, become_recorder, give_back, where_to_read_on
from lucid_events.recorder.options import (
    Acked,
    Checkpoint,
    RecorderOptions,
    Totals,
    ignore_acked,
    no_checkpoint,
)
from lucid_events.recorder.pressure import Pressure
from lucid_events.recorder.receipts import Receipts
from lucid_events.recorder.renewal import LastingSealer, Speaker, beside
from lucid_events.recorder.sealer import Sealer
from lucid_events.recorder.sources import CountsFrames, Source
from lucid_events.recorder.spool import Spool
from lucid_events.recorder.waiting import Signal
from lucid_events.recorder.writer import CaptureWriter
from lucid_events.subjects import Subjects

_log = logging.getLogger(__name__)


class Recording:
    """Records `source` into `session`; `run` once.

    Args:
        history: where the session's tail can be read when the live feed loses something; None
            when the recorder has no right to it, then only the live feed brings receipts.
        create: what the session is created with, when it does not exist.
        spool: local copy of what the server does not take; None keeps bytes in memory only.
        on_acked: called with the offset below which every byte is stored, as it advances.
        checkpoint: awaited between the steps that a crash may fall between.
    """

    def __init__(
        self,
        session: SessionId,
        source: Source,
        *,
        commands: Commands,
        capture: CaptureStore,
        live: LiveFeed,
        clock: Clock,
        subjects: Subjects,
        history: EventStore | None = None,
        create: Create | None = None,
        options: RecorderOptions | None = None,
        spool: Spool | None = None,
        on_acked: Acked = ignore_acked,
        checkpoint: Checkpoint = no_checkpoint,
    ) -> None:
        self._session, self._source, self._commands, self._capture = session, source, commands, capture
        self._clock, self._spool, self._create = clock, spool, create or Create()
        self._history = history
        self._options, self._on_acked, self._checkpoint = options or RecorderOptions(), on_acked, checkpoint
        self._moved = Signal()
        self._receipts = Receipts(self._released, self._moved)
        self._link = SessionLink(
            commands,
            live,
            history,
            clock,
            subjects,
            session,
            options=self._options,
            receipts=self._receipts,
            moved=self._moved,
        )
        self._intake: Intake | None = None
        self._writer: CaptureWriter | None = None
        self._sealer: Sealer | None = None
        self._conductor: Conductor | None = None
        self._asked_to_stop = self._asked_to_leave = False
        self._first_index = self._kept = self._salvaged = 0
        self._pressure = Pressure(session, commands, self._moved)

    @property
    def state(self) -> State | None:
        """The session's state, as far as is known."""
        return self._link.state

    @property
    def acked_upto(self) -> int:
        """Every byte of the session below this offset is stored."""
        return max(self._writer.acked_upto if self._writer else 0, self._salvaged)

    @property
    def refusal(self) -> str:
        """Why the server stores no bytes now, as far as it says; empty while it does."""
        refused = self._writer.refusal if self._writer else None
        return refused.message if refused else ""

    @property
    def opened(self) -> bool:
        """Whether the recorder is attached and its source has begun."""
        return self._conductor is not None

    @property
    def taken_upto(self) -> int:
        """Every byte of the session below this offset was taken from the source, or was there before."""
        return self._intake.end if self._intake else 0

    @property
    def read_upto(self) -> int:
        """Offset behind the last byte the source gave, taken in or not."""
        return self._intake.read_upto if self._intake else 0

    @property
    def kept_upto(self) -> int:
        """Every byte below it is stored or in the spool; the latter counts once `run` has ended."""
        return max(self._kept, self.acked_upto)

    @property
    def ended_upto(self) -> int:
        """Every byte below it is in a chunk that has ended; the rest waits in a chunk that is open."""
        return self._writer.ended_upto if self._writer else 0

    @property
    def open_index(self) -> int:
        """Index of the chunk that the next byte will belong to."""
        return self._first_index + self._writer.open_n if self._writer else 0

    @property
    def step(self) -> Step:
        """How pressure is coped with now."""
        return self._intake.step if self._intake else "flowing"

    def stop(self) -> None:
        """End the recording in order, as if the session had been told to stop; `run` returns soon."""
        self._asked_to_stop = True
        if self._conductor:
            self._conductor.stop()

    def leave(self) -> None:
        """End without stopping the session: what was read is sealed, and another recorder may go on."""
        self._asked_to_leave = True
        if self._conductor:
            self._conductor.leave()

    def send_now(self, *, end_chunk: bool = False) -> None:
        """Send what the source gave so far at once; with `end_chunk`, end the chunk there."""
        if self._intake:
            self._intake.mark("end" if end_chunk else None)

    async def confirm(self) -> None:
        """Ask whether our epoch is still the session's.

        Raises:
            Fenced: it is not.
            StoreUnavailable, AppendUncertain: nobody answers.
        """
        await self._link.beat()

    async def until(self, condition: Callable[[], object]) -> None:
        """Return as soon as `condition()` holds; it is looked at whenever this recording gets on."""
        await self._moved.until(condition)

    async def run(self) -> Totals:
        """Record until the source ends or the session is stopped, and until all of it is stored.

        Raises:
            Fenced: another recorder took over, or this one was given up as lost; the message and
                the fields `safe_offset` and `read_offset` say what is stored.
            IntegrityError: a chunk was stored with other bytes, or could not be stored.
            CommandRejected: the session's state does not allow recording.
            ConfigError: the source can't be recorded, or fails on the way: then what it gave is
                sealed and the session is in error (`safe_offset`).
            StoreUnavailable: no progress within `finish_timeout_s`.

        However it ends, what was read and is not stored is in the spool; bytes that it had no room
        for, or for which there is none, are named by an error in the log.
        """
        try:
            return await self._run()
        except Fenced as exc:
            safe = exc.fields.get("safe_offset")
            self._salvaged = safe if isinstance(safe, int) else 0  # though its acknowledgements were lost
            raise
        finally:
            # First what is not stored yet: closing a source may fail or take its time.
            try:
                self._save()
            finally:
                await self._source.close()

    def _save(self) -> None:
        """Leave to the next recorder, in the spool, what is not stored; say what there is no spool for."""
        try:
            if self._intake:
                self._kept = self._intake.save()
                if lost := max(0, self.read_upto - self.kept_upto):
                    _log.error(
                        "bytes that were read are neither stored nor in a spool",
                        extra={"session": self._session, "offset": self.kept_upto, "bytes": lost},
                    )
        finally:
            if self._spool:
                self._spool.close()

    async def _run(self) -> Totals:
        began = self._clock.now()
        accepted = await become_recorder(
            self._commands,
            self._clock,
            self._session,
            self._create,
            source=self._source,
            options=self._options,
            checkpoint=self._checkpoint,
        )
        self._link.attached(accepted)
        try:
            start = await where_to_read_on(
                self._session,
                self._source,
                self._spool,
                epoch=accepted.epoch,
                offset=accepted.offset,
                append=self._options.append,
                history=self._history,
            )
            await self._source.start()
        except LucidError as exc:
            await give_back(self._commands, self._session, accepted, exc.message)
            raise
        intake, writer, sealer = self._build(accepted, start)
        conductor = self._conductor = Conductor(
            self._session,
            self._source,
            commands=self._commands,
            link=self._link,
            intake=intake,
            writer=writer,
            sealer=sealer,
            receipts=self._receipts,
            options=self._options,
            moved=self._moved,
            checkpoint=self._checkpoint,
        )
        if self._asked_to_stop:
            conductor.stop()
        if self._asked_to_leave:
            conductor.leave()
        self._moved.notify()
        speaker = Speaker(
            self._session,
            attach_of(self._source, self._options),
            commands=self._commands,
            clock=self._clock,
            link=self._link,
            writer=writer,
            sealer=sealer,
            receipts=self._receipts,
            pressure=self._pressure,
            options=self._options,
            moved=self._moved,
            on_renewed=self._renewed,
        )
        try:
            reason = await beside(
                conductor.run(),
                writer.run(intake),
                speaker.run(),
                self._link.run_live(),
                intake.keep_synced(),
            )
        except Fenced as exc:
            raise await self._link.explain(exc, safe=self.acked_upto, read=self.taken_upto) from exc
        seconds = (self._clock.now() - began).total_seconds()
        return self._totals(accepted, conductor, intake, sealer, reason, seconds)

    def _build(self, accepted: Accepted, start: int) -> tuple[Intake, CaptureWriter, LastingSealer]:
        options = self._options
        cutter = Cutter(
            offset=accepted.offset,
            chunk_bytes=accepted.settings.chunk_bytes,
            piece_bytes=self._capture.max_piece_bytes,
            chunk_s=accepted.settings.chunk_seconds,
            flush_s=options.flush_interval_s,
        )
        writer = CaptureWriter(
            self._capture,
            self._clock,
            self._session,
            epoch=accepted.epoch,
            offset=accepted.offset,
            cutter=cutter,
            options=options,
            moved=self._moved,
            resumable=self._source.resumable,
            awaited=lambda: self._receipts.waiting,
            on_acked=self._captured,
            checkpoint=self._checkpoint,
        )
        intake = Intake(
            start=accepted.offset,
            end=start,
            options=options,
            clock=self._clock,
            spool=self._spool,
            stalled_s=writer.stalled_s,
            held=writer.held,
            arrived=writer.wake,
            on_step=self._pressure.stepped,
        )
        sealer = LastingSealer(
            self._commands,
            self._session,
            epoch=accepted.epoch,
            offset=accepted.offset,
            next_index=accepted.next_index,
            writer=writer,
            receipts=self._receipts,
            moved=self._moved,
            frames=self._frames,
            checkpoint=self._checkpoint,
        )
        self._intake, self._writer, self._sealer = intake, writer, sealer
        self._first_index = accepted.next_index
        return intake, writer, sealer

    async def _renewed(self, accepted: Accepted) -> None:
        self._first_index = accepted.next_index
        if self._spool:
            await asyncio.to_thread(self._spool.note, accepted.epoch)

    def _captured(self, upto: int) -> None:
        self._link.captured = upto
        self._on_acked(upto)

    def _released(self, upto: int) -> None:
        if self._intake:
            self._intake.release(upto)

    def _frames(self) -> Frames | None:
        return self._source.frames if isinstance(self._source, CountsFrames) else None

    def _totals(
        self,
        accepted: Accepted,
        conductor: Conductor,
        intake: Intake,
        sealer: Sealer,
        reason: Reason,
        seconds: float,
    ) -> Totals:
        receipts = self._receipts
        return Totals(
            session_id=self._session,
            state=str(self.state),
            epoch=self._link.epoch,
            bytes=conductor.read_bytes,
            sha256=conductor.digest.hexdigest(),
            start_offset=accepted.offset,
            end_offset=intake.end,
            chunks=receipts.chunks,
            raw_bytes=receipts.raw_bytes,
            stored_bytes=receipts.stored_bytes,
            ratio=receipts.raw_bytes / receipts.stored_bytes if receipts.stored_bytes else 1.0,
            gaps=sealer.gaps,
            gap_bytes=sealer.gap_bytes,
            failed_chunks=tuple(receipts.failed),
            seconds=seconds,
            exit_code=self._source.exit_code,
            reason=reason,
        )
