"""How far capture has got, in memory."""

from lucid_events.domain.ids import SessionId
from lucid_events.errors import ContractError
from lucid_events.memory.capture import LENGTH, OFFSET
from lucid_events.memory.server import MemoryServer
from lucid_events.ports import CaptureEnd


class MemoryCaptureGauge:
    """The capture stream of a memory server; implements `CaptureGauge`."""

    def __init__(self, server: MemoryServer) -> None:
        self._server, self._subjects = server, server.subjects

    async def end(self, session: SessionId, *, epoch: int, timeout_s: float) -> CaptureEnd | None:
        """Return where the epoch's newest piece ends; see `CaptureGauge.end`."""
        await self._server.faults.reach("read")
        subject = self._subjects.captured_chunks(session, epoch)
        last = self._server.stream(self._subjects.capture_stream).last(subject)
        if last is None:
            return None
        try:
            return CaptureEnd(int(last.headers[OFFSET]) + int(last.headers[LENGTH]), last.stored_at)
        except (KeyError, ValueError) as exc:
            raise ContractError(f"the newest message on {subject} is no piece") from exc
