"""Durable consumers: messages pulled when there is room for them, and answers the server confirms.

Two kinds of pull requests are used, both of which end without leaving anything behind at the server:
one that takes what is there now (`no_wait`), and one that waits for a single message. A larger
request that waits would go on delivering after the fetch has returned, into a queue where the ack
wait runs out unseen.
"""

import asyncio
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from lucid_events.errors import AppendUncertain, ConfigError, NotFound, StoreUnavailable
from lucid_events.jetstream.connection import Connection, Message, Subscription
from lucid_events.jetstream.faults import CONSUMER_NOT_FOUND, STREAM_NOT_FOUND
from lucid_events.ports import ConsumerLag

HEARTBEAT_S: Final = 5.0
"""A waiting pull request is heard of this often; after two silent ones it is made again."""
SHORTEST_WAIT_S: Final = 0.001
"""The server refuses to wait less."""
NOW_S: Final = 0.05
"""Bound of a request for what is there now. It is answered at once, unless `max_ack_pending` is
reached: then the server would keep it for ever, and deliver to it when nobody asks any more."""
GRACE_S: Final = 1.0
"""How much longer than asked a fetch waits for the server to end a request. Giving up early loses
nothing: what comes late is handed to the next fetch."""
RETRY_S: Final = 0.2
"""Pause after the server ended a request early (leader change, too many waiting)."""
ACK_RETRY_S: Final = 0.1
ANSWERED_S: Final = 1.0
"""How long an answer's confirmation is awaited before the server is asked what it knows of the message:
many times what a confirmation takes, and as long as a batch stands still after the server was killed."""

_ack_prefix = "$JS.ACK."
_epoch = datetime(1970, 1, 1, tzinfo=UTC)
_encode = msgspec.json.Encoder().encode


