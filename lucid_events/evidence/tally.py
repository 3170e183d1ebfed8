"""The manifest that a history ought to have, made a second time, independently of the one that wrote it.

`handlers/facts.py` sums up for the manifest while it knows the end of the history; this reads forward
and knows only what came so far, so it can say of every manifest in a history what it should have been.
Keeps 32 bytes for each chunk.
"""

from lucid_events.domain import events as ev
from lucid_events.domain.ids import NO_DIGEST, Digest
from lucid_events.domain.values import CodecTotals, Manifest, Span
from lucid_events.evidence.manifests import MAX_GAPS
from lucid_events.evidence.merkle import MerkleTree

_DIGEST_BYTES = 32


class Tally:
    """What the events of one history, taken in order, add up to."""

    def __init__(self) -> None:
        self._leaves = bytearray()
        self._absent: set[int] = set()
        self._failed: set[int] = set()
        self._tree = MerkleTree()
        self._codecs: dict[str, CodecTotals] = {}
        self._gaps: list[Span] = []
        self._gap_bytes = self._chunks = self._raw = self._stored = 0
        self._end = self._events = self._manifests = 0
        self._head = NO_DIGEST

    def take(self, event: ev.SessionEvent, digest: Digest) -> None:
        """Count one more event, whose digest is `digest`."""
        self._events += 1
        self._head = digest
        match event:
            case ev.ChunkSealed():
                self._leaves += bytes.fromhex(event.sha256)
                self._absent.add(event.index)
                self._end = event.offset + event.size
            case ev.ChunkReady():
                self._absent.discard(event.index)
                self._failed.discard(event.index)
                self._chunks += 1
                self._raw += event.size
                self._stored += event.stored_size
                before = self._codecs.get(event.codec, CodecTotals(chunks=0, raw_bytes=0, stored_bytes=0))
                self._codecs[event.codec] = CodecTotals(
                    chunks=before.chunks + 1,
                    raw_bytes=before.raw_bytes + event.size,
                    stored_bytes=before.stored_bytes + event.stored_size,
                )
            case ev.ChunkFailed():
                self._failed.add(event.index)
            case ev.GapDeclared():
                self._gap(event.start, event.end)
            case ev.SessionStopped():
                self._manifests = event.manifest.version

    def manifest(self) -> Manifest:
        """Return the manifest of everything taken so far, unsigned."""
        return Manifest(
            version=self._manifests + 1,
            chunks=self._chunks,
            raw_bytes=self._raw,
            stored_bytes=self._stored,
            end_offset=self._end,
            gaps=tuple(self._gaps),
            gap_bytes=self._gap_bytes,
            failed=tuple(sorted(self._failed)),
            merkle_root=self._root(),
            chain_head=self._head,
            events=self._events,
            codecs=dict(self._codecs),
        )

    def _gap(self, start: int, end: int) -> None:
        self._gap_bytes += end - start
        self._end = max(self._end, end)
        if self._gaps and self._gaps[-1].end == start:
            self._gaps[-1] = Span(start=self._gaps[-1].start, end=end)
        elif len(self._gaps) < MAX_GAPS:
            self._gaps.append(Span(start=start, end=end))

    def _root(self) -> Digest:
        # Leaves count by index and become ready in any order: the tree that is kept only ever grows
        # over chunks that are all ready, and one with a chunk left out is made for once.
        tree = MerkleTree() if self._absent else self._tree
        for index in range(tree.size, len(self._leaves) // _DIGEST_BYTES):
            if index not in self._absent:
                at = index * _DIGEST_BYTES
                tree.add(Digest(self._leaves[at : at + _DIGEST_BYTES].hex()))
        return tree.root
