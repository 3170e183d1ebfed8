"""How far capture has got, read from the headers of its newest piece."""

from lucid_events.domain.ids import SessionId
from lucid_events.errors import AppendUncertain, ContractError, StoreUnavailable
from lucid_events.jetstream.capture import LENGTH, OFFSET
from lucid_events.jetstream.connection import Connection
from lucid_events.ports import CaptureEnd
from lucid_events.subjects import Subjects


class JetStreamCaptureGauge:
    """The capture stream of one prefix; implements `CaptureGauge`."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection, self._subjects = connection, subjects

    async def end(self, session: SessionId, *, epoch: int, timeout_s: float) -> CaptureEnd | None:
        """Return where the epoch's newest piece ends; see `CaptureGauge.end`."""
        subject = self._subjects.captured_chunks(session, epoch)
        try:
            last = await self._connection.leader_get(
                self._subjects.capture_stream, last_by_subj=subject, timeout_s=timeout_s
            )
        except AppendUncertain as exc:
            raise StoreUnavailable(f"{subject} was not answered within {timeout_s:g} s") from exc
        if last is None:
            return None
        try:
            return CaptureEnd(int(last.headers[OFFSET]) + int(last.headers[LENGTH]), last.stored_at)
        except (KeyError, ValueError) as exc:
            raise ContractError(f"the newest message on {subject} is no piece") from exc
