"""How a recording copes with pressure, on its way into the history."""

import logging
from collections import deque
from collections.abc import Callable

from lucid_events.client import Commands
from lucid_events.domain.commands import Slow
from lucid_events.domain.ids import SessionId
from lucid_events.errors import AppendUncertain, CommandRejected, StoreUnavailable
from lucid_events.recorder.intake import Step
from lucid_events.recorder.waiting import Signal

_MOST_STEPS = 16
"""Changes of step that wait to be told; the oldest are dropped when a server is away for long."""
_log = logging.getLogger(__name__)


class Pressure:
    """The changes of step of `session`'s recording that are not in its history yet."""

    def __init__(self, session: SessionId, commands: Commands, moved: Signal) -> None:
        self._session, self._commands, self._moved = session, commands, moved
        self._steps: deque[tuple[Step, str]] = deque(maxlen=_MOST_STEPS)

    def stepped(self, step: Step, reason: str) -> None:
        """Note a change of step."""
        _log.warning("pressure", extra={"session": self._session, "state": step, "reason": reason})
        self._steps.append((step, reason))
        self._moved.notify()

    async def tell(self, epoch: int, acked_upto: Callable[[], int]) -> None:
        """Bring each change into the history, in order, as soon as somebody takes it; for ever."""
        while True:
            await self._moved.until(lambda: self._steps)
            step, reason = self._steps.popleft()
            slow = Slow(epoch=epoch, offset=acked_upto(), step=step, reason=reason)
            told = False
            while not told:
                try:
                    await self._commands.send(self._session, slow)
                except (StoreUnavailable, AppendUncertain):
                    continue  # `send` has waited between its attempts
                except CommandRejected as exc:
                    _log.info("not told", extra={"session": self._session, "reason": exc.message})
                told = True
