"""`cli.stopping`: what a signal does to a recording, and by when."""

import asyncio
import os
import signal

import pytest

from lucid_events.cli.stopping import StopOnSignal

NEVER_S = 60.0


def ended_by(*numbers: signal.Signals, within_s: float) -> tuple[int, bool]:
    """Return how often a recording that never ends was asked to stop, and whether a time was over."""
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return True

    stopper = StopOnSignal(stop, "", within_s=within_s)

    async def main() -> None:
        with stopper:
            for number in numbers:
                os.kill(os.getpid(), number)
                await asyncio.sleep(0)
            async with asyncio.timeout(NEVER_S):
                await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    return len(asked), stopper.late


def test_a_supervisor_is_not_kept_waiting() -> None:
    """A SIGTERM alone ends a recording that can't end in order, once its time is over."""
    assert ended_by(signal.SIGTERM, within_s=0.1) == (1, True)


def test_a_second_signal_ends_at_once() -> None:
    """Whoever asks again is not made to wait for the time."""
    assert ended_by(signal.SIGINT, signal.SIGINT, within_s=NEVER_S) == (1, False)
    assert ended_by(signal.SIGTERM, signal.SIGINT, within_s=NEVER_S) == (1, False)


def test_a_terminal_may_wait() -> None:
    """After one Ctrl-C no clock runs: the person at the keys decides."""
    stopper = StopOnSignal(lambda: True, "", within_s=0.05)

    async def main() -> None:
        with stopper:
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await asyncio.Event().wait()

    asyncio.run(main())
    assert not stopper.late


def test_what_has_not_begun_ends_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    """While there is nothing to end in order the first signal ends, and says nothing of an orderly end."""
    stopper = StopOnSignal(lambda: False, "stopping", within_s=NEVER_S)

    async def main() -> None:
        with stopper:
            os.kill(os.getpid(), signal.SIGINT)
            async with asyncio.timeout(NEVER_S):
                await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert capfd.readouterr().err == ""
    assert not stopper.late
