"""Durable commands: stored first, handled for certain, their outcome left to be read.

The outcome is stored before the command is acknowledged. So a command whose worker dies is
handled again, under the same id, and a command that is gone from the queue has an outcome.
An id that has an outcome already is only acknowledged: its first outcome stands, a rejection too.
"""

import logging

from msgspec.structs import replace

from lucid_events import codec
from lucid_events.domain.ids import CommandId, SessionId, derived_command_id
from lucid_events.domain.replies import Accepted, Failure
from lucid_events.errors import ContractError, LucidError
from lucid_events.handlers.base import Done, Message, Outcome, Retry
from lucid_events.handlers.commands import CommandHandler
from lucid_events.handlers.requests import Identify, RequestReader, failure_of, given_id, identify_nobody
from lucid_events.ports import Letters
from lucid_events.subjects import UNKNOWN_SESSION, Subjects

_log = logging.getLogger(__name__)


class QueuedCommands:
    """The reaction to messages of the command queue; in order within a session."""

    name = "commands"

    def __init__(
        self,
        handler: CommandHandler,
        letters: Letters,
        subjects: Subjects,
        *,
        identify: Identify = identify_nobody,
    ) -> None:
        self._handler, self._letters, self._subjects = handler, letters, subjects
        self._reader = RequestReader(subjects, identify=identify)

    async def handle(self, message: Message) -> Outcome:
        """Handle one stored command and leave its outcome; what may succeed later is retried."""
        session = self._session(message)
        id = self._id(message, session)
        # The session is part of the message id: nobody suppresses another's outcome by using its id.
        subject, outcome_id = self._subjects.outcome(session, id), f"{session or UNKNOWN_SESSION}.{id}"
        try:
            before = await self._letters.last(subject)
        except LucidError as exc:
            if not exc.retry:
                raise
            return Retry(f"outcomes can't be read: {exc.message}")
        # Without our message id it is no outcome: inside one account anyone who may publish at all
        # can have the server write its acknowledgement there, and must not undo a command by that.
        if before is not None and before.headers.get(codec.MSG_ID) == outcome_id:
            return Done()
        answer: Accepted | Failure
        try:
            # A time is held against when it was stored, however late it is handled.
            request = self._reader.read(
                message.subject, message.headers, message.data, now=message.stored_at, id=id
            )
            answer = await self._handler.handle(replace(request, stored_at=message.stored_at))
        except LucidError as exc:
            if exc.retry:
                return Retry(f"{exc.code}: {exc.message}")
            answer = failure_of(exc)
        headers = {codec.CORRELATION: message.headers.get(codec.CORRELATION) or id}
        try:
            await self._letters.publish(
                subject,
                codec.encode(answer),
                headers={name: codec.header_safe(value) for name, value in headers.items()},
                id=outcome_id,
            )
        except LucidError as exc:
            if not exc.retry:
                raise
            return Retry(f"outcome not stored: {exc.message}")
        return Done()

    def lane(self, message: Message) -> str | None:
        """Order the session's commands; those of no session are in nobody's way."""
        return self._session(message)

    def cost_bytes(self, message: Message) -> int:
        """Count the message alone."""
        return len(message.data)

    def _session(self, message: Message) -> SessionId | None:
        try:
            return self._subjects.parse_command(message.subject)[0]
        except ContractError:
            return None

    def _id(self, message: Message, session: SessionId | None) -> CommandId:
        try:
            given = given_id(message.headers)
        except ContractError:
            given = None  # refused below, under an id its outcome can have
        if given is not None:
            return given
        # The time of storing tells streams apart: one made anew counts from 1 again.
        place = f"{self._subjects.commands_stream}:{message.sequence}:{codec.timestamp(message.stored_at)}"
        return derived_command_id(session or SessionId(UNKNOWN_SESSION), place, self.name)
