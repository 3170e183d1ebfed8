"""Messages set aside: the pointers to them, and what a person may do about each.

A pointer says where the original is and why it is there; the original stays in its own stream.
"""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime

import msgspec

from lucid_events import codec
from lucid_events.domain.ids import SESSION_ID
from lucid_events.errors import ConfigError, ContractError, NotFound
from lucid_events.handlers.base import Done, Message, Outcome, Park, Skip
from lucid_events.handlers.execution import Execution
from lucid_events.ports import DeadLetterStore, Letters, StoredMessage
from lucid_events.subjects import Subjects

MAX_REASON = 2000
"""Characters of a reason kept: enough for a message, not for a stack of them."""


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """A message carried along, because its stream forgets what is answered (a work queue)."""

    headers: dict[str, str]
    data: bytes
    stored_at: datetime


class Pointer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message set aside: which, by whom, why, after how many deliveries, when."""

    stream: str
    sequence: int
    subject: str
    consumer: str
    code: str
    reason: str
    attempts: int
    time: datetime
    copy: Copy | None = None

    @property
    def id(self) -> str:
        """The pointer's message id: the same message is set aside once."""
        return f"{self.consumer}:{self.sequence}"


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A pointer and its own sequence in the stream of dead letters, by which it is named."""

    sequence: int
    stored_at: datetime
    pointer: Pointer


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A letter with the message it points to; None when the original is gone."""

    letter: Letter
    original: StoredMessage | None


async def set_aside(letters: Letters, subjects: Subjects, pointer: Pointer) -> int:
    """Store `pointer`; returns when the server has it, so the original may be terminated.

    Raises:
        StoreUnavailable, AppendUncertain: it may not be stored; the original must not be given up.
    """
    kept = msgspec.structs.replace(pointer, reason=pointer.reason[:MAX_REASON])
    return await letters.publish(
        subjects.dead_letter(pointer.consumer), codec.encode(kept), headers={}, id=pointer.id
    )


class DeadLetters:
    """What an operator does with messages set aside: list, show, redrive, drop.

    `executions` are the reactions by consumer; redriving takes the same path as a delivery. `instead`
    says, of consumers that are no reactions, why a letter of theirs is not redriven, and what to do.
    """

    def __init__(
        self,
        store: DeadLetterStore,
        executions: Mapping[str, Execution],
        instead: Mapping[str, str] | None = None,
    ) -> None:
        self._store, self._executions, self._instead = store, executions, instead or {}

    async def list(
        self, consumer: str | None = None, *, after: int = 0, limit: int = 100
    ) -> AsyncIterator[Letter]:
        """Yield up to `limit` letters behind `after`, oldest first; what is not a pointer is left out."""
        if consumer is not None and SESSION_ID.fullmatch(consumer) is None:
            raise ContractError(f"consumer {consumer!r} is not a name", field="consumer")
        async for stored in self._store.letters(consumer, after=after, limit=limit):
            try:
                yield _letter(stored)
            except ContractError:
                continue

    async def show(self, sequence: int) -> Shown:
        """Return the letter at `sequence` with its original.

        Raises:
            NotFound: there is no such letter.
        """
        letter = await self._letter(sequence)
        pointer = letter.pointer
        if pointer.copy is None:
            return Shown(letter=letter, original=await self._store.original(pointer.stream, pointer.sequence))
        original = StoredMessage(
            subject=pointer.subject,
            headers=pointer.copy.headers,
            data=pointer.copy.data,
            sequence=pointer.sequence,
            stored_at=pointer.copy.stored_at,
        )
        return Shown(letter=letter, original=original)

    async def redrive(self, sequence: int) -> Outcome:
        """Run the original through its reaction again, in its current shape; handled, the letter goes.

        Anything but `Done` or `Skip` leaves the letter where it is.

        Raises:
            NotFound: there is no such letter, or its original is gone.
            ConfigError: the letter's consumer is one that nothing can be redriven to, or unknown.
        """
        shown = await self.show(sequence)
        pointer, original = shown.letter.pointer, shown.original
        if original is None:
            raise NotFound(
                f"the original of letter {sequence} ({pointer.stream} {pointer.sequence}) is gone: "
                "drop the letter",
                sequence=sequence,
            )
        execution = self._executions.get(pointer.consumer)
        if execution is None and (reason := self._instead.get(pointer.consumer)) is not None:
            raise ConfigError(
                f"letter {sequence} of {pointer.consumer} is not redriven: {reason}",
                consumer=pointer.consumer,
            )
        if execution is None:
            known = ", ".join(sorted(self._executions)) or "none"
            raise ConfigError(
                f"no reaction {pointer.consumer!r}: use one of {known}",
                consumer=pointer.consumer,
            )
        message = Message(
            subject=original.subject,
            headers=original.headers,
            data=original.data,
            sequence=original.sequence,
            stored_at=original.stored_at,
            attempt=pointer.attempts + 1,
        )
        outcome = await execution.run(message)
        if isinstance(outcome, Done):
            outcome = await execution.finish(message, outcome)
        if isinstance(outcome, Park):
            await execution.say_parked(message, outcome)
        if isinstance(outcome, Done | Skip):
            await self._store.drop(sequence)
        return outcome

    async def drop(self, sequence: int) -> Letter:
        """Delete the letter for good; the original stays in its stream.

        Raises:
            NotFound: there is no such letter.
        """
        letter = await self._letter(sequence)
        await self._store.drop(sequence)
        return letter

    async def _letter(self, sequence: int) -> Letter:
        stored = await self._store.letter(sequence)
        if stored is None:
            raise NotFound(f"no dead letter {sequence}: list them first", sequence=sequence)
        return _letter(stored)


def _letter(stored: StoredMessage) -> Letter:
    pointer = codec.decode(stored.data, Pointer)
    return Letter(sequence=stored.sequence, stored_at=stored.stored_at, pointer=pointer)
