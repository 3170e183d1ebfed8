"""Names of subjects, streams and buckets: built, parsed and checked here and nowhere else.

Everything derives from one prefix (`lucid` by default). A session id is checked before any
subject is built, so no wildcard, dot or space of a caller's ever reaches the server.
"""

import base64

from lucid_events.domain.ids import COMMAND_ID, SESSION_ID, SessionId, session_id
from lucid_events.errors import ConfigError, ContractError

FENCES = 16
"""Fence subjects per epoch. One is enough on one replica; on three, pipelined publishes that
check the same subject fail with 10164, so they go round. Twice as many cost fence writes, half
as many make pipelining of 8 collide."""

BALLAST_PARTS, BALLAST_PART_BYTES = 8, 32 * 1024
"""Room kept in capture for fences, given up a part at a time: 256 KiB in all. The sixteen fences of
an epoch take 7 KiB, 16 KiB with the longest names there are, so even half a part is enough for one.
Larger parts would let more pieces of others slip in before the fences; half as many parts would
outlast half as many of those."""
BALLAST_SHARE = 4
"""Of a store so small that the parts would be more than a quarter of it, they are a quarter."""

UNKNOWN_SESSION = "~"
"""Stands for the session in the outcome of a durable command whose subject had no valid one;
`~` can't occur in a session id."""


