"""Immediate commands and beats as endpoints of a service: asked and answered over core NATS.

Whatever arrives is answered, and nothing that arrives ends the process.
"""

import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager

from lucid_events import codec, logs, tracing
from lucid_events.domain.commands import COMMANDS
from lucid_events.domain.ids import CommandId
from lucid_events.domain.replies import Beat, BeatReply, Failure
from lucid_events.domain.state import Session, ready_below
from lucid_events.errors import REASON_STATUSES, ContractError, LucidError, NotFound, status_of
from lucid_events.handlers.commands import CommandHandler
from lucid_events.handlers.histories import Histories
from lucid_events.handlers.requests import (
    INTERNAL_ERROR,
    Identify,
    RequestReader,
    failure_of,
    identify_nobody,
    internal_failure,
)
from lucid_events.measures import ProcessMeasures
from lucid_events.ports import Clock, CommandReply, CommandServer, Endpoint, Measures
from lucid_events.subjects import Subjects

SERVICE = "lucid"

BEAT_MAX_AGE_S = 1.0
"""Oldest state a beat is answered with. Beats come every few seconds per recorder; half asks the
leader twice as often when several services share a recorder's beats, twice delays a pause."""

MAX_BEAT_BYTES = 1024

ERROR, ERROR_CODE = "Nats-Service-Error", "Nats-Service-Error-Code"
"""Headers of an error answer, as NATS services send them (NATS ADR-32)."""

ACCEPTED, GIVEN_BACK = "accepted", "given back"
"""How a command is counted that was not refused: the latter was cancelled, and nobody was answered."""

_log = logging.getLogger(__name__)


class Endpoints:
    """The service's endpoints: commands and beats.

    Args:
        identify: says who sent a message, where the server vouches for it.
        measures: is told how each command ended, and when.
    """

    def __init__(
        self,
        handler: CommandHandler,
        histories: Histories,
        subjects: Subjects,
        clock: Clock,
        *,
        identify: Identify = identify_nobody,
        measures: Measures | None = None,
    ) -> None:
        self._handler, self._histories = handler, histories
        self._measures: Measures = measures or ProcessMeasures()
        self._subjects, self._clock = subjects, clock
        self._reader = RequestReader(subjects, identify=identify)

    def serve(self, server: CommandServer) -> AbstractAsyncContextManager[None]:
        """Answer from when the context is entered until it is left."""
        return server.serve(SERVICE, self.endpoints)

    @property
    def endpoints(self) -> Mapping[str, tuple[str, Endpoint]]:
        """Name -> (subject, endpoint), as a `CommandServer` takes them."""
        return {
            "command": (self._subjects.all_commands, self.command),
            "beat": (self._subjects.all_beats, self.beat),
        }

    async def command(self, subject: str, headers: Mapping[str, str], body: bytes) -> bytes | CommandReply:
        """Answer a command with `Accepted` or `Failure`; a failure has left no trace in the history."""
        began = time.perf_counter()
        outcome = GIVEN_BACK
        try:
            answer, outcome = await self._answer(self._command, subject, headers, body)
            return answer
        finally:
            verb = subject.rpartition(".")[2]
            self._measures.answered(
                verb if verb in COMMANDS else "unknown", outcome, time.perf_counter() - began
            )

    async def beat(self, subject: str, headers: Mapping[str, str], body: bytes) -> bytes | CommandReply:
        """Answer a beat with the session's state, as it was at most `BEAT_MAX_AGE_S` ago.

        That its recorder is not attached is said as of now.
        """
        answer, _ = await self._answer(self._beat, subject, headers, body)
        return answer

    async def _command(self, subject: str, headers: Mapping[str, str], body: bytes) -> bytes:
        fallback = CommandId(str(uuid.uuid4()))
        request = self._reader.read(subject, headers, body, now=self._clock.now(), id=fallback)
        doing = f"handle {request.command.verb}"
        with (
            tracing.span(
                doing, kind="server", parent=request.traceparent, lucid__session=request.session
            ) as span,
            logs.bound(session=request.session, trace=span.trace_id),
        ):
            return codec.encode(await self._handler.handle(request))

    async def _beat(self, subject: str, headers: Mapping[str, str], body: bytes) -> bytes:
        session, epoch = self._subjects.parse_beat(subject)
        if len(body) > MAX_BEAT_BYTES:
            raise ContractError(
                f"a beat has at most {MAX_BEAT_BYTES} bytes, this one {len(body)}", field="body"
            )
        codec.decode(body, Beat)
        history = await self._histories.recent(session, max_age_s=BEAT_MAX_AGE_S)
        if not _attached(history.state, epoch):
            # It ends a recording, so it is never said of a state from before the recorder attached,
            # which may have happened in another process a moment ago.
            history = await self._histories.recent(session, max_age_s=0)
        state = history.state
        if state.state is None:
            raise NotFound(f"there is no session {session}: create it first", session=session)
        reply = BeatReply(
            state=str(state.state),
            epoch=state.epoch,
            attached=_attached(state, epoch),
            offset=state.offset,
            version=int(history.version),
            ready=ready_below(state),
        )
        return codec.encode(reply)

    async def _answer(
        self,
        endpoint: Callable[[str, Mapping[str, str], bytes], Awaitable[bytes]],
        subject: str,
        headers: Mapping[str, str],
        body: bytes,
    ) -> tuple[bytes | CommandReply, str]:
        """Return the answer, and how it is counted: `accepted`, or the code of what it refuses with."""
        try:
            return await endpoint(subject, headers or {}, body), ACCEPTED
        except LucidError as exc:
            failure, status = failure_of(exc), status_of(exc)
            ours = logging.ERROR if status >= 500 else logging.INFO
            level = logging.WARNING if exc.retry else ours
            _log.log(level, "not taken", extra={"subject": subject, "code": exc.code, "reason": exc.message})
        except Exception:  # noqa: BLE001 - the edge of the service: one bad command must not end it
            _log.exception("a command met a bug", extra={"subject": subject, "code": INTERNAL_ERROR})
            failure, status = internal_failure(), REASON_STATUSES[INTERNAL_ERROR]
        return _refusal(failure, status), failure.error.code


def _attached(state: Session, epoch: int) -> bool:
    return state.lease is not None and state.lease.epoch == epoch


def _refusal(failure: Failure, status: int) -> CommandReply:
    headers = {ERROR: codec.header_safe(failure.error.message), ERROR_CODE: str(status)}
    return CommandReply(headers=headers, data=codec.encode(failure))
