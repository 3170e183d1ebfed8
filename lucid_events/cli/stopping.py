"""How signals end a recording: in order at first, at once at the second, and a supervisor's in time."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from lucid_events.cli.output import err

SHUTDOWN: Final = "LUCID_SHUTDOWN_TIMEOUT"


class StopOnSignal:
    """The first SIGINT, SIGTERM or SIGHUP ends the recording in order, a second one at once.

    So does the first while nothing has begun that could be ended: then `stop` returns False.

    Behind a SIGTERM is a supervisor, who never sends a second one: after `within_s` it counts as one.
    A person at a terminal may wait as long as they like. A hang-up is how most terminals end; who
    started us under `nohup` had it ignored, and it stays so.

    Attributes:
        late: a SIGTERM's time was over before everything was stored.
    """

    def __init__(self, stop: Callable[[], bool], said: str, *, within_s: float) -> None:
        self._stop, self._said, self._within_s = stop, said, within_s
        self._asked = self.late = False
        self._alarm: asyncio.TimerHandle | None = None
        deaf = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._numbers = (signal.SIGINT, signal.SIGTERM, *(() if deaf else (signal.SIGHUP,)))

    def __enter__(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def over() -> None:
            self.late = True
            if task is not None:
                task.cancel()

        def asked(number: int) -> None:
            if self._asked or not self._stop():
                if task is not None:
                    task.cancel()
                return
            self._asked = True
            if number == signal.SIGTERM:
                self._alarm = loop.call_later(self._within_s, over)
            if self._said:
                with suppress(OSError):  # the terminal may be what has just gone
                    err.print(self._said, markup=False)

        for number in self._numbers:
            with suppress(NotImplementedError):
                loop.add_signal_handler(number, asked, number)

    def __exit__(self, *_: object) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        loop = asyncio.get_running_loop()
        for number in self._numbers:
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
