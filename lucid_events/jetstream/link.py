"""Keeps one client of nats-py alive, and replaces it when it is beyond help.

nats-py reconnects by itself, with two exceptions that this module covers: a client whose read
loop died on an exception still says it is connected, and a client the server told to go (expired
credentials, an exceeded limit) closes for good. A watchdog pings; what does not answer is thrown
away, a new client takes over, and every subscription is made again. So is a client that breaks in a way
it has no name for: a connection whose keepers have died would say that it is connected, and send nothing.

Sending goes through one task, so the order of calls is the order on the wire, a caller never
awaits code of nats-py that swallows cancellation, and what was not sent is known not to be.
"""

import asyncio
import logging
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from nats.aio.client import Client
from nats.errors import SlowConsumerError

from lucid_events.errors import ConfigError, LucidError, StoreUnavailable
from lucid_events.jetstream.calls import Call, Calls
from lucid_events.jetstream.client import CLOSE_S, close_client, open_client
from lucid_events.jetstream.faults import (
    CLIENT_ERRORS,
    client_fault,
    described,
    forbidden,
    forbidden_subject,
    no_reply,
)
from lucid_events.jetstream.messages import Message
from lucid_events.jetstream.options import NatsOptions
from lucid_events.jetstream.outbox import Barrier, Outbox
from lucid_events.jetstream.pings import Pings
from lucid_events.jetstream.subscription import Subscription

log = logging.getLogger(__name__)

WATCH_S: Final = 5.0
"""Time between pings of the watchdog; a dead client is replaced after at most WATCH_S + PROBE_S."""
PROBE_S: Final = 10.0
"""How long a pong may take. Half would mistake a blocked event loop for a dead client."""
PATIENCE_S: Final = 60.0
"""A client that has not reconnected by then is replaced, in case its reconnecting has died."""
RETRY_MAX_S: Final = 5.0

_BAD_CALL = (TypeError, AttributeError, ValueError)


