"""Taking turns: one append to a history at a time within one process.

Across processes the guard decides; within one, waiting is cheaper than conflicts.
"""

import asyncio
from contextlib import AbstractAsyncContextManager

from lucid_events.domain.ids import SessionId
from lucid_events.errors import StoreUnavailable

TURN_WAIT_S = 30.0
"""Longest a command waits for those before it: twice a client's patience, so that the client, who
knows what it wants, gives up first."""


class _Turn:
    """A session's lock and how many hold it or wait for it."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class Turns:
    """One lock per session in use; a lock nobody holds or waits for is gone."""

    def __init__(self, *, wait_s: float = TURN_WAIT_S) -> None:
        self._wait_s = wait_s
        self._turns: dict[SessionId, _Turn] = {}

    def __len__(self) -> int:
        return len(self._turns)

    def of(self, session: SessionId) -> AbstractAsyncContextManager[None]:
        """Hold the session's turn, first come, first served.

        Entering it raises:
            StoreUnavailable: it did not come within the wait; nothing was tried.
        """
        return _Held(self, session)

    async def take(self, session: SessionId) -> None:
        """Wait for the session's turn; who has it gives it back."""
        turn = self._turns.setdefault(session, _Turn())
        turn.users += 1
        try:
            if turn.users == 1:
                await turn.lock.acquire()  # it is free, and what does not wait needs no timer
                return
            async with asyncio.timeout(self._wait_s):
                await turn.lock.acquire()
        except BaseException as exc:
            self._leave(session, turn)
            if isinstance(exc, TimeoutError):
                raise StoreUnavailable(
                    f"{session} is busy: {self._wait_s:g} s passed before its turn came, repeat the command",
                    session=session,
                ) from exc
            raise

    def give_back(self, session: SessionId) -> None:
        """Let the next one have its turn."""
        turn = self._turns[session]
        turn.lock.release()
        self._leave(session, turn)

    def _leave(self, session: SessionId, turn: _Turn) -> None:
        turn.users -= 1
        if not turn.users:
            del self._turns[session]


class _Held(AbstractAsyncContextManager[None]):
    """A turn as a context: every command takes one, so it is no generator."""

    __slots__ = ("_session", "_turns")

    def __init__(self, turns: Turns, session: SessionId) -> None:
        self._turns, self._session = turns, session

    async def __aenter__(self) -> None:
        await self._turns.take(self._session)

    async def __aexit__(self, *exc: object) -> None:
        self._turns.give_back(self._session)
