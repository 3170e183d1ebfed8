"""Checkpoints: what the whole event log was at one moment, in a few hundred bytes that can be kept elsewhere.

    leaf        digest of a message (`chain.py`), every message of the log, in the order of the stream
    tree        as in RFC 9162 (`proofs.py`); `edge` is all that is needed to go on from it
    signature   Ed25519 over frame("lucid_events/checkpoint/v1") frame(key) frame(body), in headers

Each one names the digest of the one before, proves that its tree grew from that one's, and says for every
session with a message since then how many there were and where its history stood: so what is missing
later is not only found but named. A session's own chain can't do that: a history removed as a whole
leaves nothing behind that would be broken.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec

from lucid_events.domain.ids import Digest
from lucid_events.domain.values import Count, Instant, Sha256, StreamSequence
from lucid_events.errors import ConfigError, IntegrityError
from lucid_events.evidence.bundle import Log
from lucid_events.evidence.framing import framed
from lucid_events.evidence.proofs import ProvingTree, consistent, root_of_edge
from lucid_events.evidence.signing import Signer, verify

FORMAT: Final = "lucid-checkpoint/1"
TAG: Final = "lucid_events/checkpoint/v1"
KEY, SIGNATURE = "Lucid-Key", "Lucid-Signature"

MAX_MESSAGES: Final = 50_000
"""Messages that one checkpoint may add: 3 MiB of hashes while it is made. A longer log gets several."""
MAX_SESSIONS: Final = 1000
"""Sessions that one checkpoint may name: 250 KB of the 512 KiB that every server takes."""
MAX_MISSING: Final = 1000
"""Holes in the log that one checkpoint may name; a log with more of them is not witnessed."""


class Witnessed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A session as of a checkpoint: `messages` since the last, the newest at `version` with digest `head`."""

    messages: StreamSequence
    version: StreamSequence
    head: Sha256


