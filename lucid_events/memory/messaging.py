"""Messages that pass and are not kept: the live feed, commands with their answers, beats."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager

from lucid_events.domain.ids import SessionId
from lucid_events.errors import AppendUncertain, StoreUnavailable
from lucid_events.memory.clock import wait_by
from lucid_events.memory.faults import Outcome
from lucid_events.memory.server import FROM_SERVER, SEQUENCE, MemoryServer, Responder
from lucid_events.ports import CommandReply, Endpoint, LiveMessage

log = logging.getLogger(__name__)

MAX_UNREAD = 10_000
"""Live messages kept for a slow listener; the next ones are lost to it, as on a slow connection."""

ERROR, ERROR_CODE = "Nats-Service-Error", "Nats-Service-Error-Code"


class _Messages:
    """What a listener has not read yet.

    No generator: one that is cancelled while it waits has ended, and a listener may give up a wait.
    """

    def __init__(self, waiting: "asyncio.Queue[LiveMessage]") -> None:
        self._waiting = waiting

    def __aiter__(self) -> "_Messages":
        return self

    async def __anext__(self) -> LiveMessage:
        return await self._waiting.get()


class MemoryLiveFeed:
    """What the log of a `MemoryServer` republishes."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server

    @asynccontextmanager
    async def listen(self, subjects: str) -> AsyncIterator[AsyncIterator[LiveMessage]]:
        """Subscribe to a live subject filter; the subscription stands when the context is entered."""
        unread: asyncio.Queue[LiveMessage] = asyncio.Queue(MAX_UNREAD)

        def keep(subject: str, headers: Mapping[str, str], data: bytes) -> None:
            if not unread.full():
                own = {name: value for name, value in headers.items() if name not in FROM_SERVER}
                unread.put_nowait(LiveMessage(subject, own, data, int(headers[SEQUENCE])))

        with self._server.listening(subjects, keep):
            yield _Messages(unread)


class MemoryCommandBus:
    """The client's side of commands and beats."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server

    async def request(
        self, subject: str, data: bytes, *, headers: Mapping[str, str], timeout_s: float
    ) -> CommandReply:
        """Ask and wait; see `CommandBus.request`."""
        outcome = await self._server.faults.reach("request")
        heard = self._server.send(subject, headers, data) if outcome is not Outcome.REQUEST_LOST else 1
        responder = self._server.responder(subject) if outcome is not Outcome.REQUEST_LOST else None
        if responder is None and not heard:
            raise StoreUnavailable(
                f"nobody serves {subject}: start a service, check the prefix", subject=subject
            )
        answered = asyncio.Event()
        answer = None
        if responder is not None:
            answer = asyncio.ensure_future(responder(subject, headers, data))
            if outcome is Outcome.NORMAL:
                answer.add_done_callback(lambda _: answered.set())
        try:
            if await wait_by(self._server.clock, answered, timeout_s) and answer is not None:
                return answer.result()
        finally:
            if answer is not None and not answer.done():
                answer.cancel()
        raise AppendUncertain(
            f"no answer on {subject} in {timeout_s:g} s: repeat it under the same command id", subject=subject
        )

    async def enqueue(self, subject: str, data: bytes, *, headers: Mapping[str, str]) -> int:
        """Store a durable command; the sequence is the promise that it will be handled."""
        outcome = await self._server.faults.reach("enqueue")
        if outcome is Outcome.REQUEST_LOST:
            raise AppendUncertain(
                f"no reply to {subject}: enqueue it again under the same id", subject=subject
            )
        stored = self._server.publish(subject, data, headers)
        if outcome is Outcome.REPLY_LOST:
            raise AppendUncertain(
                f"no reply to {subject}: enqueue it again under the same id", subject=subject
            )
        return stored.sequence


class MemoryCommandServer:
    """The service's side: requests are handled in tasks owned by the `serve` context."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server

    @asynccontextmanager
    async def serve(self, name: str, endpoints: Mapping[str, tuple[str, Endpoint]]) -> AsyncIterator[None]:
        """Answer `endpoints`; leaving the context waits for the requests in hand.

        A handler that raises is answered for as NATS services do: error headers, no body.
        """
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            served = stack.enter_context(ExitStack())
            for subject, handler in endpoints.values():
                served.enter_context(self._server.responding(subject, _responder(handler, tasks)))
            yield


def _responder(endpoint: Endpoint, tasks: asyncio.TaskGroup) -> Responder:
    async def handle(subject: str, headers: Mapping[str, str], data: bytes) -> CommandReply:
        try:
            answer = await endpoint(subject, headers, data)
        # One request must not end the service for the others; its text may hold what nobody should see.
        except Exception:
            log.exception("a command handler failed", extra={"subject": subject})
            return CommandReply({ERROR: "internal error", ERROR_CODE: "500"}, b"")
        return answer if isinstance(answer, CommandReply) else CommandReply({}, answer)

    async def respond(subject: str, headers: Mapping[str, str], data: bytes) -> CommandReply:
        # Shielded: a caller that stops waiting does not stop the work, as on a network.
        return await asyncio.shield(tasks.create_task(handle(subject, headers, data)))

    return respond


class MemoryBeats:
    """Listens for recorders."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server

    async def heard(self, session: SessionId, *, epoch: int, within_s: float) -> bool:
        """Return True as soon as the epoch's recorder beats, False when it did not within `within_s`."""
        beaten = asyncio.Event()
        subject = self._server.subjects.beat(session, epoch)
        with self._server.listening(subject, lambda *_: beaten.set()):
            return await wait_by(self._server.clock, beaten, within_s)