class JetStreamDelivery:
    """A message of a consumer; the server confirms every answer but `working`."""

    __slots__ = (
        "_answer_s",
        "_connection",
        "_forgotten",
        "_reply",
        "attempt",
        "data",
        "headers",
        "pending",
        "sequence",
        "stored_at",
        "subject",
    )

    def __init__(
        self,
        connection: Connection,
        message: Message,
        answer_s: float,
        forgotten: Callable[[int], Awaitable[bool]],
    ) -> None:
        # $JS.ACK.[domain.account.]stream.consumer.delivered.sequence.consumer sequence.time.pending[.random]
        tokens = message.reply.split(".")
        at = 4 if len(tokens) <= 9 else 6
        self.subject: str = message.subject
        self.headers: Mapping[str, str] = message.headers
        self.data: bytes = message.data
        self.attempt: int = int(tokens[at])
        self.sequence: int = int(tokens[at + 1])
        self.stored_at: datetime = _epoch + timedelta(microseconds=int(tokens[at + 3]) // 1000)
        self.pending: int = int(tokens[at + 4])
        self._connection = connection
        self._reply = message.reply
        self._answer_s = answer_s
        self._forgotten = forgotten

    async def ack(self) -> None:
        """Done; returns when the server knows.

        It keeps this in memory and writes it behind: after kill -9 of the server messages answered
        within its last moments come again, and their `attempt` may begin at 1 again.

        Raises:
            StoreUnavailable: not confirmed within the ack wait, or the server has forgotten that it
                delivered the message. It comes again, unless the answer was on its way and arrives
                yet: what waits for a reconnect is sent then.
            ConfigError: the consumer was deleted.
        """
        await self._answer(b"+ACK")

    async def retry(self, after_s: float) -> None:
        """Deliver again after `after_s` seconds; raises as `ack` does."""
        delay_ns = max(0, int(after_s * 1e9))
        await self._answer(b'-NAK {"delay": %d}' % delay_ns)

    async def working(self) -> None:
        """Still at it: restart the ack wait. Not confirmed: call it a few times per ack wait."""
        self._connection.publish(self._reply, b"+WPI")

    async def terminate(self, reason: str) -> None:
        """Never deliver again; raises as `ack` does."""
        await self._answer(b"+TERM " + " ".join(reason.split()).encode())

    async def _answer(self, verdict: bytes) -> None:
        # The same answer twice is harmless, so a lost confirmation is asked for again. For a message
        # that the server does not know to have delivered there is none, ever.
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._answer_s
        while True:
            try:
                left = max(deadline - loop.time(), SHORTEST_WAIT_S)
                timeout_s = min(left, self._connection.options.request_timeout_s, ANSWERED_S)
                await self._connection.request(self._reply, verdict, timeout_s=timeout_s)
                return
            except (AppendUncertain, StoreUnavailable) as exc:
                if loop.time() + ACK_RETRY_S >= deadline:
                    raise StoreUnavailable(
                        f"no confirmation of the answer to message {self.sequence} of {self.subject}: "
                        "it comes again, unless the answer arrived all the same"
                    ) from exc
            forgotten = False
            with suppress(AppendUncertain, StoreUnavailable):
                forgotten = await self._forgotten(self.sequence)
            if forgotten:
                raise StoreUnavailable(
                    f"the server was killed and does not know that it delivered message {self.sequence} of "
                    f"{self.subject}: it comes again"
                )
            await asyncio.sleep(ACK_RETRY_S * random.uniform(0.5, 1.0))


class JetStreamInbox:
    """One durable consumer, bound by `bind`; close it to leave no subscription behind."""

    def __init__(self, connection: Connection, stream: str, config: Mapping[str, Any]) -> None:
        self.name: str = config["name"]
        self.stream = stream
        self.ack_wait_s: float = config["ack_wait"] / 1e9
        self._connection = connection
        self._next = f"{connection.options.api_prefix}.CONSUMER.MSG.NEXT.{stream}.{self.name}"
        self._inbox = f"{connection.options.inbox_prefix}.{secrets.token_hex(11)}"
        self._pulls = 0
        self._arrived: deque[JetStreamDelivery] = deque()
        self._ended = ""
        self._news = asyncio.Event()
        self._one_fetch = asyncio.Lock()
        self._one_look = asyncio.Lock()
        self._looked_at = 0.0
        self._delivered = 0
        self._heard_at = 0.0
        self._more = True
        self._subscription: Subscription | None = None
        self._unhook: Callable[[], None] | None = None

    @classmethod
    async def bind(cls, connection: Connection, stream: str, name: str) -> "JetStreamInbox":
        """Bind to consumer `name` of `stream`, which must exist.

        Raises:
            ConfigError: there is no such consumer.
            StoreUnavailable: the server could not be asked.
        """
        inbox = cls(connection, stream, (await _info(connection, stream, name))["config"])
        # From here on; `close` undoes both.
        inbox._subscription = await connection.subscribe(f"{inbox._inbox}.*", inbox._receive, confirm=True)
        inbox._unhook = connection.on_reconnect(inbox._wake)
        return inbox

    async def close(self) -> None:
        """Stop receiving; what was fetched and not answered comes again after the ack wait."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()
        if self._unhook is not None:
            self._unhook()

    async def fetch(self, limit: int, *, wait_s: float) -> list[JetStreamDelivery]:
        """Return 0 to `limit` messages, waiting at most `wait_s` for the first.

        While the server is away nothing is returned. One fetch at a time: others wait their turn.

        Raises:
            ConfigError: the consumer was deleted.
            StoreUnavailable: the consumer has no leader.
        """
        loop = asyncio.get_running_loop()
        async with self._one_fetch:
            deadline = loop.time() + wait_s
            found = self._take(limit)
            while not found:
                if self._more:
                    found = await self._pull(limit, NOW_S, no_wait=True)
                left = deadline - loop.time()
                if found or left < SHORTEST_WAIT_S:
                    break
                found = await self._pull(1, left)
            if found and self._more and len(found) < limit:
                found += await self._pull(limit - len(found), NOW_S, no_wait=True)
            return found

    async def lag(self) -> ConsumerLag:
        """Return the consumer's backlog.

        Raises:
            ConfigError: the consumer was deleted.
            StoreUnavailable: the server could not be asked.
        """
        info = await _info(self._connection, self.stream, self.name)
        return ConsumerLag(
            name=self.name,
            pending=info["num_pending"],
            in_flight=info["num_ack_pending"],
            redelivered=info["num_redelivered"],
            ack_floor=info["ack_floor"]["stream_seq"],
            delivered=info["delivered"]["stream_seq"],
        )

    async def _pull(self, limit: int, wait_s: float, *, no_wait: bool = False) -> list[JetStreamDelivery]:
        """Make one pull request and return what came of it when it has ended, 0 to `limit` messages."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        self._pulls += 1
        self._ended = ""
        self._heard_at = loop.time()
        body: dict[str, Any] = {"batch": limit, "expires": int(wait_s * 1e9), "no_wait": no_wait}
        # A request queued while the server is away would be answered when nobody asks any more.
        asked = self._connection.connected
        beating = asked and wait_s > 2 * HEARTBEAT_S
        if beating:
            body["idle_heartbeat"] = int(HEARTBEAT_S * 1e9)
        if asked:
            self._connection.publish(self._next, _encode(body), reply=f"{self._inbox}.{self._pulls}")
            deadline += GRACE_S
        while len(self._arrived) < limit and not self._ended:
            left = deadline - loop.time()
            if beating:
                left = min(left, self._heard_at + 2 * HEARTBEAT_S - loop.time())
            if left <= 0:
                break
            self._news.clear()
            try:
                async with asyncio.timeout(left):
                    await self._news.wait()
            except TimeoutError:
                continue
        found = self._take(limit)
        if not found and self._ended not in ("", "404", "408", "back"):
            await self._explain(self._ended)
        return found

    def _take(self, limit: int) -> list[JetStreamDelivery]:
        found = [self._arrived.popleft() for _ in range(min(limit, len(self._arrived)))]
        if found:
            # Redelivered messages are not counted: when there are only those, they come one by one.
            self._more = found[-1].pending > 0
        return found

    async def _explain(self, status: str) -> None:
        """Raise when the consumer is gone; otherwise the request only ended early, and is made again."""
        await _info(self._connection, self.stream, self.name)
        if status == "503":
            raise StoreUnavailable(f"consumer {self.name} of {self.stream} has no leader: try again")
        await asyncio.sleep(RETRY_S)

    async def _forgotten(self, sequence: int) -> bool:
        """Return whether the server does not know that it delivered `sequence`; one look answers all."""
        asked_at = asyncio.get_running_loop().time()
        async with self._one_look:
            if self._looked_at < asked_at:
                began = asyncio.get_running_loop().time()
                self._delivered = (await self.lag()).delivered
                self._looked_at = began
            return sequence > self._delivered

    def _receive(self, message: Message) -> None:
        if message.reply.startswith(_ack_prefix):
            delivery = JetStreamDelivery(self._connection, message, self.ack_wait_s, self._forgotten)
            self._arrived.append(delivery)
        elif message.subject == f"{self._inbox}.{self._pulls}":
            self._heard_at = asyncio.get_running_loop().time()
            if message.status == "100":
                return
            self._ended = message.status
            # Nothing there, or nothing allowed now: the next request waits for a message.
            self._more = False
        self._news.set()

    def _wake(self) -> None:
        # The request went with the old connection.
        self._ended = "back"
        self._news.set()


async def _info(connection: Connection, stream: str, name: str) -> dict[str, Any]:
    try:
        return await connection.api(f"CONSUMER.INFO.{stream}.{name}")
    except (ConfigError, NotFound) as exc:
        if exc.fields.get("err_code") in (CONSUMER_NOT_FOUND, STREAM_NOT_FOUND):
            raise ConfigError(
                f"consumer {name} of stream {stream} does not exist: run `lucid deploy` to create it",
                **exc.fields,
            ) from exc
        raise
