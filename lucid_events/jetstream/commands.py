"""Commands over core NATS: asking, queueing, and a discoverable service that answers.

The service is a `nats.micro` one (NATS ADR-32): `nats service ls` shows it, with statistics. Two
things it lacks are added: it handles one request per endpoint at a time, so handlers run as tasks
here, bounded; and it belongs to one client, so it is set up again when a client is replaced.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import nats.micro
from nats.aio.client import Client
from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER, Request
from nats.micro.service import EndpointStats, Service

from lucid_events.jetstream.connection import Connection
from lucid_events.jetstream.faults import CLIENT_ERRORS, described
from lucid_events.jetstream.messages import NO_HEADERS
from lucid_events.ports import CommandReply, Endpoint

log = logging.getLogger(__name__)

QUEUE: Final = "lucid"
"""All services share it: each command is handled once."""
MAX_IN_HAND: Final = 1024
"""Requests in hand per service. Beyond it they wait in the client, where their sender's timeout finds
them; half would slow a burst of creates down, twice would keep more waiting than can be answered."""
LEAVE_S: Final = 10.0
"""How long leaving waits for requests in hand."""


class JetStreamCommandBus:
    """The client's side of commands and beats."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def request(
        self, subject: str, data: bytes, *, headers: Mapping[str, str], timeout_s: float
    ) -> CommandReply:
        """Ask and wait.

        Raises:
            StoreUnavailable: nobody serves the subject, or not connected.
            AppendUncertain: no answer in time; repeat under the same command id.
        """
        reply = await self._connection.request(subject, data, headers=headers, timeout_s=timeout_s)
        return CommandReply(reply.headers, reply.data)

    async def enqueue(self, subject: str, data: bytes, *, headers: Mapping[str, str]) -> int:
        """Store a durable command; the sequence is the promise that it will be handled.

        Raises:
            StoreUnavailable: nothing was stored (`StoreFull`: the queue is full).
            AppendUncertain: no reply; repeat under the same command id.
        """
        return (await self._connection.publish_acked(subject, data, headers=headers)).sequence


class JetStreamCommandServer:
    """The service's side of immediate commands and of beats."""

    def __init__(self, connection: Connection, *, version: str, max_in_hand: int = MAX_IN_HAND) -> None:
        self._connection = connection
        self._version = version
        self._max_in_hand = max_in_hand

    @asynccontextmanager
    async def serve(self, name: str, endpoints: Mapping[str, tuple[str, Endpoint]]) -> AsyncIterator[None]:
        """Answer `endpoints` as a discoverable service: name -> (subject, handler).

        It answers from when the context is entered, through reconnects; leaving it waits for the
        requests in hand. What a handler raises is logged and answered with code 500.

        Raises:
            StoreUnavailable: not connected.
        """
        running = _Running(name, self._version, endpoints, self._max_in_hand)
        stop = await self._connection.on_client(running.attach)
        try:
            await self._connection.barrier()
            yield
        finally:
            stop()
            await running.leave()


class _Handled:
    """What an endpoint did; nats.micro's own figures only cover handing the request over."""

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.in_hand = 0
        self.seconds = 0.0
        self.last_error = ""

    def data(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "errors": self.errors,
            "in_hand": self.in_hand,
            "average_ms": round(1000 * self.seconds / self.requests, 3) if self.requests else 0.0,
            "last_error": self.last_error,
        }


class _Running:
    """The service on the client of the moment, and the requests in hand."""

    def __init__(
        self, name: str, version: str, endpoints: Mapping[str, tuple[str, Endpoint]], max_in_hand: int
    ) -> None:
        self._name = name
        self._version = version
        self._endpoints = endpoints
        self._room = asyncio.Semaphore(max_in_hand)
        self._handled = {endpoint: _Handled() for endpoint in endpoints}
        self._tasks: set[asyncio.Task[None]] = set()
        self._service: Service | None = None

    async def attach(self, client: Client) -> None:
        """Set the service up on `client`; the one on the client before went with it."""
        service = await nats.micro.add_service(
            client,
            name=self._name,
            version=self._version,
            description="Answers commands of lucid_events",
            queue_group=QUEUE,
            stats_handler=self._statistics,
        )
        for endpoint, (subject, handler) in self._endpoints.items():
            await service.add_endpoint(
                name=endpoint, subject=subject, handler=self._receiver(endpoint, handler)
            )
        self._service = service

    async def leave(self) -> None:
        """Take no more requests, answer those in hand, cancel what is left after `LEAVE_S`."""
        if self._service is not None:
            try:
                async with asyncio.timeout(LEAVE_S):
                    await self._service.stop()
            except CLIENT_ERRORS as exc:
                log.warning("the service did not leave in order", extra={"reason": described(exc)})
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LEAVE_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _statistics(self, endpoint: EndpointStats) -> dict[str, Any]:
        return self._handled[endpoint.name].data()

    def _receiver(self, endpoint: str, handler: Endpoint) -> Callable[[Request], Awaitable[None]]:
        async def receive(request: Request) -> None:
            await self._room.acquire()
            task = asyncio.create_task(self._handle(endpoint, handler, request))
            self._tasks.add(task)
            task.add_done_callback(self._done)

        return receive

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._room.release()

    async def _handle(self, endpoint: str, handler: Endpoint, request: Request) -> None:
        handled = self._handled[endpoint]
        handled.requests += 1
        handled.in_hand += 1
        began = asyncio.get_running_loop().time()
        try:
            answer = await handler(request.subject, request.headers or NO_HEADERS, request.data)
        # One request must not end the service for the others.
        except Exception as exc:
            handled.errors += 1
            handled.last_error = type(exc).__name__
            log.exception("a command handler failed", extra={"subject": request.subject})
            # The exception's text may hold what the asker must not see.
            answer = CommandReply({ERROR_HEADER: "internal error", ERROR_CODE_HEADER: "500"}, b"")
        finally:
            handled.in_hand -= 1
            handled.seconds += asyncio.get_running_loop().time() - began
        await self._respond(request, answer if isinstance(answer, CommandReply) else CommandReply({}, answer))

    async def _respond(self, request: Request, answer: CommandReply) -> None:
        try:
            await request.respond(answer.data, dict(answer.headers) or None)
        except ValueError:
            log.debug("nobody asked for an answer", extra={"subject": request.subject})
        except CLIENT_ERRORS as exc:
            log.warning("an answer was lost", extra={"subject": request.subject, "reason": described(exc)})
