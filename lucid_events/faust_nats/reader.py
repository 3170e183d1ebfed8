"""Reading a stream in order, without acknowledgements: every message once, from a sequence on.

An ephemeral pull consumer delivers; its own count shows a message that went missing on the way, and
then, as after a reconnect, a silence or a lost consumer, a new one is opened behind the last message.
"""

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import nats.errors
from nats.aio.msg import Msg

from lucid_events.faust_nats.errors import DriverError, Refused, Unavailable
from lucid_events.faust_nats.link import STREAM_MISSING, Link, unsubscribe

_log = logging.getLogger(__name__)

BUFFER: Final = 1024
"""Messages read ahead. Half of it leaves the agent waiting at 10,000 events/s, twice costs memory."""
BUFFER_BYTES: Final = 16 * 1024 * 1024
EXPIRES_S: Final = 30.0
HEARTBEAT_S: Final = 5.0
SILENCE_S: Final = 2.5 * HEARTBEAT_S
INACTIVE_S: Final = 60.0
RETRY_FIRST_S, RETRY_MOST_S = 0.05, 2.0
NANOSECONDS: Final = 1_000_000_000

Take = Callable[[str, Mapping[str, str] | None, bytes, int, float], None]
"""Receives (subject, headers, body, sequence, seconds stored at) of each message, in order."""

_encode = msgspec.json.Encoder().encode


class Reader:
    """Hands every message of `stream` on filter `subject` to `take`, from sequence `first` on.

    Args:
        room: how many more messages may be handed over now; nothing is asked for without room.
    """

    def __init__(
        self, link: Link, stream: str, subject: str, *, first: int, take: Take, room: Callable[[], int]
    ) -> None:
        self._link, self._stream, self._subject = link, stream, subject
        self._take, self._room = take, room
        self.next = max(first, 1)
        self.reopened = 0
        self._asked = 0
        self._count = 0
        self._heard = asyncio.Event()
        self._wanted = asyncio.Event()
        self._broken = ""
        self._task: asyncio.Task[None] | None = None
        self._forget: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin reading, in a task that `aclose` ends."""
        self._forget = self._link.on_reconnect(lambda: self._break("reconnected"))
        self._task = asyncio.create_task(self._run(), name=f"faust-nats-read {self._subject}")

    async def aclose(self) -> None:
        """Stop reading; nothing is handed over afterwards."""
        if self._forget is not None:
            self._forget()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def failure(self) -> BaseException | None:
        """What ended the reader for good, None while it runs."""
        task = self._task
        return task.exception() if task is not None and task.done() and not task.cancelled() else None

    def more(self) -> None:
        """Tell the reader that there is room again."""
        self._wanted.set()

    async def _run(self) -> None:
        pause = RETRY_FIRST_S
        while not self._link.closed:
            began = self.next
            try:
                await self._follow()
            except Refused as exc:
                if exc.err_code == STREAM_MISSING:
                    raise
                _log.warning("reading starts again", extra={"reason": str(exc)})
            except (Unavailable, nats.errors.Error) as exc:
                _log.info("reading starts again", extra={"reason": str(exc)})
            self.reopened += 1
            pause = RETRY_FIRST_S if self.next > began else min(2 * pause, RETRY_MOST_S)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _follow(self) -> None:
        """Read until something breaks."""
        client = self._link.client
        name, inbox = f"faust_{secrets.token_hex(8)}", client.new_inbox()
        self._asked = self._count = 0
        self._broken = ""
        self._heard.clear()
        subscription = await client.subscribe(inbox, cb=self._on_message)
        api = f"CONSUMER.CREATE.{self._stream}.{name}"
        try:
            await self._link.api(api, {"stream_name": self._stream, "config": self._config(name)})
            pull = f"{self._link.options.api_prefix}.CONSUMER.MSG.NEXT.{self._stream}.{name}"
            while not self._broken:
                await self._ask(pull, inbox)
                await self._wait()
            raise Unavailable(self._broken)
        finally:
            await unsubscribe(subscription)
            if client.is_connected:
                # Not waited for: an abandoned consumer goes by itself after `INACTIVE_S`.
                delete = f"{self._link.options.api_prefix}.CONSUMER.DELETE.{self._stream}.{name}"
                await client.publish(delete, b"")

    def _config(self, name: str) -> dict[str, object]:
        return {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self.next,
            "ack_policy": "none",
            "filter_subject": self._subject,
            "max_deliver": 1,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(INACTIVE_S * NANOSECONDS),
        }

    async def _ask(self, pull: str, inbox: str) -> None:
        room = self._room()
        if self._asked > BUFFER // 4 or room - self._asked < BUFFER // 4:
            return
        batch = room - self._asked
        body = {
            "batch": batch,
            "expires": int(EXPIRES_S * NANOSECONDS),
            "idle_heartbeat": int(HEARTBEAT_S * NANOSECONDS),
            "max_bytes": BUFFER_BYTES,
        }
        self._asked += batch
        await self._link.client.publish(pull, _encode(body), reply=inbox)

    async def _wait(self) -> None:
        """Wait until more should be asked for; a silence of a pull that is out breaks the reader."""
        if not self._asked:
            self._wanted.clear()
            if self._room() < BUFFER // 4 and not self._broken:
                await self._wanted.wait()
            return
        try:
            async with asyncio.timeout(SILENCE_S):
                await self._heard.wait()
        except TimeoutError:
            self._break(f"nothing heard for {SILENCE_S:g} s")
        self._heard.clear()

    async def _on_message(self, message: Msg) -> None:
        reply = message.reply
        if not reply.startswith("$JS.ACK."):
            self._on_status(dict(message.headers or {}))
            return
        tokens = reply.split(".")
        # $JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<deliveries>.<sequence>.<count>.<time>.<pending>…
        at = 5 if len(tokens) == 9 else 7
        sequence, count = int(tokens[at]), int(tokens[at + 1])
        if self._broken:
            return
        if count != self._count + 1:
            self._break(f"message {self._count + 1} of the consumer went missing")
            return
        self._count = count
        self._asked -= 1
        self.next = sequence + 1
        try:
            stored = int(tokens[at + 2]) / NANOSECONDS
            self._take(message.subject, message.headers, message.data, sequence, stored)
        except (DriverError, ValueError) as exc:
            _log.error("a message is no record", extra={"sequence": sequence, "reason": repr(exc)})
        if self._asked <= BUFFER // 4:
            self._heard.set()

    def _on_status(self, headers: Mapping[str, str]) -> None:
        status, said = headers.get("Status", ""), headers.get("Description", "")
        self._heard.set()
        if status == "100":
            return
        left = int(headers.get("Nats-Pending-Messages") or 0)
        if status in {"404", "408"} or (status == "409" and "Batch" in said) or "MaxBytes" in said:
            self._asked = max(0, self._asked - left) if left else 0
            return
        self._break(f"{self._subject}: {status} {said}")

    def _break(self, why: str) -> None:
        self._broken = self._broken or why
        self._heard.set()
        self._wanted.set()
