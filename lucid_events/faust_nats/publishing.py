"""Messages on their way into streams: each is sent again until the server says that it is stored.

Under one message id, so that the stream keeps one of them. What is sent again may end up behind what
was sent after it: who needs an order waits for the answer in between.
"""

import asyncio
import logging
import secrets
from collections.abc import Mapping
from typing import Final

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from lucid_events.faust_nats.errors import Refused, Unavailable
from lucid_events.faust_nats.protocol import MSG_ID

_log = logging.getLogger(__name__)

ATTEMPT_S: Final = 5.0
"""How long one attempt of a publish may go unanswered before it is sent again."""
GIVE_UP_S: Final = 120.0
"""How long a publish is tried: a restart of the server takes seconds, a failed one a minute."""
SWEEP_S: Final = 0.5
"""Between two looks at what is unanswered, and before something refused for now is sent again."""
OUTSTANDING: Final = 2048
"""Most publishes in flight: with half as many the rate is the same, twice as many wait at the server."""
NO_LEADER: Final = 10008
STILL_STORING: Final = 10158
"""An earlier attempt under this id has not reached the replicas yet."""
TOO_MANY_WAITING: Final = 10167
LATER: Final = frozenset({NO_LEADER, STILL_STORING, TOO_MANY_WAITING})
"""Error codes of refusals that say "not now": the same message is taken a little later."""


class _ApiError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class Ack(msgspec.Struct):
    """The server's word that a message, or a batch of `count`, is stored; `seq` is the last one's."""

    seq: int = 0
    count: int = 1
    error: _ApiError | None = None


class _Pending(msgspec.Struct):
    future: asyncio.Future[Ack]
    subject: str
    data: bytes
    headers: dict[str, str]
    give_up_at: float
    again_at: float


read_ack = msgspec.json.Decoder(Ack).decode


class Publisher:
    """What was sent over one connection and not answered; `open` it with the client, `close` it last."""

    def __init__(self) -> None:
        self._client: Client | None = None
        self._pending: dict[str, _Pending] = {}
        self._numbers = 0
        self._inbox = ""
        self._room = asyncio.Event()
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def outstanding(self) -> int:
        """Publishes without an answer."""
        return len(self._pending)

    @property
    def cut_off(self) -> bool:
        """Whether somebody cancels the loop's tasks, ours among them, although nobody closed this."""
        sweeping = self._sweeping
        # Not `done()`: one that failed is no reason to end whatever else runs in this loop.
        return sweeping is not None and (sweeping.cancelled() or sweeping.cancelling() > 0)

    async def open(self, client: Client) -> None:
        """Send over `client` from now on."""
        self._client = client
        self._inbox = client.new_inbox()
        await client.subscribe(f"{self._inbox}.*", cb=self._on_ack)
        self._sweeping = asyncio.create_task(self._sweep(), name="faust-nats-publishes")

    async def close(self) -> None:
        """Send nothing more; publishes still unanswered fail as unavailable."""
        self._client = None
        sweeping, self._sweeping = self._sweeping, None
        if sweeping is not None:
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)
        for number, pending in tuple(self._pending.items()):
            self._fail(number, Unavailable(f"{pending.subject}: the connection was closed"))

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str]) -> asyncio.Future[Ack]:
        """Send a message into a stream; the future tells when it is stored.

        Sent again under its message id until it is answered; without one it gets a random id. The
        future raises `Refused` or, after `GIVE_UP_S`, or when its answer can't be read, `Unavailable` (then
        it may have been stored).

        Raises:
            Unavailable: the connection is not open.
        """
        loop = asyncio.get_running_loop()
        while self._client is not None and len(self._pending) >= OUTSTANDING:
            self._room.clear()
            await self._room.wait()
        if self._client is None:
            raise Unavailable("the connection is not open: start the app first")
        made = dict(headers)
        made.setdefault(MSG_ID, secrets.token_hex(12))
        now = loop.time()
        pending = _Pending(loop.create_future(), subject, data, made, now + GIVE_UP_S, now + ATTEMPT_S)
        self._numbers += 1
        number = str(self._numbers)
        self._pending[number] = pending
        await self._send(self._client, number, pending)
        return pending.future

    async def _send(self, client: Client, number: str, pending: _Pending) -> None:
        try:
            await client.publish(
                pending.subject, pending.data, reply=f"{self._inbox}.{number}", headers=pending.headers
            )
        except nats.errors.MaxPayloadError as exc:
            self._fail(number, Refused(f"{pending.subject}: {len(pending.data)} bytes are too many: {exc}"))
        except nats.errors.Error as exc:
            _log.debug("a publish waits for the connection", extra={"reason": repr(exc)})
            pending.again_at = asyncio.get_running_loop().time() + SWEEP_S
        except Exception as exc:  # noqa: BLE001 - of this message: the others are still sent again
            _log.exception("a publish can't be sent", extra={"subject": pending.subject})
            failed = Unavailable(f"{pending.subject}: can't be sent: {exc!r}")
            failed.__cause__ = exc
            self._fail(number, failed)

    def _fail(self, number: str, exc: Exception) -> None:
        pending = self._pending.pop(number, None)
        self._room.set()
        if pending is not None and not pending.future.done():
            pending.future.set_exception(exc)

    async def _on_ack(self, message: Msg) -> None:
        number = message.subject.rpartition(".")[2]
        pending = self._pending.get(number)
        if pending is None:
            return
        if message.headers and "Status" in message.headers:
            pending.again_at = asyncio.get_running_loop().time() + SWEEP_S
            return
        try:
            ack = read_ack(message.data)
        except msgspec.DecodeError as exc:
            _log.exception("the answer to a publish can't be read", extra={"subject": pending.subject})
            failed = Unavailable(
                f"{pending.subject}: answered with what is no word of a stream ({exc}): is something else "
                "subscribed that replies? It may be stored"
            )
            failed.__cause__ = exc
            self._fail(number, failed)
            return
        if ack.error is not None and ack.error.err_code in LATER:
            pending.again_at = asyncio.get_running_loop().time() + SWEEP_S
            return
        if ack.error is not None:
            self._fail(number, Refused(f"{pending.subject}: {ack.error.description}", ack.error.err_code))
            return
        del self._pending[number]
        self._room.set()
        if not pending.future.done():
            pending.future.set_result(ack)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            now = loop.time()
            late = [(number, pending) for number, pending in self._pending.items() if pending.again_at <= now]
            for number, pending in late:
                client = self._client
                if client is None:
                    return
                if now >= pending.give_up_at:
                    self._fail(number, Unavailable(f"{pending.subject}: not stored within {GIVE_UP_S:g} s"))
                    continue
                pending.again_at = now + ATTEMPT_S
                await self._send(client, number, pending)
