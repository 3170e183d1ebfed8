"""The promises of `CaptureGauge`."""

import pytest

from lucid_events.errors import ContractError
from lucid_events.ports import CaptureEnd
from tests.contract.bundle import OTHER, PATIENCE_S, SID, Ports, Run, sha256


async def end(ports: Ports, epoch: int = 1) -> CaptureEnd | None:
    """Read the gauge."""
    return await ports.gauge.end(SID, epoch=epoch, timeout_s=PATIENCE_S)


async def publish(ports: Ports, n: int, offset: int, data: bytes, *, epoch: int = 1) -> None:
    """Store one piece."""
    await ports.capture.publish(SID, epoch=epoch, n=n, offset=offset, data=data, sha256=sha256(data))


def test_it_is_where_the_newest_piece_ends(run: Run) -> None:
    """Of whichever chunk it is; other epochs, other sessions and fences don't count."""

    @run
    async def _(ports: Ports) -> None:
        assert await end(ports) is None
        await publish(ports, 9, 0, b"a" * 100)
        await publish(ports, 10, 100, b"b" * 10)
        await publish(ports, 0, 1000, b"c" * 10, epoch=2)
        await ports.capture.publish(OTHER, epoch=1, n=0, offset=7000, data=b"d", sha256=sha256(b"d"))
        await ports.capture.fence(SID, epoch=1)
        found = await end(ports)
        assert found is not None
        assert found.offset == 110
        assert found.stored_at == await ports.capture.last_time(SID, epoch=1)


def test_what_is_stored_and_purged_is_not_seen(run: Run) -> None:
    """When the last chunk has gone from capture there is nothing to tell."""

    @run
    async def _(ports: Ports) -> None:
        await publish(ports, 0, 0, b"a" * 100)
        await ports.capture.erase(SID)
        assert await end(ports) is None


def test_a_message_that_is_no_piece_is_said_to_be_none(run: Run) -> None:
    """What a stray client writes there is not taken for an offset."""

    @run
    async def _(ports: Ports) -> None:
        await ports.publish(ports.subjects.capture(SID, 1, 0), b"not a piece")
        with pytest.raises(ContractError):
            await end(ports)
