"""One connection to a server: requests, acknowledged publishes, JetStream API calls, direct reads.

Built on nats-py's core client alone. What it adds: pipelined requests that cost little, errors
sorted by whether something may have been written, reads that notice when a part is missing, and
subscriptions that outlive the client (`link.py`). Tasks it starts end when the context does.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from nats.aio.client import Client

from lucid_events.errors import AppendUncertain, ConfigError, ContractError, NotFound, StoreUnavailable
from lucid_events.jetstream.calls import Call
from lucid_events.jetstream.faults import STREAM_NOT_FOUND, api_fault, forbidden, no_responders
from lucid_events.jetstream.link import Link
from lucid_events.jetstream.messages import (
    SEQUENCE,
    DirectPage,
    Message,
    PubAck,
    Reply,
    StoredMessage,
    from_direct,
    from_leader,
)
from lucid_events.jetstream.options import NatsOptions
from lucid_events.jetstream.replies import PageReader, read_ack, unserved
from lucid_events.jetstream.subscription import Subscription

__all__ = [
    "Connection",
    "DirectPage",
    "Message",
    "NatsOptions",
    "PubAck",
    "Reply",
    "StoredMessage",
    "Subscription",
    "connect",
]

PAGE_BYTES: Final = 16 * 1024 * 1024
"""Default bound of one page of a direct get: the server's own is 64 MB, four of which would fill
what a subscription may hold; half of this makes a 10 MiB chunk two round trips."""
PAGE_MESSAGES: Final = 1000
RETRY_FIRST_S: Final = 0.05
RETRY_MAX_S: Final = 1.0
HEADERS_SPARE: Final = 64 * 1024
"""Below max_payload by this much, headers need not be counted: a server takes no more of them."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@asynccontextmanager
async def connect(options: NatsOptions, *, wait: bool = False) -> AsyncIterator["Connection"]:
    """Connect; at the end of the context what was sent is waited for, then the connection is closed.

    Args:
        options: where and as whom.
        wait: keep trying until the server is there, instead of failing.

    Raises:
        StoreUnavailable: no server answered within `connect_timeout_s`.
        ConfigError: the server refuses the credentials, or a TLS file cannot be read.
    """
    link = Link(options)
    try:
        await link.open(wait=wait)
        yield Connection(link)
    finally:
        await link.close()


