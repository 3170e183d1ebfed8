"""`lucid audit verify bundle.tar`: an audit bundle checked from its bytes alone, no server, no settings.

    form       every byte that has one right value has it          evidence/bundle_tar.py, bundle.py
    history    links, transitions, manifests, signatures           evidence/histories.py, as online
    chunks     stored bytes, what they restore to, their proofs    evidence/bundle_contents.py

The first thing that does not hold ends the check and is named with its offset in the file. Read once, from
the front to the back; memory: a line, a piece of a chunk, and about 500 bytes for each chunk there is.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec

from lucid_events.compression.streams import decompress_stream
from lucid_events.domain.ids import SESSION_ID, Digest, SessionId
from lucid_events.domain.state import Erasure
from lucid_events.domain.transitions import State
from lucid_events.domain.values import Manifest
from lucid_events.errors import ConfigError, ContractError, IntegrityError
from lucid_events.evidence import bundle, chain
from lucid_events.evidence.bundle import Description, Excerpt, Line, Proof
from lucid_events.evidence.bundle_contents import Contents, ReadyChunk
from lucid_events.evidence.bundle_tar import TarReader
from lucid_events.evidence.checkpoint import Checkpoint, Witnessed
from lucid_events.evidence.differences import Remark
from lucid_events.evidence.histories import HistoryCheck, Signed
from lucid_events.evidence.keys import KeyList
from lucid_events.jetstream.connection import StoredMessage
from lucid_events.service.exporting import take

T = TypeVar("T")

Progress = Callable[[int], None]
"""Told how many more bytes of the file have been checked."""


class BundleReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle that holds proves: the session as of `version`, and the chunks that are in it."""

    path: str
    session: SessionId
    holds: bool
    state: State | None
    version: int
    head: str | None
    events: int
    strays: int
    chunks: Excerpt
    raw_bytes: int
    stored_bytes: int
    erasure: Erasure | None
    """The last cleanup that the history tells of: chunks from before it can't be in the bundle."""
    unproven: int
    """Chunks in the bundle that no manifest covers: the session was not stopped since."""
    signature: Signed
    checkpoint: int | None
    """Number of the checkpoint that was given and has seen this session; None: none was, or it has not."""
    remarks: tuple[Remark, ...]


def verify_bundle(
    path: Path,
    *,
    keys: KeyList | None = None,
    require_signature: bool = False,
    allow_strays: bool = False,
    checkpoint: Checkpoint | None = None,
    progress: Progress = lambda _: None,
) -> BundleReport:
    """Check everything the bundle at `path` says, and return what that is.

    Args:
        path: a regular file.
        keys: whose signatures are believed; None: nobody's in particular.
        require_signature: a bundle without a trusted signature does not hold, an open session's neither:
            it may be of one that was cut off before its manifest, or made up.
        allow_strays: messages that are no events are remarks; otherwise the first one is refused.
        checkpoint: kept elsewhere; what it says of the session has to be in the bundle, so that
            nothing was cut off behind the manifest.
        progress: called while the file is read.

    Raises:
        IntegrityError: it does not hold; the message names the place in the file, what had to be
            there and what was found.
        ConfigError: the file can't be read.
    """
    try:
        with path.open("rb") as file:
            tar = TarReader(file, str(path))
            return _Check(tar, keys, require_signature, allow_strays, checkpoint, progress).run()
    except OSError as exc:
        raise ConfigError(f"can't read {path}: {exc.strerror}") from exc