class Link:
    """One logical connection: a client that is there, or one that is being got back."""

    def __init__(self, options: NatsOptions) -> None:
        self.options = options
        self._client = Client()
        self._subscriptions: list[Subscription] = []
        self._changing = asyncio.Lock()
        self._connected = asyncio.Event()
        self._gone = asyncio.Event()
        self._outbox = Outbox(options)
        self._pings = Pings()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self._ended = False
        self._lost_at = 0.0
        self._last_trouble = ""
        self._on_reconnect: list[Callable[[], None]] = []
        self._on_client: list[Callable[[Client], Awaitable[None]]] = []
        self.replacements = 0
        """How often a client had to be replaced."""
        self.calls = Calls(f"{options.inbox_prefix}.{secrets.token_hex(11)}", options.server)

    # life

    async def open(self, *, wait: bool) -> None:
        """Connect, and start what keeps the connection."""
        while True:
            try:
                self._client = await open_client(self.options, self)
                break
            except StoreUnavailable as exc:
                if not wait:
                    raise
                log.warning("waiting for the server", extra={"reason": str(exc)})
                await asyncio.sleep(_jitter(RETRY_MAX_S))
        await self.subscribe(f"{self.calls.inbox}.*", self.calls.answer)
        self._connected.set()
        self._tasks = [
            asyncio.create_task(self._send(), name="lucid-nats-send"),
            asyncio.create_task(self._watch(), name="lucid-nats-watch"),
        ]
        for task in self._tasks:
            task.add_done_callback(_report)

    async def close(self) -> None:
        """Send what is queued, wait until the server has it, close; bounded by `CLOSE_S` for each.

        nats-py's own drain is not used: it waits behind a flush, which is no barrier, and leaves
        failed tasks behind when the server does not answer.
        """
        self._closing = True
        try:
            if self._connected.is_set():
                async with asyncio.timeout(CLOSE_S):
                    await self.barrier()
        except (TimeoutError, LucidError):
            log.warning("closed with messages unsent", extra={"count": len(self._outbox)})
        finally:
            # nats-py may swallow the cancellation of a publish: the sender looks at this, too.
            self._ended = True
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, *self._pings.give_up(), return_exceptions=True)
            await close_client(self._client)
            self.calls.end()

    @property
    def connected(self) -> bool:
        """Whether a server is there now, as far as is known."""
        return self._connected.is_set() and self._client.is_connected

    @property
    def client(self) -> Client:
        """The client of the moment: never keep it, see `on_client`."""
        return self._client

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after every reconnect and every replacement; returns how to stop that."""
        self._on_reconnect.append(callback)
        return lambda: self._on_reconnect.remove(callback)

    async def on_client(self, attach: Callable[[Client], Awaitable[None]]) -> Callable[[], None]:
        """Await `attach` with the client now and with each that replaces it; returns how to stop that."""
        async with self._changing:
            self._on_client.append(attach)
            await attach(self._client)
        return lambda: self._on_client.remove(attach)

    # receiving

    async def subscribe(
        self, subject: str, callback: Callable[[Message], None], *, queue: str = ""
    ) -> Subscription:
        """Subscribe for good; messages may flow before this returns, but need not: see `barrier`."""
        subscription = Subscription(subject, queue, callback, self._forget)
        async with self._changing:
            try:
                await subscription.attach(self._client)
            except CLIENT_ERRORS as exc:
                if not self._client.is_closed:
                    raise client_fault(exc, f"subscribe to {subject}") from exc
            # A closed client is being replaced; the next one gets the subscription.
            self._subscriptions.append(subscription)
        return subscription

    def _forget(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    # sending

    def send(self, call: Call) -> None:
        """Queue a message; it is sent as soon as a server is there and its turn has come.

        Raises:
            StoreUnavailable: `pending_bytes` are queued already, or the connection is closed.
        """
        if self._closing:
            raise StoreUnavailable(f"the connection is closed: {call.subject!r} was not sent")
        self._outbox.put(call)

    async def barrier(self) -> None:
        """Return when the server has processed everything sent and subscribed before the call.

        nats-py's `flush` promises less: its ping overtakes what is still buffered.

        Raises:
            StoreUnavailable: no answer within the request timeout.
        """
        passed = self._outbox.bar()
        try:
            # Not `wait_for`: up to Python 3.11 it swallows a cancellation that meets the answer.
            async with asyncio.timeout(self.options.request_timeout_s):
                await passed
        except TimeoutError:
            raise StoreUnavailable(f"no answer from {self.options.server}: try again") from None

    async def _send(self) -> None:
        while not self._ended:
            await self._outbox.filled()
            await self._connected.wait()
            item, client = self._outbox.take(), self._client
            try:
                if isinstance(item, Call):
                    await self._send_one(client, item)
                else:
                    await self._pass(client, item)
            except Exception:  # without its sender a connection says it is there, and sends nothing
                log.exception("the client broke and is given up", extra={"server": self.options.server})
                if client is self._client:
                    self._connected.clear()
                    self._gone.set()
                if isinstance(item, Call):
                    item.fail(no_reply(item.subject, 0))
                elif not item.done():
                    item.set_exception(StoreUnavailable(f"{self.options.server} was lost: try again"))

    async def _send_one(self, client: Client, item: Call) -> None:
        if item.abandoned:
            return
        item.sent = True
        try:
            data: Any = item.data  # a view will do: it only goes to the socket
            await client.publish(item.subject, data, item.reply, _sendable(item.headers))
        except CLIENT_ERRORS as exc:
            item.sent = False
            if client.is_connected:
                item.fail(client_fault(exc, f"publish to {item.subject}"))
            else:
                # Lost between the look and the send: it waits for the next client, first in line.
                self._connected.clear()
                self._outbox.put_first(item)
        except _BAD_CALL as exc:
            item.fail(ConfigError(f"publish to {item.subject}: {described(exc)}"))

    async def _pass(self, client: Client, passed: Barrier) -> None:
        """Ping behind everything that was sent; `passed` is resolved by the pong."""
        pause = 0.0
        while client.pending_data_size > 0 and client.is_connected:
            await asyncio.sleep(pause)
            pause = 0.001
        ping = self._pings.send(client)
        # The task must have written its ping before anything else is sent.
        await asyncio.sleep(0)

        def pong(task: asyncio.Task[Any]) -> None:
            if not passed.done() and not task.cancelled() and task.exception() is None:
                passed.set_result(None)

        ping.add_done_callback(pong)

    # keeping the client

    async def _watch(self) -> None:
        while True:
            try:
                if not await self._well():
                    await self._replace()
            except Exception:  # who keeps the connection must outlive whatever keeps it from a client
                log.exception("the client was not replaced, trying again")
                self._gone.set()
                await asyncio.sleep(_jitter(RETRY_MAX_S))

    async def _well(self) -> bool:
        """Return after `WATCH_S` whether the client is alive; at once when it has gone."""
        try:
            async with asyncio.timeout(WATCH_S):
                await self._gone.wait()
            return False
        except TimeoutError:
            return await self._alive(self._client)

    async def _alive(self, client: Client) -> bool:
        if not client.is_connected:
            # nats-py is reconnecting.
            return self._lost_at <= 0 or asyncio.get_running_loop().time() - self._lost_at < PATIENCE_S
        return await self._pings.answered(client, within_s=PROBE_S)

    async def _replace(self) -> None:
        self._connected.clear()
        self.calls.disconnected()
        log.warning("the client is dead and is replaced", extra={"server": self.options.server})
        await close_client(self._client)
        pause = 0.1
        while not await self._take_over():
            await asyncio.sleep(_jitter(pause))
            pause = min(2 * pause, RETRY_MAX_S)
        self.replacements += 1
        self._gone.clear()
        if self._client.is_closed:
            self._gone.set()
        self._back()

    async def _take_over(self) -> bool:
        """Put a new client in the place of the old one, with all that was attached to it."""
        try:
            client = await open_client(self.options, self)
        except LucidError as exc:
            log.warning("the server can not be reached", extra={"reason": str(exc)})
            return False
        async with self._changing:
            try:
                for subscription in list(self._subscriptions):
                    await subscription.attach(client)
                for attach in list(self._on_client):
                    await attach(client)
            except CLIENT_ERRORS as exc:
                log.warning("the new client died, too", extra={"reason": described(exc)})
                await close_client(client)
                return False
            except BaseException:
                await close_client(client)  # it would go on reconnecting, beside the next one
                raise
            self._client = client
        return True

    def _back(self) -> None:
        self._lost_at = 0.0
        self._last_trouble = ""
        self.calls.deafen(None)  # what is still forbidden, the server says again
        self._connected.set()
        for callback in list(self._on_reconnect):
            try:
                callback()
            except Exception:  # a bug of one must not keep it from the others, nor end who calls here
                log.exception("a reconnect's callback failed")

    # what the client reports; word from a client that was replaced is ignored

    def client_erred(self, client: Client, exc: Exception) -> None:
        """Log what went wrong; what the server forbids is told to those who wait for it."""
        if client is not self._client:
            return
        if (refused := forbidden_subject(exc)) is not None:
            # An answer would never come: the server drops what is forbidden.
            told = self._forbidden(*refused)
            log.log(
                logging.DEBUG if told else logging.WARNING,
                "the server forbids it",
                extra={"subject": refused[1], "server": self.options.server},
            )
        else:
            self._log_error(exc)

    def _forbidden(self, doing: str, subject: str) -> bool:
        """Tell whoever waits for `subject`, in lower case, that it is forbidden; False when nobody does."""
        if doing == "publish":
            return self.calls.refused(subject)
        if subject == f"{self.calls.inbox}.*".lower():
            self.calls.deafen(forbidden("subscribe to", f"{self.options.inbox_prefix}.>"))
            return True
        for subscription in self._subscriptions:
            subscription.refused |= subscription.subject.lower() == subject
        return False

    def client_lost(self, client: Client) -> None:
        """The server is away, nats-py looks for it: replies to what was sent will not come."""
        if client is self._client and not self._closing:
            self._lost_at = asyncio.get_running_loop().time()
            self._connected.clear()
            self.calls.disconnected()
            # Their pongs can not come any more, so these pings may be given up.
            self._pings.give_up()
            log.warning("disconnected", extra={"server": self.options.server})

    def client_returned(self, client: Client) -> None:
        """The server is back."""
        if client is self._client:
            log.info("reconnected", extra={"server": self.options.server})
            self._back()

    def client_closed(self, client: Client) -> None:
        """The client has given up for good."""
        if client is self._client and not self._closing:
            self._gone.set()

    def _log_error(self, exc: Exception) -> None:
        if isinstance(exc, SlowConsumerError):
            for subscription in self._subscriptions:
                if subscription.is_on(exc.sub):
                    subscription.dropped += 1
            log.warning("a message was dropped: too slow", extra={"subject": exc.subject})
        elif isinstance(exc, CLIENT_ERRORS):
            # Four refused connections a second say nothing new.
            repeated = bool(self._lost_at) and described(exc) == self._last_trouble
            self._last_trouble = described(exc)
            log.log(
                logging.DEBUG if repeated else logging.WARNING,
                "the client reports",
                extra={"server": self.options.server, "reason": described(exc)},
            )
        else:
            log.error("a subscription's callback failed", exc_info=exc)


def _sendable(headers: Mapping[str, str] | None) -> dict[str, str] | None:
    return dict(headers) if headers else None


def _jitter(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1.0)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (exc := task.exception()) is not None:
        log.error("a task of the connection died", exc_info=exc)