class Connection:
    """A server, as the adapters see it. Made by `connect`; safe to share between tasks."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.options = link.options
        self._timeout_s = link.options.request_timeout_s
        self._api = link.options.api_prefix

    @property
    def connected(self) -> bool:
        """Whether a server is there now, as far as is known."""
        return self._link.connected

    @property
    def max_payload(self) -> int:
        """Bytes the server takes in one message, headers included."""
        return int(self._link.client.max_payload)

    @property
    def server_version(self) -> tuple[int, int, int]:
        """The connected server's version."""
        version = self._link.client.connected_server_version
        return version.major, version.minor, version.patch

    @property
    def replacements(self) -> int:
        """How often a dead client had to be replaced."""
        return self._link.replacements

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after every reconnect, when messages may have been missed; returns how to stop."""
        return self._link.on_reconnect(callback)

    async def on_client(self, attach: Callable[[Client], Awaitable[None]]) -> Callable[[], None]:
        """Await `attach` with nats-py's client now and with each that replaces it; returns how to stop."""
        return await self._link.on_client(attach)

    async def subscribe(
        self, subject: str, callback: Callable[[Message], None], *, queue: str = "", confirm: bool = False
    ) -> Subscription:
        """Call `callback` with every message on `subject`, through reconnects, until unsubscribed.

        The callback must not block or await. With `confirm` the server knows the subscription when
        this returns, so nothing published afterwards is missed.

        Raises:
            StoreUnavailable: not connected, or not confirmed in time.
            ConfigError: confirmed that this login has no right to it.
        """
        subscription = await self._link.subscribe(subject, callback, queue=queue)
        if confirm:
            try:
                await self._link.barrier()
                if subscription.refused:
                    raise forbidden("subscribe to", subject)
            except BaseException:
                await subscription.unsubscribe()
                raise
        return subscription

    def publish(
        self, subject: str, data: bytes = b"", *, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """Send a message and forget it; it goes out in the order of calls.

        Raises:
            StoreUnavailable: too much waits to be sent already.
            ContractError: larger than the server takes.
        """
        self._check_size(subject, data, headers)
        call = Call(subject, data, headers)
        call.reply = reply
        self._link.send(call)

    def call(
        self,
        subject: str,
        data: bytes | memoryview = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> asyncio.Future[Reply]:
        """Send a request and return the future of its reply; pipelined, in the order of calls.

        A reply that says "no responders" is an ordinary result: look at `status`. The caller
        bounds how many are out, and may cancel the future. What `data` shows must not change till then.

        The future raises:
            AppendUncertain: sent, but no reply came in time or before the connection was lost.
            StoreUnavailable: never sent.

        Raises:
            StoreUnavailable: too much waits to be sent already.
            ContractError: larger than the server takes.
        """
        self._check_size(subject, data, headers)
        call = Call(subject, data, headers)
        future = self._link.calls.expect(call, self._timeout_s if timeout_s is None else timeout_s)
        try:
            self._link.send(call)
        except StoreUnavailable:
            future.cancel()
            raise
        return future

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Reply:
        """Send a request and return its reply.

        Raises:
            StoreUnavailable: nobody serves the subject, or it could not be sent.
            AppendUncertain: sent, but not answered in time.
        """
        reply = await self.call(subject, data, headers=headers, timeout_s=timeout_s)
        if unserved(reply):
            raise no_responders(subject)
        return reply

    async def publish_acked(
        self,
        subject: str,
        data: bytes | memoryview,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> PubAck:
        """Publish into a stream and return when the server says that it is stored.

        While nobody takes it (no leader, server not there) the same bytes are sent again with
        back-off, until `timeout_s`; such a message may end up behind later ones. Whatever may
        have been stored is not sent again: that is the caller's to settle. The first send happens
        in the order of calls if the coroutine is started in that order.

        Raises:
            StoreUnavailable: nothing was stored (`StoreFull`: the stream is full).
            AppendUncertain: no reply, or an earlier attempt is in flight; it may be stored.
            VersionConflict: a guard in the headers does not hold; `err_code` says which way.
            ContractError: too large.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._timeout_s if timeout_s is None else timeout_s)
        pause = RETRY_FIRST_S
        while True:
            left = max(deadline - loop.time(), 0.001)
            reply = await self.call(subject, data, headers=headers, timeout_s=left)
            if not unserved(reply):
                return read_ack(subject, reply)
            if loop.time() + pause >= deadline:
                raise no_responders(subject)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, RETRY_MAX_S)

    async def api(
        self, name: str, body: Mapping[str, Any] | bytes | None = None, *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Call the JetStream API `name` (such as `STREAM.INFO.X`) and return its answer as plain data.

        Raises:
            StoreUnavailable: nobody answered, nothing was changed.
            AppendUncertain: a call that changes something was not answered.
            ConfigError: the stream or consumer does not exist, or JetStream is off.
            NotFound: no such message.
        """
        subject = f"{self._api}.{name}"
        payload = b"" if body is None else body if isinstance(body, bytes) else _encode(body)
        try:
            reply = await self.request(subject, payload, timeout_s=timeout_s)
        except AppendUncertain as exc:
            if _only_reads(name):
                raise StoreUnavailable(f"{subject} was not answered: try again") from exc
            raise
        try:
            answer = _decode(reply.data)
        except msgspec.DecodeError as exc:
            raise StoreUnavailable(f"{subject} was answered with something else than JSON") from exc
        if answer.get("error"):
            raise api_fault(answer["error"], name)
        return answer  # type: ignore[no-any-return]  # the API answers with an object

    async def stream_info(self, name: str) -> dict[str, Any] | None:
        """Return configuration and state of the stream `name`, None when there is no such stream.

        Raises:
            StoreUnavailable: the server could not be asked.
            ConfigError: JetStream is off, or this login has no right to ask.
        """
        try:
            return await self.api(f"STREAM.INFO.{name}")
        except ConfigError as exc:
            if exc.fields.get("err_code") != STREAM_NOT_FOUND:
                raise
            return None

    async def direct_get(
        self, stream: str, body: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> DirectPage:
        """Return one page of a batched direct get, whole or not at all.

        A replica may answer: compare `last_sequence` with what must be visible, or ask the leader.

        Args:
            stream: its `allow_direct` must be on.
            body: as NATS ADR-31 has it (`seq`, `next_by_subj`, `multi_last`, …); `batch` and
                `max_bytes` are filled in when absent. `up_to_seq` only counts with `multi_last`.
            timeout_s: longest silence between two messages.

        Raises:
            StoreUnavailable: not answered, or a part of the page was lost on the way.
            ContractError: the server refuses the request.
        """
        subject = f"{self._api}.DIRECT.GET.{stream}"
        asked = {"max_bytes": PAGE_BYTES, **body}
        if "batch" not in asked and "multi_last" not in asked:
            asked["batch"] = PAGE_MESSAGES
        page = PageReader(subject)
        call = Call(subject, _encode(asked), None)
        wait_s = self._timeout_s if timeout_s is None else timeout_s
        future = self._link.calls.expect(call, wait_s, page.take)
        try:
            self._link.send(call)
            return page.read(await future)
        except AppendUncertain as exc:
            raise StoreUnavailable(f"{subject} was not answered to the end: try again") from exc
        finally:
            future.cancel()

    async def direct_last(
        self, stream: str, subject: str, *, timeout_s: float | None = None
    ) -> StoredMessage | None:
        """Return the last message on `subject` (no wildcards), possibly as a replica knows it."""
        asked = f"{self._api}.DIRECT.GET.{stream}.{subject}"
        try:
            reply = await self.request(asked, timeout_s=timeout_s)
        except AppendUncertain as exc:
            raise StoreUnavailable(f"{asked} was not answered: try again") from exc
        if SEQUENCE in reply.headers:
            return from_direct(reply)
        if reply.status == "404":
            return None
        raise StoreUnavailable(f"{asked} was answered with status {reply.status}: try again")

    async def leader_get(
        self,
        stream: str,
        *,
        seq: int | None = None,
        last_by_subj: str | None = None,
        next_by_subj: str | None = None,
        timeout_s: float | None = None,
    ) -> StoredMessage | None:
        """Return a message as the stream's leader knows it, None when there is none.

        One of: `seq`; the last one on filter `last_by_subj`; the first one on filter
        `next_by_subj` from `seq` on. Wildcards are allowed in both filters.
        """
        asked = {"seq": seq, "last_by_subj": last_by_subj, "next_by_subj": next_by_subj}
        body = {name: value for name, value in asked.items() if value is not None}
        try:
            answer = await self.api(f"STREAM.MSG.GET.{stream}", body, timeout_s=timeout_s)
        except NotFound:
            return None
        return from_leader(answer["message"])

    async def barrier(self) -> None:
        """Return when the server has processed everything sent and subscribed before the call.

        Raises:
            StoreUnavailable: no answer within the request timeout.
        """
        await self._link.barrier()

    def _check_size(self, subject: str, data: bytes | memoryview, headers: Mapping[str, str] | None) -> None:
        # The server counts headers, nats-py does not, and the server hangs up on what is too large.
        limit = self._link.client.max_payload
        size = len(data)
        if headers and size + HEADERS_SPARE > limit:
            size += 12 + sum(len(k.encode()) + len(v.encode()) + 4 for k, v in headers.items())
        if size > limit:
            raise ContractError(
                f"{subject}: {size} bytes with headers, the server takes {limit}", field="body"
            )


def _only_reads(name: str) -> bool:
    kind, _, rest = name.partition(".")
    return kind == "INFO" or rest.startswith(("INFO", "NAMES", "LIST", "MSG.GET"))
