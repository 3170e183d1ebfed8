"""Topics, partitions and keys as subjects: pure functions, no connection.

    stream  <prefix>_<topic>            subject  <prefix>.topic.<topic>.<partition>.<key>
    stream  <prefix>_<app>_state        subject  <prefix>.app.<app>.table.<topic>.<partition>.<key>
                                                 <prefix>.app.<app>.offset.<topic>.<partition>
                                                 <prefix>.app.<app>.topic.<topic>
    stream  <prefix>_<app>_group        subject  <prefix>.app.<app>.group.…

A topic or app name is one token: what a subject may not hold is written as `=XX`. A key is one
token too: `~` for none, `k` and base64url, or `h` and a digest when it is long.
"""

import binascii
import hashlib
import re
from functools import lru_cache
from typing import Final

import msgspec

from lucid_events.faust_nats.errors import Unsupported

MAX_KEY_BYTES: Final = 96
"""Longer keys travel in a header, and their digest in the subject: a subject should stay well under
the 4 KiB line that a server takes, and every distinct one costs it memory."""

NAMES: Final = 1024
"""Names whose token is remembered: every message needs that of its topic."""
NO_KEY: Final = "~"
DIGEST_CHARACTERS: Final = 40
FNV_OFFSET, FNV_PRIME = 2166136261, 16777619

_unsafe = re.compile(rb"[^A-Za-z0-9_-]")
_name = re.compile(r"[A-Za-z0-9_-]{1,32}")


def partition(key: bytes, partitions: int) -> int:
    """Return the partition of `key`, as the server's `partition()` transform has it (FNV-1a, 32 bits)."""
    digest = FNV_OFFSET
    for byte in key:
        digest = ((digest ^ byte) * FNV_PRIME) & 0xFFFFFFFF
    return digest % partitions


@lru_cache(NAMES)
def token(name: str) -> str:
    """Return `name` as one subject token; different names give different tokens."""
    return _unsafe.sub(lambda found: b"=%02X" % found[0][0], name.encode()).decode()


def key_token(key: bytes | None) -> str:
    """Return the last token of a message's subject; see `key_of` for the way back.

    Not by the module `base64`, which takes twice as long: every message passes one or the other.
    """
    if key is None:
        return NO_KEY
    if len(key) > MAX_KEY_BYTES:
        return "h" + hashlib.sha256(key).hexdigest()[:DIGEST_CHARACTERS]
    text = binascii.b2a_base64(key, newline=False).decode().rstrip("=")
    return "k" + text.replace("+", "-").replace("/", "_")


def key_of(made: str) -> bytes | None:
    """Return the key inside `made`; None for no key. A digest has none: look at the header."""
    if not made.startswith("k"):
        return None
    text = made[1:].replace("-", "+").replace("_", "/")
    return binascii.a2b_base64(text + "=" * (-len(text) % 4))


class EventLog(msgspec.Struct, frozen=True, kw_only=True):
    """An existing stream read as a topic; the driver never writes to it and never changes it.

    Each worker reads the whole of `subject` and keeps what falls into its partitions, so offsets are
    the stream's own sequences. The key is the subject's token number `key_token`, from 0.
    """

    topic: str
    stream: str
    subject: str
    key_token: int
    partitions: int

    def key(self, subject: str) -> bytes:
        """Return the key of a message on `subject`."""
        tokens = subject.split(".", self.key_token + 1)
        return tokens[self.key_token].encode() if len(tokens) > self.key_token else b""

    def partition(self, subject: str) -> int:
        """Return the partition of a message on `subject`."""
        return partition(self.key(subject), self.partitions)


class Names:
    """Every stream and subject of one app under one prefix."""

    def __init__(self, prefix: str, app: str) -> None:
        if _name.fullmatch(prefix) is None:
            raise Unsupported(
                f"prefix {prefix!r} of the broker URL is not valid: use 1 to 32 characters of A-Z a-z 0-9 _ -"
            )
        self.prefix = prefix
        self._app = token(app)
        self._own = f"{prefix}.app.{self._app}"
        self.state_stream = f"{prefix}_{self._app}_state"
        self.group_stream = f"{prefix}_{self._app}_group"
        self.group_subjects = f"{self._own}.group.>"
        self.state_subjects = [f"{self._own}.{kind}.>" for kind in ("table", "offset", "topic")]

    def stream(self, topic: str) -> str:
        """Stream of a topic that the driver keeps."""
        return f"{self.prefix}_{token(topic)}"

    def topic_subjects(self, topic: str) -> str:
        """Filter for everything in a topic."""
        return f"{self.prefix}.topic.{token(topic)}.>"

    def topic_partition(self, topic: str, number: int) -> str:
        """Filter for one partition of a topic."""
        return f"{self.prefix}.topic.{token(topic)}.{number}.*"

    def message(self, topic: str, number: int, key: bytes | None) -> str:
        """Subject of a message."""
        return f"{self.prefix}.topic.{token(topic)}.{number}.{key_token(key)}"

    def table_partition(self, topic: str, number: int) -> str:
        """Filter for one partition of a table's changelog."""
        return self.keys(topic, number) + "*"

    def table(self, topic: str) -> str:
        """Filter for all of a table's changelog."""
        return f"{self._own}.table.{token(topic)}.>"

    def keys(self, topic: str, number: int) -> str:
        """What the subjects of a changelog's partition begin with; the token of the key follows."""
        return f"{self._own}.table.{token(topic)}.{number}."

    def entry(self, topic: str, number: int, key: bytes | None) -> str:
        """Subject of one key of a table's changelog."""
        return self.keys(topic, number) + key_token(key)

    def offset(self, topic: str, number: int) -> str:
        """Subject of the committed offset of a partition."""
        return f"{self._own}.offset.{token(topic)}.{number}"

    def topic_record(self, topic: str) -> str:
        """Subject that keeps the number of partitions this app's state was written with."""
        return f"{self._own}.topic.{token(topic)}"

    def group(self, kind: str, member: str = "") -> str:
        """Subject of one record of the group; see `membership.py`."""
        return f"{self._own}.group.{kind}" + (f".{member}" if member else "")
