"""How long sessions are kept, as an operator or an auditor asks: of one, of all, and before erasing one.

Read from the histories, which are what the workers go by, not from the views. Reads only. The policy of
a session whose history states none, and nothing else, is taken from our own settings.
"""

from collections.abc import AsyncGenerator
from datetime import timedelta

import msgspec

from lucid_events.domain import commands as cmd
from lucid_events.domain.decider import decide
from lucid_events.domain.decisions import Rejected
from lucid_events.domain.ids import CommandId, SessionId
from lucid_events.domain.retention import Outlook, explained
from lucid_events.domain.state import initial
from lucid_events.domain.transitions import ENDED, ERASING, State
from lucid_events.errors import CommandRejected, IntegrityError
from lucid_events.handlers.histories import Histories, History
from lucid_events.service.client import Client
from lucid_events.service.indexes import live_index


class Outlooks:
    """Answers about retention over one client's connection."""

    def __init__(self, client: Client) -> None:
        self._client, self._adapters = client, client.adapters
        # Without snapshots: an auditor may not read them, and nobody who only asks should write one.
        self._histories = Histories(client.adapters.store, clock=client.adapters.clock)

    async def explain(self, session: SessionId) -> Outlook:
        """Return what is kept of the session till when, by which policy, and what happens next.

        Raises:
            NotFound: there is no such session.
            IntegrityError: its history can't be read.
        """
        return self._explained(await self._history(session))

    async def due(self, *, within_days: float = 0, metadata: bool = False) -> AsyncGenerator[Outlook, None]:
        """Yield the ended sessions whose bytes are past their time, or will be within so many days.

        Those that are held, or whose cleanup failed, are among them: `because` says why nothing happens.
        So are those whose history can't be read, past their time or not, as far as that can be told: nothing
        but their state is known, and that they need a person.

        Args:
            metadata: yield those instead whose metadata is past its time, erased sessions included.
        """
        now = self._adapters.clock.now()
        horizon = now + timedelta(days=within_days)
        index = await live_index(self._adapters)
        for state in (*ENDED, *sorted(ERASING)) if metadata else ENDED:
            async for session in index.sessions((state,)):
                try:
                    outlook = self._explained(await self._histories.refresh(session))
                except IntegrityError as exc:
                    yield self._unreadable(session, state, exc)
                    continue
                until = outlook.metadata_until if metadata else outlook.payload_until
                if until is not None and until <= horizon and (metadata or outlook.chunks):
                    yield outlook

    async def rehearse_cleanup(self, session: SessionId) -> Outlook:
        """Return what a cleanup that is asked for now would find, without asking for it.

        Raises:
            NotFound: there is no such session.
            CommandRejected: the rules would refuse it.
        """
        history = await self._history(session)
        now = self._adapters.clock.now()
        asked = cmd.Asked(
            session=session, id=CommandId("rehearsal"), command=cmd.Cleanup(), at=now, issued_at=now, actor=""
        )
        decision = decide(asked, history.state)
        if isinstance(decision, Rejected):
            raise CommandRejected(decision.message, reason=decision.code, allowed=decision.allowed)
        if history.damage:
            raise CommandRejected(f"the history of {session} is damaged: {history.damage}", reason="damaged")
        return self._explained(history)

    async def _history(self, session: SessionId) -> History:
        history = await self._histories.refresh(session)
        if history.state.state is None:
            await self._client.missing(session)
        return history

    def _unreadable(self, session: SessionId, state: State, exc: IntegrityError) -> Outlook:
        default, now = self._client.settings.retention.policy, self._adapters.clock.now()
        outlook = explained(initial(session), default, now=now, damage=exc.message)
        return msgspec.structs.replace(outlook, state=state)

    def _explained(self, history: History) -> Outlook:
        default, now = self._client.settings.retention.policy, self._adapters.clock.now()
        return explained(history.state, default, now=now, damage=history.damage)