class _Check:
    """One reading of one bundle, member by member."""

    def __init__(
        self,
        tar: TarReader,
        keys: KeyList | None,
        require_signature: bool,
        allow_strays: bool,
        checkpoint: Checkpoint | None,
        progress: Progress,
    ) -> None:
        self._tar, self._keys, self._require_signature = tar, keys, require_signature
        self._checkpoint, self._progress = checkpoint, progress
        self._allow_strays = allow_strays
        self._standing: Witnessed | None = None
        self._witnessed = False
        self._other_incarnation = ""
        self._contents = Contents()
        self._history = HistoryCheck(SessionId(""))
        self._member: str | None = None

    def run(self) -> BundleReport:
        self._go_on()
        self._need(bundle.README)
        self._go_on()
        self._need(bundle.EVENTS)
        self._events()
        self._go_on()
        self._need(bundle.DESCRIPTION)
        chosen = self._description()
        self._go_on()
        if self._contents.manifest is not None:
            self._need(bundle.MANIFEST)
            self._manifest(self._contents.manifest)
            self._go_on()
        covered = self._contents.leaves()
        if proven := [index for index in chosen if index in covered]:
            self._need(bundle.PROOFS)
            self._proofs(proven, covered)
            self._go_on()
        for index, ready in chosen.items():
            self._need(self._chunk_name(index, ready))
            self._chunk(index, ready)
            self._go_on()
        if self._member is not None:
            self._refuse(f"{self._member} does not belong here", bundle.SUMS, self._member)
        return self._report(chosen, len(chosen) - len(proven))

    def _go_on(self) -> None:
        self._member = self._tar.next()

    def _need(self, name: str) -> None:
        if self._member != name:
            found = self._member or f"{bundle.SUMS}, the last one"
            self._tar.fail("another member belongs here", self._tar.header_at, name, found)

    def _refuse(self, what: str, expected: str, found: str, at: int | None = None) -> NoReturn:
        self._tar.fail(what, self._tar.at if at is None else at, expected, found)

    def _events(self) -> None:
        for number, (at, text) in enumerate(self._tar.lines(bundle.MAX_LINE_BYTES), 1):
            where = f"{bundle.EVENTS}, line {number}"
            line = self._decoded(text, Line, where, at)
            kept = line.message()
            message = StoredMessage(kept.subject, kept.sequence, kept.stored_at, kept.headers, kept.data)
            tokens = kept.subject.split(".", 3)
            if len(tokens) < 4 or SESSION_ID.fullmatch(tokens[2]) is None:
                self._refuse(f"{where} is on no session's subject", "…evt.<session>.…", kept.subject, at)
            if number == 1:
                self._history = HistoryCheck(
                    SessionId(tokens[2]), keys=self._keys, allow_strays=self._allow_strays
                )
                if self._checkpoint is not None:
                    self._standing = self._checkpoint.sessions.get(tokens[2])
            session = self._history.state.id
            if tokens[2] != session:
                self._refuse(f"{where} is of another session", session, tokens[2], at)
            if line.sequence <= self._contents.version:
                above = f"above {self._contents.version}"
                self._refuse(f"{where} is out of order", above, f"{line.sequence}", at)
            match take(self._contents, message):
                case ContractError() as exc:
                    self._history.take_unreadable(line.sequence, exc.message)
                case found:
                    self._history.take(found)
            self._settled(f"{where}: ", at)
            self._compare(message, where, at)
            self._progress(len(text))
        if not self._contents.messages:
            self._refuse(f"{bundle.EVENTS} is empty", "a history", "nothing")
        self._history.end(require_signature=self._require_signature, goes_on=False)
        self._settled("", self._tar.at)
        if self._standing is not None and not self._witnessed:
            seen = f"message {self._standing.version}, which {self._named_checkpoint} has seen"
            self._refuse(f"{bundle.EVENTS} was cut off", seen, f"its end at {self._contents.version}")

    def _compare(self, message: StoredMessage, where: str, at: int) -> None:
        """Hold a message against what the checkpoint says of the session's last one."""
        said = self._standing
        if said is not None and message.sequence == said.version:
            digest = chain.digest(message.subject, message.headers, message.data)
            if digest != said.head:
                what = f"{where} is not what {self._named_checkpoint} has seen"
                self._refuse(what, said.head, digest, at)
            self._witnessed = True

    @property
    def _named_checkpoint(self) -> str:
        return f"checkpoint {self._checkpoint.number}" if self._checkpoint is not None else ""

    def _remarks(self) -> tuple[Remark, ...]:
        found = tuple(self._history.remarks)
        if self._other_incarnation:
            found += (Remark(session=self._history.state.id, reason=self._other_incarnation),)
        return found

    def _settled(self, where: str, at: int) -> None:
        """Refuse the bundle when the history has a difference by now."""
        for found in self._history.differences[:1]:
            expected, given = found.expected or "what the rules allow", found.found or "something else"
            self._refuse(f"{where}{found.what}: {found.reason}", expected, given, at)

    def _description(self) -> dict[int, ReadyChunk]:
        said = self._decoded(self._small(), Description, bundle.DESCRIPTION, self._tar.at)
        kept = self._checkpoint
        if kept is not None and kept.log.stream != said.log.stream:
            self._refuse(f"{bundle.DESCRIPTION}: log", f"that of {self._named_checkpoint}", _shown(said.log))
        if kept is not None and kept.log.incarnation != said.log.incarnation:
            # What it says of the session was compared all the same: a restore leaves a history as it was.
            self._other_incarnation = (
                f"{self._named_checkpoint} is of incarnation {kept.log.incarnation} of the log, the bundle "
                f"of {said.log.incarnation}"
            )
        chunks, chosen = said.chunks, dict[int, ReadyChunk]()
        try:
            if chunks.included:
                chosen = self._contents.chosen(chunks.first, chunks.last)
        except ConfigError as exc:
            self._refuse(f"{bundle.DESCRIPTION}: chunks", "chunks of the history", exc.message)
        made = self._contents.description(self._history.state.id, said.log, chosen)
        for field in Description.__struct_fields__:
            wanted, given = getattr(made, field), getattr(said, field)
            if wanted != given:
                self._refuse(f"{bundle.DESCRIPTION}: {field}", _shown(wanted), _shown(given))
        return chosen

    def _manifest(self, stored: bytes) -> None:
        given = self._small()
        if given != stored:
            what = f"{bundle.MANIFEST} is not the body of event {self._contents.stopped}"
            self._refuse(what, f"{len(stored)} bytes as stored", f"{len(given)} others")

    def _proofs(self, proven: list[int], covered: dict[int, int]) -> None:
        root = Digest(_root(self._contents.manifest or b""))
        left = iter(proven)
        for number, (at, text) in enumerate(self._tar.lines(bundle.MAX_LINE_BYTES), 1):
            where = f"{bundle.PROOFS}, line {number}"
            proof = self._decoded(text, Proof, where, at)
            index = next(left, None)
            if index is None:
                self._refuse(f"{where} is one too many", "no more", f"chunk {proof.index}", at)
            place, given = (index, covered[index], len(covered)), (proof.index, proof.leaf, proof.size)
            if place != given:
                words = "chunk {}, leaf {} of {}".format
                self._refuse(f"{where} proves another place", words(*place), words(*given), at)
            if not self._contents.proves(proof, root):
                self._refuse(f"{where} does not prove chunk {index}", f"a path to {root}", "another", at)
        missing = next(left, None)
        if missing is not None:
            self._refuse(f"{bundle.PROOFS} ends early", f"a proof of chunk {missing}", "its end")

    def _chunk_name(self, index: int, ready: ReadyChunk) -> str:
        try:
            return bundle.chunk_name(index, ready.codec)
        except ConfigError as exc:
            self._refuse(f"chunk {index}: codec of event {ready.sequence}", "a known one", exc.message)

    def _chunk(self, index: int, ready: ReadyChunk) -> None:
        if self._tar.size != ready.stored_size:
            self._refuse(f"chunk {index} has another size", f"{ready.stored_size} bytes", f"{self._tar.size}")
        stored, raw, size = hashlib.sha256(), hashlib.sha256(), 0

        def pieces() -> Iterator[bytes]:
            for piece in self._tar.pieces():
                stored.update(piece)
                self._progress(len(piece))
                yield piece

        broken = ""
        try:
            if ready.codec == "store":  # what is stored is what was recorded: hashed once is enough
                size = sum(map(len, pieces()))
                raw = stored
            else:
                for part in decompress_stream(ready.codec, pieces(), size=ready.size):
                    raw.update(part)
                    size += len(part)
        except IntegrityError as exc:
            if "file" in exc.fields:  # the file itself ends here
                raise
            broken = exc.message
            for _ in pieces():
                pass  # the rest counts for the digest of what is stored
        for what, wanted, given in (
            ("the stored bytes", ready.stored_sha256, stored.hexdigest()),
            ("the raw bytes", ready.sha256, broken or raw.hexdigest()),
            ("the raw size", str(ready.size), str(size)),
        ):
            if wanted != given:
                self._refuse(f"chunk {index}: {what} are not what event {ready.sequence} says", wanted, given)

    def _small(self) -> bytes:
        return self._tar.read(bundle.MAX_SMALL_BYTES)

    def _decoded(self, text: bytes, kind: type[T], where: str, at: int) -> T:
        try:
            return bundle.decoded(text, kind)
        except IntegrityError as exc:
            self._tar.fail(where, at, f"a {kind.__name__.lower()} in its one spelling", exc.message)

    def _report(self, chosen: dict[int, ReadyChunk], unproven: int) -> BundleReport:
        history, contents = self._history, self._contents
        return BundleReport(
            path=self._tar.path,
            session=history.state.id,
            holds=True,
            state=history.state.state,
            version=history.version,
            head=contents.head,
            events=history.events,
            strays=history.strays,
            chunks=contents.excerpt(chosen),
            raw_bytes=sum(ready.size for ready in chosen.values()),
            stored_bytes=sum(ready.stored_size for ready in chosen.values()),
            erasure=history.state.erasure,
            unproven=unproven,
            signature=history.signed,
            checkpoint=self._checkpoint.number if self._checkpoint is not None and self._witnessed else None,
            remarks=self._remarks(),
        )


class _Stopped(msgspec.Struct):
    manifest: Manifest


def _root(body: bytes) -> str:
    return msgspec.json.decode(body, type=_Stopped).manifest.merkle_root


def _shown(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
