"""nats-py's client with a shorter way out: large messages are not copied, header names are judged once.

nats-py puts head, headers, bytes and line end of a message together by adding them up, which copies a
piece of 1.5 MB twice before the socket copies it once more; that is most of what sending a piece costs.
Here they go to the transport side by side, as they are. What arrives is the same, byte for byte.

The method replaced is one of nats-py's inner ones. Should it rename it, its own takes over again and
only time is lost; `tests/integration/test_outgoing.py` compares both ways.
"""

import re
from functools import lru_cache
from typing import Any, Final

from nats.errors import BadHeaderError, BadSubjectError

from lucid_events.jetstream.sockets import TidyClient

NAMES: Final = 1024
"""Names whose judgement is remembered."""
APART_BYTES: Final = 16 * 1024
"""From here on a copy costs more than two more entries in the list of what is to be written."""

_LINE: Final = b"\r\n"
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NO_LINES: Final = str.maketrans({"\r": " ", "\n": " "})


class OutgoingClient(TidyClient):
    """A client that writes messages without putting them together first."""

    async def _send_publish(
        self, subject: str, reply: str, payload: bytes, payload_size: int, headers: dict[str, Any] | None
    ) -> None:
        if subject == "":
            raise BadSubjectError
        if headers is None:
            head = f"PUB {subject} {reply} {payload_size}\r\n".encode()
        else:
            block = encoded(headers)
            size = len(block)
            head = f"HPUB {subject} {reply} {size} {size + payload_size}\r\n".encode() + block
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += payload_size
        # Without a pause between them, or something else could get between the parts of a message.
        if payload_size < APART_BYTES:
            self._pending.append(b"".join((head, payload, _LINE)))
        else:
            self._pending += (head, payload, _LINE)
        self._pending_data_size += len(head) + payload_size + len(_LINE)
        if 0 < self._max_pending_size < self._pending_data_size:
            await self._flush_pending(force_flush=True)
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()


def encoded(headers: dict[str, Any]) -> bytes:
    """Return the block of `headers` as nats-py writes it.

    Raises:
        BadHeaderError: a name that a header can't have.
    """
    lines = ["NATS/1.0"]
    for name, value in headers.items():
        known = _name(name)
        if known:
            said = value.strip()
            if "\r" in said or "\n" in said:
                said = said.translate(_NO_LINES)
            lines.append(f"{known}: {said}")
    return "\r\n".join((*lines, "", "")).encode()


@lru_cache(NAMES)
def _name(name: str) -> str:
    """Return the name as it is sent, nothing when it is left out."""
    known = name.strip()
    if known and not _NAME.fullmatch(known):
        raise BadHeaderError(known)
    return known