class Hole(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sequences from `first` to `last` that the log did not have any more when the checkpoint was made."""

    first: StreamSequence
    last: StreamSequence


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a checkpoint.

    `size` leaves, the last of them the message at `sequence`; `edge` the roots of the tree's full
    subtrees, largest first; `previous` the SHA-256 of the body before, null for the first of all;
    `consistency` the proof from that one's tree, empty where a new incarnation begins a new tree.
    """

    format: str
    number: StreamSequence
    time: Instant
    log: Log
    size: Count
    sequence: Count
    root: Sha256
    edge: tuple[Sha256, ...]
    previous: Sha256 | None
    consistency: tuple[Sha256, ...]
    missing: tuple[Hole, ...]
    sessions: dict[str, Witnessed]

    @property
    def body(self) -> bytes:
        """Its one spelling, which is what is stored, hashed and signed."""
        return msgspec.json.encode(self)

    @property
    def digest(self) -> Digest:
        """What the next one names it by."""
        return Digest(hashlib.sha256(self.body).hexdigest())


def decode_checkpoint(body: bytes) -> Checkpoint:
    """Return the checkpoint that `body` is the one spelling of, its root made from its edge.

    Raises:
        IntegrityError: it is none.
    """
    try:
        found = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise IntegrityError(f"is no checkpoint: {exc}") from exc
    if found.format != FORMAT:
        raise IntegrityError(f"has format {found.format!r}: this version reads {FORMAT}")
    if found.body != body:
        raise IntegrityError("is a checkpoint in another spelling than the one there is")
    if len(found.edge) != found.size.bit_count():
        raise IntegrityError(f"has an edge of {len(found.edge)} for {found.size} leaves")
    if root_of_edge([Digest(one) for one in found.edge]) != found.root:
        raise IntegrityError("has a root that does not follow from its edge")
    return found


def sign_checkpoint(signer: Signer | None, body: bytes) -> dict[str, str]:
    """Return the headers that go with `body`: key and signature, none without a signer."""
    if signer is None:
        return {}
    return {KEY: signer.key, SIGNATURE: signer.sign(framed(TAG, signer.key, body))}


def check_signature(headers: Mapping[str, str], body: bytes) -> bool | None:
    """Return whether the signature is that of the key it names, None when there is none."""
    key, signature = headers.get(KEY), headers.get(SIGNATURE)
    if key is None and signature is None:
        return None
    try:
        return verify(key or "", signature or "", framed(TAG, key or "", body))
    except ConfigError:  # what it names is no key at all
        return False


class CheckpointBuilder:
    """The log since a checkpoint, message by message, and the checkpoint over all of it.

    Args:
        log: which one; when its incarnation is another than the previous one's, a new tree begins.
        previous: the last checkpoint there is.
    """

    def __init__(self, log: Log, previous: Checkpoint | None) -> None:
        self._log, self._previous = log, previous
        began = previous if previous is not None and previous.log == log else None
        self.sequence = began.sequence if began else 0
        self._began = began.size if began else 0
        self._tree = ProvingTree(self._began, [Digest(one) for one in began.edge] if began else ())
        self._sessions: dict[str, Witnessed] = {}
        self._missing: list[Hole] = []

    @property
    def messages(self) -> int:
        """How many messages there were since."""
        return self._tree.size - self._began

    @property
    def full(self) -> bool:
        """Whether a checkpoint has to be made before the next message is taken."""
        return self.messages >= MAX_MESSAGES or len(self._sessions) >= MAX_SESSIONS

    def take(self, sequence: int, session: str, digest: Digest) -> None:
        """Add the next message of the log.

        Raises:
            IntegrityError: it does not come behind the last one, or the log has too many holes.
        """
        if sequence <= self.sequence:
            raise IntegrityError(f"message {sequence} came behind {self.sequence}", sequence=sequence)
        if sequence > self.sequence + 1:
            if len(self._missing) == MAX_MISSING:
                raise IntegrityError(f"the log lacks messages in more than {MAX_MISSING} places")
            self._missing.append(Hole(first=self.sequence + 1, last=sequence - 1))
        self._tree.add(digest)
        before = self._sessions.get(session)
        count = before.messages + 1 if before else 1
        self._sessions[session] = Witnessed(messages=count, version=sequence, head=digest)
        self.sequence = sequence

    def make(self, time: datetime) -> Checkpoint:
        """Return the checkpoint over everything taken so far."""
        previous = self._previous
        return Checkpoint(
            format=FORMAT,
            number=previous.number + 1 if previous else 1,
            time=time,
            log=self._log,
            size=self._tree.size,
            sequence=self.sequence,
            root=self._tree.root,
            edge=self._tree.edge,
            previous=previous.digest if previous else None,
            consistency=self._tree.consistency(self._began),
            missing=tuple(self._missing),
            sessions=self._sessions,
        )


def follows(previous: Checkpoint | None, found: Checkpoint) -> str:
    """Return what is wrong with `found` right behind `previous`, nothing when it is as it should be."""
    number = previous.number + 1 if previous else 1
    if found.number != number:
        return f"is number {found.number} where {number} belongs"
    if found.previous != (previous.digest if previous else None):
        before = previous.digest if previous else "nothing"
        return f"names {found.previous or 'nothing'} as the one before, which is {before}"
    if previous is None or previous.log != found.log:
        # The tree of a new incarnation begins anew and proves nothing here: `CheckpointCheck` compares
        # the older checkpoints with the log of now as well, so nothing is hidden by raising it.
        if previous is not None and (
            found.log.stream != previous.log.stream or found.log.incarnation <= previous.log.incarnation
        ):
            return f"is over {found.log}, the one before over {previous.log}"
        return "" if not found.consistency else "proves that its tree grew from one that is not there"
    if found.sequence <= previous.sequence or found.size <= previous.size:
        return f"ends at {found.sequence}, not behind the one before at {previous.sequence}"
    proof = [Digest(one) for one in found.consistency]
    if not consistent(Digest(previous.root), previous.size, Digest(found.root), found.size, proof):
        return "does not prove that its tree grew from that of the one before"
    return ""


_decoder = msgspec.json.Decoder(Checkpoint)
