"""The Merkle tree over a session's chunks, as in RFC 9162, section 2.1.

    leaf = SHA-256(0x00 || raw SHA-256 of the chunk)
    node = SHA-256(0x01 || left || right)

The tree is kept as the roots of its full subtrees, so adding a leaf takes O(log n) memory.
"""

import hashlib

from lucid_events.domain.ids import Digest


class MerkleTree:
    """Grows by one leaf at a time; `root` may be asked after any of them."""

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[tuple[int, bytes]] = []

    def add(self, leaf: Digest) -> None:
        """Append the chunk whose raw SHA-256 is `leaf`."""
        node, height = leaf_hash(leaf), 0
        while self._peaks and self._peaks[-1][0] == height:
            _, left = self._peaks.pop()
            node, height = node_hash(left, node), height + 1
        self._peaks.append((height, node))
        self.size += 1

    @property
    def root(self) -> Digest:
        """The tree head; of no leaves, the hash of nothing (RFC 9162, 2.1.1)."""
        if not self._peaks:
            return Digest(hashlib.sha256(b"").hexdigest())
        *rest, (_, right) = self._peaks
        for _, left in reversed(rest):
            right = node_hash(left, right)
        return Digest(right.hex())


def leaf_hash(leaf: Digest) -> bytes:
    """Return the hash of a leaf."""
    return hashlib.sha256(b"\x00" + bytes.fromhex(leaf)).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()
