"""One connection to the server: JetStream API calls, acknowledged publishes, bulk reads, atomic batches.

Built on nats-py's core client. A publish that was not answered is sent again (`publishing.py`); a
batch is not: whether it was stored is the caller's to find out (`ledger.py`).
"""

import asyncio
import base64
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec
import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from lucid_events.faust_nats.errors import CommitInDoubt, Refused, Unavailable, Unsupported
from lucid_events.faust_nats.options import Options
from lucid_events.faust_nats.publishing import Ack, Publisher, read_ack

_log = logging.getLogger(__name__)

OLDEST: Final = (2, 12, 0)
"""The first server with atomic batches."""

CONNECT_S: Final = 10.0
REQUEST_S: Final = 10.0
PAGE_MESSAGES, PAGE_BYTES = 4096, 8 * 1024 * 1024
PAGE_SILENCE_S: Final = 10.0

STREAM_EXISTS, NO_MESSAGE, STREAM_MISSING = 10058, 10037, 10059
WRONG_SEQUENCE: Final = frozenset({10071, 10164})

BATCH_ID, BATCH_SEQUENCE, BATCH_COMMIT = "Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit"
MAX_BATCH: Final = 1000

_encode = msgspec.json.Encoder().encode


class Stored(NamedTuple):
    """A message as it stands in a stream."""

    subject: str
    sequence: int
    headers: Mapping[str, str]
    data: bytes


class Outgoing(NamedTuple):
    """A message of a batch."""

    subject: str
    data: bytes
    headers: Mapping[str, str]


