"""What a history means for its bundle: which chunks belong in it, what is said of them, what proves them.

Whoever writes a bundle and whoever checks one sum up the history here, each from the messages before
them. Keeps about 500 bytes for each chunk that is ready.
"""

from collections.abc import Iterator

import msgspec

from lucid_events.domain import events as ev
from lucid_events.domain.ids import Digest, SessionId
from lucid_events.errors import ConfigError
from lucid_events.evidence.bundle import FORMAT, Description, Excerpt, Log, Proof
from lucid_events.evidence.proofs import ProvingTree, includes


class ReadyChunk(msgspec.Struct, frozen=True, gc=False):
    """What is needed of a `chunk.ready` to write the chunk, to check it and to prove its place."""

    sequence: int
    codec: str
    bucket: str
    object: str
    size: int
    sha256: Digest
    stored_size: int
    stored_sha256: str


class Contents:
    """A history summed up as it goes by; `manifest` is the body of its last `session.stopped`."""

    def __init__(self) -> None:
        self.version = self.messages = 0
        self.head: Digest | None = None
        self.stopped: int | None = None
        self.manifest: bytes | None = None
        self.ready: dict[int, ReadyChunk] = {}
        self._erased_at = 0

    def take(self, sequence: int, body: bytes, digest: Digest | None, event: object) -> None:
        """Count the next message: its digest when it is an event, and the event when that can be read."""
        self.version, self.messages = sequence, self.messages + 1
        self.head = digest or self.head
        match event:
            case ev.ChunkReady():
                self.ready[event.index] = ReadyChunk(
                    sequence,
                    event.codec,
                    event.bucket,
                    event.object,
                    event.size,
                    Digest(event.sha256),
                    event.stored_size,
                    event.stored_sha256,
                )
            case ev.SessionStopped():
                self.stopped, self.manifest = sequence, body
            case ev.SessionCleanupStarted() | ev.SessionDestroyed():
                self._erased_at = sequence

    def chosen(self, first: int | None = None, last: int | None = None) -> dict[int, ReadyChunk]:
        """Return the chunks from `first` to `last` whose bytes are to be in the bundle, by index.

        Raises:
            ConfigError: a bound names no chunk that has bytes.
        """
        there = sorted(i for i, ready in self.ready.items() if ready.sequence > self._erased_at)
        for flag, bound in (("--from", first), ("--to", last)):
            if bound is not None and bound not in there:
                known = f"those with bytes are {_spans(there)}" if there else "none has bytes"
                raise ConfigError(f"{flag} {bound}: there is no such chunk; {known}")
        if first is not None and last is not None and first > last:
            raise ConfigError(f"--from {first} --to {last}: the first chunk comes behind the last")
        begin = there[0] if first is None and there else first or 0
        end = there[-1] if last is None and there else last or 0
        return {index: self.ready[index] for index in there if begin <= index <= end}

    def description(self, session: SessionId, log: Log, chosen: dict[int, ReadyChunk]) -> Description:
        """Return what `bundle.json` has to say with these chunks in it."""
        return Description(
            format=FORMAT,
            session=session,
            log=log,
            version=self.version,
            messages=self.messages,
            head=self.head,
            manifest=self.stopped,
            chunks=self.excerpt(chosen),
        )

    def excerpt(self, chosen: dict[int, ReadyChunk]) -> Excerpt:
        """Return what is said of the chunks in the bundle, when these are."""
        indices = list(chosen)
        return Excerpt(
            first=indices[0] if indices else None,
            last=indices[-1] if indices else None,
            included=len(indices),
            ready=len(self.ready),
        )

    def leaves(self) -> dict[int, int]:
        """Return the place of each chunk that the last manifest covers: index -> leaf."""
        stopped = self.stopped or 0
        covered = sorted(i for i, ready in self.ready.items() if ready.sequence < stopped)
        return {index: leaf for leaf, index in enumerate(covered)}

    def proofs(self, chosen: dict[int, ReadyChunk]) -> Iterator[Proof]:
        """Yield the proofs of those chunks that the last manifest covers.

        One at a time: a path grows with the logarithm of the chunks, so all of them take kilobytes a chunk.
        """
        tree, leaves = ProvingTree(), self.leaves()
        for index in leaves:
            tree.add(self.ready[index].sha256)
        for i in chosen:
            if i in leaves:
                yield Proof(index=i, leaf=leaves[i], size=tree.size, path=tree.inclusion(leaves[i]))

    def proves(self, proof: Proof, root: Digest) -> bool:
        """Return whether `proof` takes the chunk it names to the manifest's root."""
        path = [Digest(one) for one in proof.path]
        return includes(root, proof.size, self.ready[proof.index].sha256, proof.leaf, path)


def _spans(indices: list[int]) -> str:
    """Return sorted numbers as people write them: `0–11, 14`."""
    found: list[list[int]] = []
    for index in indices:
        if found and index == found[-1][1] + 1:
            found[-1][1] = index
        else:
            found.append([index, index])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in found)
