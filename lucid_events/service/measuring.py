"""Adapters that tell what their work takes; everything else about them is as it was."""

from lucid_events.domain.ids import SessionId
from lucid_events.handlers.stages import measured
from lucid_events.jetstream.capture import JetStreamCaptureStore
from lucid_events.jetstream.connection import Connection
from lucid_events.ports import CaptureAck, Measures
from lucid_events.subjects import Subjects


class MeasuredCapture(JetStreamCaptureStore):
    """A capture store whose publishing is the stage `recording`: from the call to the server's ack."""

    def __init__(self, connection: Connection, subjects: Subjects, measures: Measures) -> None:
        super().__init__(connection, subjects)
        self._measures = measures

    async def publish(
        self, session: SessionId, *, epoch: int, n: int, offset: int, data: bytes | memoryview, sha256: str
    ) -> CaptureAck:
        """Store one piece, measured; not traced, there are thousands of them."""
        with measured(self._measures, "recording", len(data), traced=False):
            return await super().publish(session, epoch=epoch, n=n, offset=offset, data=data, sha256=sha256)
