"""What a recorder keeps of bytes that are sealed: nothing."""

import asyncio
import gc

from lucid_events.recorder.writer import Piece
from tests.unit.recorder.rig import Bytes, Service, finished


def test_sealed_bytes_are_let_go_at_once() -> None:
    """No piece of a sealed chunk waits for the garbage collector: memory does not grow with the recording."""

    async def scenario() -> int:
        async with Service().running() as service:
            recording = service.recording(Bytes([bytes(4096)] * 50))
            gc.collect()
            gc.disable()
            try:
                totals = await finished(recording)
                assert totals.chunks == 50
                return sum(isinstance(found, Piece) for found in gc.get_objects())
            finally:
                gc.enable()

    # The last one acknowledged is kept: the next chunk may have to end there.
    assert asyncio.run(scenario()) <= 1