class Link:
    """A connection; `open` it first, `close` it last. What it starts ends with it."""

    def __init__(self, options: Options, name: str) -> None:
        self.options = options
        self._name = name
        self._client: Client | None = None
        self._publisher = Publisher()
        self._reconnected: list[Callable[[], None]] = []
        self.closed = False

    @property
    def client(self) -> Client:
        """nats-py's client.

        Raises:
            Unavailable: the link is not open.
        """
        if self._client is None:
            raise Unavailable("the connection is not open: start the app first")
        return self._client

    @property
    def outstanding(self) -> int:
        """Publishes without an answer."""
        return self._publisher.outstanding

    @property
    def cut_off(self) -> bool:
        """Whether somebody else ended what the connection runs on: no answer will come any more."""
        return self._publisher.cut_off

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after every reconnect; returns how to stop that."""
        self._reconnected.append(callback)
        return lambda: self._reconnected.remove(callback) if callback in self._reconnected else None

    async def open(self) -> None:
        """Connect, and refuse a server that can't keep the driver's promises.

        Raises:
            Unavailable: no server answers.
            Unsupported: it is older than 2.12, or has no JetStream.
        """
        where = ", ".join(self.options.servers)
        self.closed = False
        try:
            async with asyncio.timeout(CONNECT_S):
                self._client = await nats.connect(
                    **self.options.connect(self._name),
                    allow_reconnect=True,
                    error_cb=self._on_error,
                    reconnected_cb=self._on_reconnected,
                )
        except (TimeoutError, OSError, nats.errors.Error) as exc:
            raise Unavailable(f"no NATS server answers at {where}: {exc!r}") from exc
        version = self._client.connected_server_version
        release = (version.major, version.minor, version.patch)
        if release < OLDEST:
            await self._client.close()
            said = ".".join(map(str, release))
            raise Unsupported(
                f"the server at {where} is {said}: the driver needs 2.12 or later (atomic batches)"
            )
        await self._publisher.open(self._client)
        try:
            await self.api("INFO")
        except (Refused, Unavailable) as exc:
            await self.close()
            raise Unsupported(f"JetStream is not available at {where}: {exc}") from exc

    async def close(self) -> None:
        """Close the connection; publishes still unanswered fail as unavailable, and readers end."""
        self.closed = True
        await self._publisher.close()
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def request(
        self,
        subject: str,
        data: bytes,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = REQUEST_S,
    ) -> Msg:
        """Return the reply to a request.

        Raises:
            Unavailable: nobody serves the subject, or no answer came in time.
        """
        try:
            return await self._ask(subject, data, dict(headers) if headers else None, timeout_s)
        except (TimeoutError, nats.errors.Error) as exc:
            raise Unavailable(f"{subject} was not answered: {exc!r}") from exc

    async def _ask(self, subject: str, data: bytes, headers: dict[str, str] | None, timeout_s: float) -> Msg:
        """Return the reply to a request, unless the task was cancelled meanwhile.

        nats-py waits with `asyncio.wait_for`, which before Python 3.12 returns a reply that comes together
        with the cancellation: the task would never learn of it, and who waits for its end would for ever.
        """
        task = asyncio.current_task()
        before = task.cancelling() if task is not None else 0
        reply = await self.client.request(subject, data, timeout=timeout_s, headers=headers)
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError
        return reply

    async def api(self, name: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call the JetStream API `name` (`STREAM.INFO.X`) and return its answer.

        Raises:
            Refused: the server refuses; `err_code` says why.
            Unavailable: no answer.
        """
        subject = f"{self.options.api_prefix}.{name}"
        reply = await self.request(subject, _encode(body) if body is not None else b"")
        answer: dict[str, Any] = msgspec.json.decode(reply.data)
        if error := answer.get("error"):
            raise Refused(f"{name}: {error.get('description')}", int(error.get("err_code", 0)))
        return answer

    async def last(self, stream: str, subject: str) -> Stored | None:
        """Return the last message on filter `subject` as the leader knows it, without its headers."""
        return await self._get(stream, {"last_by_subj": subject})

    async def first(self, stream: str, subject: str) -> Stored | None:
        """Return the first message on filter `subject` as the leader knows it, without its headers."""
        return await self._get(stream, {"seq": 1, "next_by_subj": subject})

    async def _get(self, stream: str, body: Mapping[str, Any]) -> Stored | None:
        try:
            found = (await self.api(f"STREAM.MSG.GET.{stream}", body))["message"]
        except Refused as exc:
            if exc.err_code == NO_MESSAGE:
                return None
            raise
        data = base64.b64decode(found.get("data") or "")
        return Stored(found["subject"], int(found["seq"]), {}, data)

    async def pages(self, stream: str, body: Mapping[str, Any]) -> AsyncIterator[list[Msg]]:
        """Yield what a batched direct get finds, page by page; a replica may answer, which may lag.

        Raises:
            Unavailable: not answered to the end; what was yielded is right.
        """
        subject = f"{self.options.api_prefix}.DIRECT.GET.{stream}"
        asked = {"batch": PAGE_MESSAGES, "max_bytes": PAGE_BYTES, **body}
        if "multi_last" in asked:
            asked.pop("batch")
        page: list[Msg] = []
        arrived = asyncio.Event()
        ended: list[Msg] = []

        async def take(message: Msg) -> None:
            if message.headers and "Status" in message.headers and "Nats-Sequence" not in message.headers:
                ended.append(message)
            else:
                page.append(message)
            arrived.set()

        inbox = self.client.new_inbox()
        subscription = await self.client.subscribe(inbox, cb=take)
        try:
            while True:
                await self.client.publish(subject, _encode(asked), reply=inbox)
                while not ended:
                    try:
                        async with asyncio.timeout(PAGE_SILENCE_S):
                            await arrived.wait()
                    except TimeoutError as exc:
                        raise Unavailable(f"{subject} was not answered to the end") from exc
                    arrived.clear()
                end = dict(ended.pop().headers or {})
                if end["Status"] not in {"204", "404"}:
                    raise Unavailable(f"{subject}: status {end['Status']} {end.get('Description', '')}")
                got, page = page, []
                if got:
                    yield got
                if end["Status"] == "404" or int(end.get("Nats-Num-Pending", "0")) == 0:
                    return
                asked = {**asked, "seq": int(end["Nats-Last-Sequence"]) + 1}
        finally:
            await unsubscribe(subscription)

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str]) -> asyncio.Future[Ack]:
        """Send a message into a stream; the future tells when it is stored, as `Publisher.publish` has it."""
        return await self._publisher.publish(subject, data, headers)

    async def batch(self, messages: Sequence[Outgoing], timeout_s: float = REQUEST_S) -> Ack:
        """Store `messages` of one stream in order and without a gap, all of them or none.

        Raises:
            Refused: none was stored; `err_code` says why.
            CommitInDoubt: no answer: it may be stored.
            Unavailable: not connected; none was stored.
        """
        if not 1 <= len(messages) <= MAX_BATCH:
            raise Refused(f"a batch of {len(messages)} messages: send 1 to {MAX_BATCH}")
        client, identity = self.client, secrets.token_hex(11)
        if not client.is_connected:
            raise Unavailable("not connected")
        *early, last = messages
        try:
            for number, (subject, data, headers) in enumerate(early, 1):
                made = {**headers, BATCH_ID: identity, BATCH_SEQUENCE: str(number)}
                await client.publish(subject, data, headers=made)
            made = {**last.headers, BATCH_ID: identity, BATCH_SEQUENCE: str(len(messages)), BATCH_COMMIT: "1"}
            reply = await self._ask(last.subject, last.data, made, timeout_s)
        except (TimeoutError, nats.errors.Error) as exc:
            raise CommitInDoubt(f"a batch of {len(messages)} was not answered: {exc!r}") from exc
        try:
            ack = read_ack(reply.data)
        except msgspec.DecodeError as exc:
            raise CommitInDoubt(f"the answer to a batch of {len(messages)} can't be read: {exc}") from exc
        if ack.error is not None:
            raise Refused(ack.error.description, ack.error.err_code)
        if ack.count != len(messages):
            raise Unsupported(f"the server stored {ack.count} of a batch of {len(messages)}: it is too old")
        return ack

    async def _on_error(self, exc: Exception) -> None:
        _log.debug("connection trouble", extra={"reason": repr(exc)})

    async def _on_reconnected(self) -> None:
        for callback in tuple(self._reconnected):
            callback()


async def unsubscribe(subscription: Subscription) -> None:
    """Unsubscribe; a connection that is gone has forgotten the subscription anyway."""
    with suppress(nats.errors.Error):
        await subscription.unsubscribe()
