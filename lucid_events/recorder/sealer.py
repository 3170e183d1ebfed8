"""Seals complete chunks and declares gaps, strictly one after another, in the order of offsets."""

from collections.abc import Callable

from lucid_events.client import Commands
from lucid_events.domain.commands import Gap, Seal
from lucid_events.domain.ids import CommandId, SessionId, derived_command_id
from lucid_events.domain.replies import Accepted
from lucid_events.domain.values import Frames
from lucid_events.errors import AppendUncertain, Fenced, IntegrityError, StoreUnavailable
from lucid_events.recorder.cutter import Reason
from lucid_events.recorder.intake import Missing
from lucid_events.recorder.options import Checkpoint, no_checkpoint
from lucid_events.recorder.receipts import Receipts
from lucid_events.recorder.waiting import Signal
from lucid_events.recorder.writer import CaptureWriter, Chunk

GAP_REASON = "the recorder could not send or keep the bytes in time"


def no_frames() -> Frames | None:
    """Return that nobody counts frames."""
    return None


class Sealer:
    """Takes complete chunks off the writer's line.

    Args:
        frames: how many frames of video the source has counted so far; None when it counts none.

    Attributes:
        sealed_upto: where the sealed bytes, and declared gaps, end; `moved` is notified when it advances.
    """

    def __init__(
        self,
        commands: Commands,
        session: SessionId,
        *,
        epoch: int,
        offset: int,
        next_index: int,
        writer: CaptureWriter,
        receipts: Receipts,
        moved: Signal,
        frames: Callable[[], Frames | None] = no_frames,
        checkpoint: Checkpoint = no_checkpoint,
    ) -> None:
        self._commands, self._session, self._epoch = commands, session, epoch
        self._writer, self._receipts, self._checkpoint = writer, receipts, checkpoint
        self._next_index = next_index
        self.sealed_upto = offset
        self.gaps = self.gap_bytes = self.chunks = 0
        self._moved = moved
        self._frames, self._told = frames, Frames(delivered=0, dropped=0)

    async def run(self) -> None:
        """Seal for ever.

        Raises:
            Fenced: the epoch was closed.
            CommandRejected: the rules refuse the seal.
        """
        while True:
            await self._moved.until(self._ready)
            item = self._writer.line[0]
            if isinstance(item, Chunk) and item.end:
                await self._seal(item, item.end)
            elif isinstance(item, Missing):
                await self._declare(item)
            self._writer.line.popleft()
            if isinstance(item, Chunk):
                # A chunk and its last piece hold each other. Left to the collector, which counts
                # objects and not bytes, a megabyte a chunk would stay for hundreds of chunks.
                item.tail = None
            self._writer.sealed()
            self._moved.notify()

    def _ready(self) -> bool:
        line = self._writer.line
        return bool(line) and (isinstance(line[0], Missing) or line[0].complete)

    async def _seal(self, chunk: Chunk, cut: Reason) -> None:
        command = Seal(
            epoch=self._epoch,
            n=chunk.n,
            offset=chunk.offset,
            size=chunk.size,
            sha256=chunk.sha256,
            first_seq=chunk.first_seq,
            last_seq=chunk.last_seq,
            started_at=chunk.started_at,
            ended_at=chunk.ended_at,
            cut=cut,
            frames=self._new_frames(),
        )
        accepted = await self._insist(command, f"seal {chunk.n}")
        index, self._next_index = self._next_index, self._next_index + 1
        if accepted.epoch != self._epoch:
            raise Fenced(f"epoch {self._epoch} of {self._session} is over", epoch=accepted.epoch)
        if accepted.next_index < self._next_index:
            raise IntegrityError(
                f"chunk {index} of {self._session} was sealed, and the history goes on at "
                f"{accepted.next_index}: the log was cut back",
                index=index,
            )
        self.sealed_upto = chunk.offset + chunk.size
        self.chunks += 1
        self._receipts.expect(index, chunk.offset, chunk.size, chunk.sha256)
        await self._checkpoint("seal.accepted")

    def _new_frames(self) -> Frames | None:
        """Return the frames counted since the seal before; the count is about a second behind the bytes."""
        now = self._frames()
        if now is None:
            return None
        told, self._told = self._told, now
        return Frames(delivered=now.delivered - told.delivered, dropped=now.dropped - told.dropped)

    async def _declare(self, gap: Missing) -> None:
        command = Gap(epoch=self._epoch, start=gap.start, end=gap.end, reason=GAP_REASON)
        await self._insist(command, f"gap {gap.start}")
        self.gaps += 1
        self.gap_bytes += gap.end - gap.start
        self.sealed_upto = gap.end
        await self._checkpoint("gap.accepted")

    async def _insist(self, command: Seal | Gap, what: str) -> Accepted:
        """Ask until there is an answer: the service may be away longer than one request is patient."""
        id: CommandId = derived_command_id(self._session, str(self._epoch), what)
        await self._checkpoint(f"{command.verb}.sending")
        while True:
            try:
                return await self._commands.send(self._session, command, id=id)
            except (StoreUnavailable, AppendUncertain):
                continue  # `send` has waited between its attempts
