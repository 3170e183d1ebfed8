"""One message through one reaction: what it returns or raises, as an outcome.

The same path for a delivery and for a redriven letter. Knows nothing of lanes and acks.
"""

import asyncio
import logging

from lucid_events import codec, logs, tracing
from lucid_events.errors import CommandRejected, ContractError, LucidError, NotFound
from lucid_events.handlers.base import (
    Decisions,
    Done,
    Issued,
    Message,
    Outcome,
    Park,
    Reaction,
    Retry,
    SpeaksOnPark,
)

_log = logging.getLogger(__name__)

HANDLE_TIMEOUT_S = 600.0
"""Longest one message may be in work; a chunk of 100 MiB at zstd 22 takes two minutes. At half, a
slow machine fails honest work; at twice, a stuck handler blocks its lane for twenty minutes."""


class Execution:
    """Runs messages through `reaction` and commits what it returns through `decisions`."""

    def __init__(
        self, reaction: Reaction, decisions: Decisions, *, handle_timeout_s: float = HANDLE_TIMEOUT_S
    ) -> None:
        self.reaction = reaction
        self._decisions = decisions
        self._handle_timeout_s = handle_timeout_s

    async def run(self, message: Message) -> Outcome:
        """Handle `message` and commit its commands; errors become `Retry` or `Park`, never escape."""
        with (
            tracing.span(
                f"react {self.reaction.name}",
                kind="consumer",
                parent=message.headers.get(codec.TRACE, ""),
                lucid__session=message.owner,
                messaging__message__id=message.headers.get(codec.ID, ""),
            ) as span,
            logs.bound(session=message.owner, trace=span.trace_id),
        ):
            try:
                async with asyncio.timeout(self._handle_timeout_s):
                    outcome = await self.reaction.handle(message)
                    if isinstance(outcome, Done):
                        for issued in outcome.commands:
                            await self._commit(issued)
                    return outcome
            except Exception as exc:  # noqa: BLE001 - the pull loop: one bad message must not end the others
                span.failed(str(exc))
                return self._failed(message, exc)

    async def finish(self, message: Message, done: Done) -> Outcome:
        """Run what is left to do before the ack."""
        if done.finish is None:
            return done
        try:
            async with asyncio.timeout(self._handle_timeout_s):
                return await done.finish() or Done()
        except Exception as exc:  # noqa: BLE001 - as above
            return self._failed(message, exc)

    async def say_parked(self, message: Message, park: Park) -> Retry | None:
        """Commit what the reaction has to say in the history about a message set aside.

        Returns a `Retry` when it can't be committed now. What can never be committed is logged:
        a message must not stay in the way because its history is broken too.
        """
        if not isinstance(self.reaction, SpeaksOnPark):
            return None
        try:
            for issued in self.reaction.on_park(message, park):
                await self._commit(issued)
        except Exception as exc:  # noqa: BLE001 - as above
            failed = self._failed(message, exc)
            if isinstance(failed, Retry) and not failed.own_failure:
                return failed
            _log.error(
                "a message is set aside and its history can't say so",
                extra={"consumer": self.reaction.name, "sequence": message.sequence, "reason": str(exc)},
            )
        return None

    async def _commit(self, issued: Issued) -> None:
        try:
            await self._decisions.append_internal(
                issued.session,
                issued.command,
                cause=issued.cause,
                reaction=self.reaction.name,
                correlation=issued.correlation,
                traceparent=issued.traceparent,
            )
        except (CommandRejected, NotFound) as exc:
            # The session has moved on since the event: the rules have the last word.
            _log.info(
                "the rules refuse what a reaction asked",
                extra={
                    "session": issued.session,
                    "command": type(issued.command).__name__,
                    "reason": str(exc),
                },
            )

    def _failed(self, message: Message, exc: Exception) -> Outcome:
        if isinstance(exc, LucidError):
            if exc.retry:
                return Retry(f"{exc.code}: {exc.message}")
            if isinstance(exc, ContractError):
                return Park("contract", exc.message)
            return Retry(f"{exc.code}: {exc.message}", own_failure=True)
        if isinstance(exc, TimeoutError):
            return Retry(f"not done in {self._handle_timeout_s:g} s", own_failure=True)
        _log.error(
            "a reaction failed unexpectedly",
            exc_info=exc,
            extra={
                "consumer": self.reaction.name,
                "subject": message.subject,
                "sequence": message.sequence,
                "attempt": message.attempt,
            },
        )
        return Retry(f"{type(exc).__name__}: {exc}", own_failure=True)
