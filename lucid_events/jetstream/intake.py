"""nats-py's client with a shorter way in: what arrives is parsed quicker and handed over at once.

nats-py looks at every character of every header's name and passes each message through a queue to
a task of its subscription; for an event with twenty headers that is most of the cost of receiving
it. Here each name is judged once, and a subscription may have its messages handed to a plain
function while they are read. Nothing is queued then, so nothing is dropped for being slow: a busy
process stops reading, and the server waits.

    bytes ─ parser ─ _process_msg ─┬─ taken: parse headers, call the function
                                   └─ all others: nats-py's own way

The two methods replaced are nats-py's inner ones. Should it rename them, its own take over again
and only time is lost; `tests/integration/test_intake.py` compares both ways.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from nats.aio.subscription import Subscription as ClientSubscription

from lucid_events.jetstream.incoming import BulkParser
from lucid_events.jetstream.layouts import Layouts
from lucid_events.jetstream.messages import NO_HEADERS, Message
from lucid_events.jetstream.outgoing import OutgoingClient
from lucid_events.jetstream.transport import BlockTransport

NAMES: Final = 1024
"""Names whose judgement is remembered: a hundred times what we use, and a bound for strangers'."""

_STATUS_LINE: Final = len(b"NATS/1.0")
_END_OF_LINE: Final = ord("\r")
_BLANK: Final = " \t\n\r\v\f"
"""What `bytes.strip` takes off, which is less than `str.strip` does."""


class IntakeClient(OutgoingClient):
    """A client that hands messages of chosen subscriptions to plain functions."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = self._parser = BulkParser(self)
        self._takers: dict[int, Callable[[Message], None]] = {}
        self._layouts = Layouts(self._parse_header_lines)

    async def _connect_to_server(self, s: Any) -> None:
        if not self._transport and s.uri.scheme not in ("ws", "wss"):
            self._transport = BlockTransport(self._parser)
        # nats-py does so when the server has spoken; by then it would have filled what was left half way.
        self._ps.reset()
        await super()._connect_to_server(s)

    def hand_over(self, subscription: ClientSubscription, take: Callable[[Message], None]) -> None:
        """Call `take` with each message of `subscription` from now on; it must not block."""
        self._takers[subscription._id] = take

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._takers.pop(sid, None)
        super()._remove_sub(sid, max_msgs)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        take = self._takers.get(sid)
        if take is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        found: Any = NO_HEADERS
        if headers:
            if headers[_STATUS_LINE] == _END_OF_LINE:
                found = self._layouts.read(headers[_STATUS_LINE + 2 :])
            else:
                found = await self._process_headers(headers) or NO_HEADERS
        try:
            take(Message(subject.decode(), found, data, reply.decode()))
        except Exception as exc:  # noqa: BLE001 # a bug in one function must not end reading for all of them
            await self._error_cb(exc)

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        found = {}
        for line in raw.decode("utf-8", "replace").split("\r\n"):
            name, separator, value = line.partition(":")
            if separator and (known := _name(name)) is not None:
                found[known] = value.strip(_BLANK)
        return found


@lru_cache(NAMES)
def _name(text: str) -> str | None:
    """Return the name of a header, None when it is none: not ASCII, or with a blank inside."""
    name = text.strip(_BLANK)
    return name if name.isascii() and not any(character.isspace() for character in name) else None
