"""The promises of `Beats`."""

import asyncio
from collections.abc import Mapping

from tests.contract.bundle import OTHER, PATIENCE_S, SID, Ports, Run


async def answer(subject: str, headers: Mapping[str, str], data: bytes) -> bytes:
    """Answer a beat."""
    return b"{}"


async def beat(ports: Ports, subject: str) -> None:
    """Beat once, as a recorder does, and wait for the answer."""
    await ports.bus.request(subject, b"", headers={}, timeout_s=PATIENCE_S)


def test_a_beat_is_heard(run: Run) -> None:
    """A recorder that beats is heard long before the wait ends, although a service answers its beats."""

    @run
    async def _(ports: Ports) -> None:
        async with (
            ports.server.serve("lucid", {"beats": (ports.subjects.all_beats, answer)}),
            asyncio.timeout(PATIENCE_S),
            asyncio.TaskGroup() as tasks,
        ):
            heard = tasks.create_task(ports.beats.heard(SID, epoch=2, within_s=10 * PATIENCE_S))
            while not heard.done():  # the listener stands some time after the task began
                await beat(ports, ports.subjects.beat(SID, 2))
        assert heard.result() is True


def test_only_that_epoch_of_that_session_counts(run: Run) -> None:
    """Beats of another epoch or session are not taken for the recorder's."""

    @run
    async def _(ports: Ports) -> None:
        async with (
            ports.server.serve("lucid", {"beats": (ports.subjects.all_beats, answer)}),
            asyncio.timeout(PATIENCE_S),
            asyncio.TaskGroup() as tasks,
        ):
            heard = tasks.create_task(ports.beats.heard(SID, epoch=2, within_s=1.0))
            while not heard.done():
                await beat(ports, ports.subjects.beat(SID, 1))
                await beat(ports, ports.subjects.beat(OTHER, 2))
        assert heard.result() is False


def test_silence_is_not_a_beat(run: Run) -> None:
    """Without a beat the answer is False, once the wait has passed."""

    @run
    async def _(ports: Ports) -> None:
        async with asyncio.timeout(PATIENCE_S):
            assert await ports.beats.heard(SID, epoch=1, within_s=0.1) is False