def ballast_part_bytes(max_bytes: int) -> int:
    """Return the size of one part of the room for fences in a stream that holds `max_bytes`."""
    return min(BALLAST_PART_BYTES, max_bytes // (BALLAST_SHARE * BALLAST_PARTS))


class Subjects:
    """Every subject, stream and bucket name for one prefix."""

    def __init__(self, prefix: str = "lucid") -> None:
        if SESSION_ID.fullmatch(prefix) is None:
            raise ConfigError(
                f"LUCID_PREFIX={prefix!r} is not valid: use 1 to 100 characters out of A-Z a-z 0-9 _ -",
                setting="LUCID_PREFIX",
            )
        self.prefix = prefix
        stem = prefix.upper().replace("-", "_")
        self.events_stream = f"{stem}_EVENTS"
        self.capture_stream = f"{stem}_CAPTURE"
        self.commands_stream = f"{stem}_COMMANDS"
        self.outcomes_stream = f"{stem}_OUTCOMES"
        self.timers_stream = f"{stem}_TIMERS"
        self.dlq_stream = f"{stem}_DLQ"
        self.advisories_stream = f"{stem}_ADVISORIES"
        self.checkpoints_stream = f"{stem}_CHECKPOINTS"
        self.chunks_bucket = f"{prefix}-chunks"
        self.meta_bucket = f"{prefix}-meta"
        self.snapshots_bucket = f"{prefix}-snapshots"

    def status_bucket(self, generation: int) -> str:
        """Bucket of the status view's `generation`."""
        return f"{self.prefix}-status-v{generation}"

    def generation_of(self, stream: str) -> int | None:
        """Return the generation whose status bucket `stream` is, None when it is something else."""
        number = stream.removeprefix(kv_stream(f"{self.prefix}-status-v"))
        return int(number) if number != stream and number.isdecimal() else None

    def status_consumer(self, generation: int) -> str:
        """Durable consumer that fills the status view's `generation`."""
        return "status" if generation == 1 else f"status-v{generation}"

    # commands

    @property
    def all_commands(self) -> str:
        """Every immediate command, malformed subjects included (they are answered too)."""
        return f"{self.prefix}.cmd.>"

    def command(self, session: str, verb: str) -> str:
        """Subject of an immediate command."""
        return f"{self.prefix}.cmd.{session_id(session)}.{verb}"

    def queued_command(self, session: str, verb: str) -> str:
        """Subject of a durable command."""
        return f"{self.prefix}.cmdq.{session_id(session)}.{verb}"

    def parse_command(self, subject: str) -> tuple[SessionId, str]:
        """Return (session, verb) of a command subject, immediate or durable.

        Raises:
            ContractError: the session id is not valid, or the subject has another shape.
        """
        head, _, rest = subject.partition(".")
        kind, _, rest = rest.partition(".")
        session, _, verb = rest.rpartition(".")
        if head != self.prefix or kind not in ("cmd", "cmdq") or not verb:
            raise ContractError(
                f"subject {subject!r} is not a command: use {self.prefix}.cmd.<session id>.<verb>",
                field="subject",
            )
        return session_id(session), verb

    def outcome(self, session: str | None, command: str) -> str:
        """Subject of a durable command's outcome."""
        token = UNKNOWN_SESSION if session is None else session_id(session)
        if COMMAND_ID.fullmatch(command) is None:
            raise ContractError(f"command id {command!r} is not valid", field="ce-id")
        return f"{self.prefix}.out.{token}.{command}"

    def letters(self, subject: str) -> str:
        """Return the stream that carries a letter's `subject`: an outcome or a dead letter.

        Raises:
            ContractError: it is neither.
        """
        tokens = subject.split(".")
        stream = {"out": self.outcomes_stream, "dlq": self.dlq_stream}.get("".join(tokens[1:2]))
        if tokens[0] != self.prefix or stream is None:
            raise ContractError(
                f"subject {subject!r} is neither an outcome nor a dead letter", field="subject"
            )
        return stream

    # history

    def event(self, session: str, type_: str) -> str:
        """Subject of an event of wire name `type_` (`chunk.ready.v1` -> `….chunk.ready`)."""
        noun, fact, _ = type_.split(".")
        return f"{self.prefix}.evt.{session_id(session)}.{noun}.{fact}"

    def history(self, session: str) -> str:
        """Filter that matches every message of one history."""
        return f"{self.prefix}.evt.{session_id(session)}.>"

    @property
    def all_events(self) -> str:
        """Filter that matches every history."""
        return f"{self.prefix}.evt.>"

    def events_of_type(self, type_: str, session: str = "*") -> str:
        """Filter for one kind of event (`chunk.ready`, with or without version), of all sessions or one."""
        noun, fact = type_.split(".")[:2]
        return f"{self.prefix}.evt.{session if session == '*' else session_id(session)}.{noun}.{fact}"

    def parse_event(self, subject: str) -> SessionId:
        """Return the session a history subject belongs to.

        Raises:
            ContractError: the subject has another shape.
        """
        tokens = subject.split(".")
        if tokens[:2] != [self.prefix, "evt"] or len(tokens) < 4:
            raise ContractError(f"subject {subject!r} is not on a history", field="subject")
        return session_id(tokens[2])

    @property
    def checkpoint(self) -> str:
        """Subject of every checkpoint of the log."""
        return f"{self.prefix}.checkpoint"

    # live feed

    def live(self, subject: str) -> str:
        """Subject under which the server republishes the event stored on `subject`."""
        return subject.replace(f"{self.prefix}.", f"{self.prefix}.live.", 1)

    def live_history(self, session: str) -> str:
        """Live feed of one session."""
        return self.live(self.history(session))

    # capture

    def capture(self, session: str, epoch: int, n: int) -> str:
        """Subject of the raw bytes of the epoch's `n`-th chunk."""
        return f"{self.prefix}.cap.{session_id(session)}.{epoch:d}.{n:d}"

    def captured_chunks(self, session: str, epoch: int) -> str:
        """Filter for all bytes of one epoch; its fences (two tokens deeper) do not match."""
        return f"{self.prefix}.cap.{session_id(session)}.{epoch:d}.*"

    def captured(self, session: str) -> str:
        """Filter for the bytes of all epochs of one session, fences left out."""
        return f"{self.prefix}.cap.{session_id(session)}.*.*"

    @property
    def all_captured(self) -> str:
        """Filter for the bytes of all sessions; fences are left out, room kept for them (`~`) is not."""
        return f"{self.prefix}.cap.*.*.*"

    def fence(self, session: str, epoch: int, k: int) -> str:
        """The `k`-th fence of an epoch; a capture publish expects it to be empty."""
        return f"{self.prefix}.cap.{session_id(session)}.{epoch:d}.fence.{k % FENCES:d}"

    @property
    def all_ballast(self) -> str:
        """Filter for the room kept for fences; `~` can't occur in a session id."""
        return f"{self.prefix}.cap.~.ballast.*"

    @property
    def ballast(self) -> tuple[str, ...]:
        """The subject of each part of that room."""
        return tuple(f"{self.prefix}.cap.~.ballast.{k:d}" for k in range(BALLAST_PARTS))

    # liveness and timers

    def beat(self, session: str, epoch: int) -> str:
        """Subject a recorder beats on."""
        return f"{self.prefix}.beat.{session_id(session)}.{epoch:d}"

    @property
    def all_beats(self) -> str:
        """Every recorder's beats."""
        return f"{self.prefix}.beat.*.*"

    def parse_beat(self, subject: str) -> tuple[SessionId, int]:
        """Return (session, epoch) of a beat's subject.

        Raises:
            ContractError: the session id is not valid, or the subject has another shape.
        """
        tokens = subject.split(".")
        if len(tokens) != 4 or tokens[:2] != [self.prefix, "beat"] or not tokens[3].isdecimal():
            raise ContractError(
                f"subject {subject!r} is not a beat: use {self.prefix}.beat.<session id>.<epoch>",
                field="subject",
            )
        return session_id(tokens[2]), int(tokens[3])

    def timer(self, session: str, name: str) -> str:
        """Subject that holds a schedule; publishing again replaces it."""
        return f"{self.prefix}.timer.{session_id(session)}.{name}"

    def due(self, session: str, name: str) -> str:
        """Subject on which the server delivers a timer when it is due."""
        return f"{self.prefix}.due.{session_id(session)}.{name}"

    @property
    def all_due(self) -> str:
        """Every due timer."""
        return f"{self.prefix}.due.>"

    def parse_due(self, subject: str) -> tuple[SessionId, str]:
        """Return (session, timer name) of a due subject.

        Raises:
            ContractError: the subject has another shape.
        """
        tokens = subject.split(".")
        if len(tokens) != 4 or tokens[:2] != [self.prefix, "due"]:
            raise ContractError(f"subject {subject!r} is not a due timer", field="subject")
        return session_id(tokens[2]), tokens[3]

    def dead_letter(self, consumer: str) -> str:
        """Subject of pointers to messages that `consumer` set aside."""
        return f"{self.prefix}.dlq.{consumer}"


# objects (NATS ADR-20)


def object_name(session: str, index: int, sha256: str) -> str:
    """Name of a stored chunk: a function of its place and content."""
    return f"{session_id(session)}/{index:08d}-{sha256[:16]}"


def object_stream(bucket: str) -> str:
    """Stream behind an object-store bucket."""
    return f"OBJ_{bucket}"


def object_pieces(bucket: str, nuid: str) -> str:
    """Subject of one object's pieces."""
    return f"$O.{bucket}.C.{nuid}"


def object_meta(bucket: str, name: str) -> str:
    """Subject of one object's metadata: URL-safe base64 of the name, padded."""
    return f"$O.{bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"


def kv_stream(bucket: str) -> str:
    """Stream behind a key-value bucket."""
    return f"KV_{bucket}"


def kv_key(bucket: str, key: str) -> str:
    """Subject of one key."""
    return f"$KV.{bucket}.{key}"


def chunk_id(session: str, index: int) -> str:
    """Public id of a chunk: `{session}-chunk-{index:06d}`."""
    return f"{session}-chunk-{index:06d}"
