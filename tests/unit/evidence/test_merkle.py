import hashlib

from hypothesis import given
from hypothesis import strategies as st

from lucid_events.domain.ids import Digest
from lucid_events.evidence.merkle import MerkleTree


def _leaf(index: int) -> Digest:
    return Digest(hashlib.sha256(b"chunk %d" % index).hexdigest())


def _naive(leaves: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, as written there."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + _naive(leaves[:k]) + _naive(leaves[k:])).digest()


def test_the_root_is_that_of_rfc_9162() -> None:
    """For every size up to 200 the growing tree has the root of the recursive definition."""
    tree = MerkleTree()
    leaves: list[bytes] = []
    for size in range(201):
        assert (tree.size, tree.root) == (size, _naive(leaves).hex())
        leaves.append(bytes.fromhex(_leaf(size)))
        tree.add(_leaf(size))


def test_known_roots() -> None:
    """The roots of no leaf and of one leaf are those the RFC spells out."""
    tree = MerkleTree()
    assert tree.root == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    tree.add(Digest("00" * 32))
    assert tree.root == hashlib.sha256(b"\x00" * 33).hexdigest()


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=40), st.data())
def test_any_change_changes_the_root(leaves: list[bytes], data: st.DataObject) -> None:
    """Changing, dropping, doubling or swapping a chunk changes the root."""

    def root(items: list[bytes]) -> str:
        tree = MerkleTree()
        for item in items:
            tree.add(Digest(item.hex()))
        return tree.root

    before = root(leaves)
    i = data.draw(st.integers(0, len(leaves) - 1))
    j = data.draw(st.integers(0, len(leaves) - 1))
    flipped = bytes([leaves[i][0] ^ 1]) + leaves[i][1:]
    swapped = list(leaves)
    swapped[i], swapped[j] = swapped[j], swapped[i]
    assert root([*leaves[:i], flipped, *leaves[i + 1 :]]) != before
    assert root(leaves[:i] + leaves[i + 1 :]) != before
    assert root([*leaves[:i], leaves[i], *leaves[i:]]) != before
    assert (root(swapped) == before) == (swapped == leaves)


def test_memory_grows_with_the_logarithm() -> None:
    """A tree of ten thousand leaves keeps no more than one root per power of two."""
    tree = MerkleTree()
    for index in range(10_000):
        tree.add(_leaf(index))
        assert len(tree._peaks) <= (index + 1).bit_length()
