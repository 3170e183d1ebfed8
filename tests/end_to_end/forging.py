"""A forger with all rights: takes a store apart, changes what they like, and puts it together again.

Every stream is read out message by message and made anew on another server without its protections;
sequences stay, times are those of the copy. That is what editing the files of a stopped server comes
to, and more than any client could do.
"""

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from lucid_events.evidence import chain
from lucid_events.jetstream.connection import Connection, connect
from lucid_events.jetstream.options import NatsOptions
from lucid_events.jetstream.pages import pages

EVENTS, OBJECTS = "LUCID_EVENTS", "OBJ_lucid-chunks"
VIEWS, META = "KV_lucid-status-v1", "KV_lucid-meta"
COPIED = (EVENTS, OBJECTS, VIEWS, META)

_NOT_KEPT = ("nats-expected-", "nats-batch-", "nats-rollup", "nats-msg-id")
"""Headers that would make the server check or remove something while the copy is made."""


@dataclass
class Message:
    """A message that can be changed."""

    subject: str
    headers: dict[str, str]
    data: bytes
    kept: bool = True

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    def write(self, value: Any) -> None:
        """Replace the body by `value`, as compact JSON like ours."""
        self.data = json.dumps(value, separators=(",", ":")).encode()

    def edit(self, **fields: Any) -> None:
        """Change fields of a JSON body."""
        self.write({**self.json, **fields})

    def flip(self, place: int, bit: int = 0) -> None:
        """Flip one bit of the body."""
        changed = bytearray(self.data)
        changed[place] ^= 1 << bit
        self.data = bytes(changed)


@dataclass
class Store:
    """A store taken apart: each stream's messages in order, the first one at sequence 1."""

    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    streams: dict[str, list[Message]] = field(default_factory=dict)

    def copy(self) -> "Store":
        """Return a copy that can be changed on its own."""
        streams = {
            name: [Message(m.subject, dict(m.headers), m.data, m.kept) for m in messages]
            for name, messages in self.streams.items()
        }
        return Store(self.configs, streams)

    # the log

    def events(self, session: str = "s1", kind: str = "") -> list[Message]:
        """Return the events of a session, of one kind (`chunk.ready`) or all, oldest first."""
        head = f"lucid.evt.{session}."
        return [
            m for m in self.streams[EVENTS] if m.kept and m.subject.startswith(head) and kind in m.subject
        ]

    def sequence(self, message: Message) -> int:
        """Return where a message of the log stands."""
        return next(place for place, one in enumerate(self.streams[EVENTS], 1) if one is message)

    def append(self, message: Message) -> Message:
        """Put a message at the end of the log."""
        self.streams[EVENTS].append(message)
        return message

    def chain(self, session: str = "s1", *, remember: bool = False) -> None:
        """Mend every link of a history, as somebody does who knows how links are made.

        With `remember`, the status view is made to agree.
        """
        head, at = "", 0
        for message in self.events(session):
            message.headers["Lucid-Prev"] = head
            head, at = chain.digest(message.subject, message.headers, message.data), self.sequence(message)
        if remember:
            view = self.view(session)
            view.edit(head=head, position={**view.json["position"], "sequence": at})

    def view(self, session: str = "s1") -> Message:
        """Return the last status view of a session."""
        named = f'"session_id":"{session}"'.encode()
        return [m for m in self.streams[VIEWS] if named in m.data and b'"position"' in m.data][-1]

    # objects

    def meta(self, index: int, session: str = "s1") -> Message:
        """Return the metadata message of a chunk's object."""
        prefix = f"{session}/{index:08d}-"
        for message in self.streams[OBJECTS]:
            if ".M." not in message.subject or not message.kept:
                continue
            if base64.urlsafe_b64decode(message.subject.rpartition(".")[2]).decode().startswith(prefix):
                return message
        raise AssertionError(prefix)

    def pieces(self, index: int, session: str = "s1") -> list[Message]:
        """Return the pieces of a chunk's object."""
        nuid = self.meta(index, session).json["nuid"]
        return [m for m in self.streams[OBJECTS] if m.kept and m.subject.endswith(f".C.{nuid}")]


async def take_apart(url: str) -> Store:
    """Return everything that stands in the streams of the server."""
    store = Store()
    async with connect(NatsOptions(servers=(url,))) as connection:
        for name in COPIED:
            info = await connection.api(f"STREAM.INFO.{name}")
            store.configs[name] = info["config"]
            last = info["state"]["last_seq"]
            found: list[Message] = []
            async for page in pages(connection, name, None, last=last, known=last):
                for message in page:
                    while len(found) + 1 < message.sequence:
                        found.append(Message("", {}, b"", kept=False))
                    found.append(Message(message.subject, dict(message.headers), message.data))
            store.streams[name] = found
    return store


async def put_together(url: str, store: Store) -> None:
    """Make the streams anew on another server; what is not kept leaves a hole at its sequence."""
    async with connect(NatsOptions(servers=(url,))) as connection:
        for name in COPIED:
            await _stream(connection, store.configs[name], store.streams[name])


async def _stream(connection: Connection, config: dict[str, Any], messages: list[Message]) -> None:
    name = config["name"]
    free = {k: v for k, v in config.items() if k not in ("republish", "max_msgs_per_subject")}
    free |= {"deny_delete": False, "deny_purge": False, "allow_direct": True}
    await connection.api(f"STREAM.CREATE.{name}", free)
    filler = config["subjects"][0].replace(">", "~.~")
    for message in messages:
        headers = {k: v for k, v in message.headers.items() if not k.lower().startswith(_NOT_KEPT)}
        ack = await connection.publish_acked(message.subject or filler, message.data, headers=headers)
        if not message.kept:
            await connection.api(f"STREAM.MSG.DELETE.{name}", {"seq": ack.sequence})
