"""A message of a topic on the wire: headers and body to a record and back.

Faust-Null     1          the value is None (an empty body alone is b"")
Faust-Ts       seconds    timestamp the sender gave; else the server's time of storing counts
Faust-Key      base64     the key, when the subject holds only its digest
Faust-Headers  JSON       the user's headers, [[name, base64 of value], …], in order
"""

import base64
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from lucid_events.faust_nats.topology import MAX_KEY_BYTES, key_of

NULL, TIMESTAMP, KEY, USER = "Faust-Null", "Faust-Ts", "Faust-Key", "Faust-Headers"
MSG_ID: Final = "Nats-Msg-Id"
EXPECT: Final = "Nats-Expected-Last-Subject-Sequence"
TTL: Final = "Nats-TTL"
TIMESTAMP_KIND: Final = 1

_encode = msgspec.json.Encoder().encode
_decode_pairs = msgspec.json.Decoder(list[tuple[str, str]]).decode


class Record(msgspec.Struct, gc=False):
    """A message as read: `offset` is the stream's sequence, `timestamp` is in seconds."""

    offset: int
    timestamp: float
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] | None


def headers_for(
    key: bytes | None,
    value: bytes | None,
    timestamp: float | None = None,
    headers: Mapping[str, bytes] | Iterable[tuple[str, bytes]] | None = None,
) -> dict[str, str]:
    """Return the headers of a message; empty for an ordinary one."""
    made: dict[str, str] = {}
    if value is None:
        made[NULL] = "1"
    if timestamp is not None:
        made[TIMESTAMP] = repr(float(timestamp))
    if key is not None and len(key) > MAX_KEY_BYTES:
        made[KEY] = base64.b64encode(key).decode()
    if headers:
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        coded = [[str(name), base64.b64encode(_as_bytes(part)).decode()] for name, part in pairs]
        made[USER] = _encode(coded).decode()
    return made


def read(subject: str, headers: Mapping[str, str] | None, data: bytes, offset: int, stored: float) -> Record:
    """Return the record of a message on a topic or a changelog of the driver's."""
    made = subject.rpartition(".")[2]
    if not headers:
        return Record(offset, stored, key_of(made), data, None)
    key = base64.b64decode(headers[KEY]) if KEY in headers else key_of(made)
    value = None if NULL in headers else data
    timestamp = float(headers[TIMESTAMP]) if TIMESTAMP in headers else stored
    user = None
    if USER in headers:
        user = [(name, base64.b64decode(part)) for name, part in _decode_pairs(headers[USER])]
    return Record(offset, timestamp, key, value, user)


def read_foreign(
    key: bytes, headers: Mapping[str, str] | None, data: bytes, offset: int, stored: float
) -> Record:
    """Return the record of a message in a stream that is not the driver's: its headers are the user's."""
    user = [(name, part.encode()) for name, part in headers.items()] if headers else None
    return Record(offset, stored, key, data, user)


def _as_bytes(part: Any) -> bytes:
    return part if isinstance(part, bytes) else str(part).encode()
