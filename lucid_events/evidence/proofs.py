"""Proofs over Merkle trees as in RFC 9162: that a leaf is in a tree, and that a tree only grew.

    inclusion     section 2.1.3   siblings of the nodes from a leaf to the root, lowest first
    consistency   section 2.1.4   what an older root and a newer one of the same tree both follow from

A leaf is a SHA-256 (of a chunk, of an event); its hash is SHA-256(0x00 || leaf), see `merkle.py`.
Checking takes a proof and the roots, never the tree. Knows nothing of chunks, events or files.
"""

import hashlib
from collections.abc import Sequence

from lucid_events.domain.ids import Digest
from lucid_events.evidence.merkle import leaf_hash, node_hash

HASH_BYTES = 32


class ProvingTree:
    """A tree that grows by one leaf at a time and proves things about the leaves added to it.

    Keeps 64 bytes a leaf. Of leaves that were there before it only the roots of the full subtrees,
    its right edge, are needed: a tree may go on from `edge` and prove that it grew from there.

    Args:
        size: leaves that the tree has already.
        edge: roots of its full subtrees, largest first: one for each bit set in `size`.

    Raises:
        ValueError: the edge has not one root for each bit of `size`.
    """

    def __init__(self, size: int = 0, edge: Sequence[Digest] = ()) -> None:
        if len(edge) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has an edge of {size.bit_count()}, not {len(edge)}")
        self.size = size
        self._levels: list[tuple[int, bytearray]] = []
        self._began = size
        roots = list(edge)
        for height in range(size.bit_length()):
            # Nodes of one height stand side by side; the first one kept is the edge's, if it has one.
            bit = size >> height & 1
            self._levels.append(((size >> height) - bit, bytearray.fromhex(roots.pop() if bit else "")))

    def add(self, leaf: Digest) -> None:
        """Append a leaf."""
        node, height = leaf_hash(leaf), 0
        while True:
            if height == len(self._levels):
                self._levels.append((0, bytearray()))
            first, kept = self._levels[height]
            kept += node
            index = first + len(kept) // HASH_BYTES - 1
            if index % 2 == 0:
                break
            node, height = node_hash(self._node(height, index - 1), node), height + 1
        self.size += 1

    @property
    def root(self) -> Digest:
        """The tree head; of no leaves, the hash of nothing."""
        return Digest((self._range(0, self.size) if self.size else hashlib.sha256(b"").digest()).hex())

    @property
    def edge(self) -> tuple[Digest, ...]:
        """The roots of the full subtrees, largest first: all that is needed to go on later."""
        heights = reversed(range(self.size.bit_length()))
        return tuple(
            Digest(self._node(height, (self.size >> height) - 1).hex())
            for height in heights
            if self.size >> height & 1
        )

    def inclusion(self, index: int) -> tuple[Digest, ...]:
        """Return the proof that the leaf at `index` is where it is in the tree of now.

        Raises:
            ValueError: there is no such leaf, or it was added before this tree began to keep them.
        """
        if not self._began <= index < self.size:
            raise ValueError(f"leaf {index} was not added here: {self._began} to {self.size - 1} were")
        start, end, path = 0, self.size, []
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append((middle, end))
                end = middle
            else:
                path.append((start, middle))
                start = middle
        return self._hashes(path[::-1])

    def consistency(self, size: int) -> tuple[Digest, ...]:
        """Return the proof that the tree of the first `size` leaves is a beginning of the tree of now.

        Empty when there is nothing to prove: of no leaves, and of the same size.

        Raises:
            ValueError: there never was that size, or it lies before this tree began.
        """
        if not (size == 0 or self._began <= size <= self.size):
            raise ValueError(f"size {size} is not between {self._began} and {self.size}")
        if size in (0, self.size):
            return ()
        start, end, whole, path = 0, self.size, True, []
        while end != size:
            middle = start + _split(end - start)
            if size <= middle:
                path.append((middle, end))
                end = middle
            else:
                path.append((start, middle))
                start, whole = middle, False
        if not whole:  # the verifier has the root of the older tree, but not that of a part of it
            path.append((start, end))
        return self._hashes(path[::-1])

    def _hashes(self, ranges: Sequence[tuple[int, int]]) -> tuple[Digest, ...]:
        return tuple(Digest(self._range(start, end).hex()) for start, end in ranges)

    def _range(self, start: int, end: int) -> bytes:
        """Return the root over the leaves from `start` up to `end`, which the tree's shape has."""
        size = end - start
        if size & (size - 1) == 0:
            height = size.bit_length() - 1
            return self._node(height, start >> height)
        middle = start + _split(size)
        return node_hash(self._range(start, middle), self._range(middle, end))

    def _node(self, height: int, index: int) -> bytes:
        first, kept = self._levels[height]
        at = (index - first) * HASH_BYTES
        return bytes(kept[at : at + HASH_BYTES])


def root_of_edge(edge: Sequence[Digest]) -> Digest:
    """Return the root of the tree whose full subtrees have the roots `edge`, largest first."""
    if not edge:
        return Digest(hashlib.sha256(b"").hexdigest())
    *rest, last = (bytes.fromhex(root) for root in edge)
    for left in reversed(rest):
        last = node_hash(left, last)
    return Digest(last.hex())


def includes(root: Digest, size: int, leaf: Digest, index: int, proof: Sequence[Digest]) -> bool:
    """Return whether `proof` shows that `leaf` is at `index` of the tree of `size` leaves with that root.

    RFC 9162, section 2.1.3.2. False for a proof of another length.
    """
    if not 0 <= index < size:
        return False
    node, here, last = leaf_hash(leaf), index, size - 1
    for sibling in _raw(proof):
        if last == 0:
            return False
        if here % 2 or here == last:
            node = node_hash(sibling, node)
            while here % 2 == 0 and here:
                here, last = here >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        here, last = here >> 1, last >> 1
    return last == 0 and node.hex() == root


def consistent(
    old_root: Digest, old_size: int, new_root: Digest, new_size: int, proof: Sequence[Digest]
) -> bool:
    """Return whether `proof` shows that the older tree is a beginning of the newer one.

    RFC 9162, section 2.1.4.2. Nothing is a beginning of everything, with an empty proof.
    """
    if old_size in (0, new_size):
        same = old_root == (new_root if old_size else hashlib.sha256(b"").hexdigest())
        return same and not proof
    if not 0 < old_size < new_size:
        return False
    nodes = [*_raw(proof)]
    if old_size & (old_size - 1) == 0:
        nodes.insert(0, bytes.fromhex(old_root))
    if not nodes:
        return False
    here, last = old_size - 1, new_size - 1
    while here % 2:
        here, last = here >> 1, last >> 1
    old = new = nodes[0]
    for node in nodes[1:]:
        if last == 0:
            return False
        if here % 2 or here == last:
            old, new = node_hash(node, old), node_hash(node, new)
            while here % 2 == 0 and here:
                here, last = here >> 1, last >> 1
        else:
            new = node_hash(new, node)
        here, last = here >> 1, last >> 1
    return last == 0 and (old.hex(), new.hex()) == (old_root, new_root)


def _raw(proof: Sequence[Digest]) -> list[bytes]:
    return [bytes.fromhex(one) for one in proof]


def _split(size: int) -> int:
    """Return the largest power of two below `size`, which is at least 2."""
    return 1 << (size - 1).bit_length() - 1
