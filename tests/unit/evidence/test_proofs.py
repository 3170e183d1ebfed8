import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree, verify_consistency

from lucid_events.domain.ids import Digest
from lucid_events.evidence.merkle import MerkleTree
from lucid_events.evidence.proofs import ProvingTree, consistent, includes, root_of_edge

SIZES = [*range(66), 100, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1000, 1023, 1024, 1025]
"""Every small size, and what lies around the powers of two up to 1025."""

EMPTY = Digest(hashlib.sha256(b"").hexdigest())


LEAVES = [Digest(hashlib.sha256(b"chunk %d" % index).hexdigest()) for index in range(1026)]


def grown(size: int) -> ProvingTree:
    """Return our tree over the first `size` leaves."""
    tree = ProvingTree()
    for one in LEAVES[:size]:
        tree.add(one)
    return tree


def independent(size: int) -> InmemoryTree:
    """Return the tree of somebody else's over them."""
    tree = InmemoryTree(algorithm="sha256")
    for one in LEAVES[:size]:
        tree.append_entry(bytes.fromhex(one))
    return tree


ROOTS = {}
_growing = MerkleTree()
for _size in range(1027):
    ROOTS[_size] = _growing.root
    if _size < 1026:
        _growing.add(LEAVES[_size])


def test_roots_and_edges_are_those_of_the_tree_for_every_size_to_1025() -> None:
    """The proving tree, its edge, the growing tree and an independent library agree on every root."""
    ours, theirs = ProvingTree(), InmemoryTree(algorithm="sha256")
    assert ours.root == root_of_edge(ours.edge) == EMPTY
    for size in range(1, 1026):
        ours.add(LEAVES[size - 1])
        theirs.append_entry(bytes.fromhex(LEAVES[size - 1]))
        assert ours.root == ROOTS[size] == root_of_edge(ours.edge) == theirs.get_root().hex()


@pytest.mark.parametrize("size", SIZES)
def test_inclusion_proofs_are_those_of_an_independent_library(size: int) -> None:
    """Each proof of inclusion is, node by node, the one that an independent library makes, and holds."""
    ours, theirs = grown(size), independent(size)
    indices = range(size) if size <= 130 else [0, 1, size // 3, size // 2, size - 2, size - 1]
    for index in indices:
        proof = ours.inclusion(index)
        assert list(proof) == theirs.prove_inclusion(index + 1, size).serialize()["path"][1:]
        assert includes(ROOTS[size], size, LEAVES[index], index, proof)


def _proof(m: int, leaves: list[Digest], whole: bool = True) -> list[str]:
    """SUBPROOF of RFC 9162, section 2.1.4.1, as written there, with roots of the growing tree."""
    if m == len(leaves):
        return [] if whole else [_root(leaves)]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m <= k:
        return [*_proof(m, leaves[:k], whole), _root(leaves[k:])]
    return [*_proof(m - k, leaves[k:], False), _root(leaves[:k])]


def _root(leaves: list[Digest]) -> str:
    tree = MerkleTree()
    for one in leaves:
        tree.add(one)
    return tree.root


@pytest.mark.parametrize("size", SIZES)
def test_consistency_proofs_are_those_of_the_rfc(size: int) -> None:
    """Each proof of consistency is, node by node, the one that the RFC's recursion makes, and holds."""
    ours, theirs = grown(size), independent(size)
    olds = range(1, size) if size <= 65 else [1, 2, 3, size // 3, size // 2, 64, size - 1]
    for old in olds:
        proof = list(ours.consistency(old))
        assert proof == _proof(old, LEAVES[:size])
        assert consistent(ROOTS[old], old, ROOTS[size], size, proof)
        # The library writes its proofs another way, but has to find the same two roots consistent.
        prior, now = theirs.get_root(old), theirs.get_root(size)
        assert (prior.hex(), now.hex()) == (ROOTS[old], ROOTS[size])
        verify_consistency(prior, now, theirs.prove_consistency(old, size))


def test_published_vectors() -> None:
    """The roots and a proof of the vectors published with RFC 6962's reference implementation."""
    leaves = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ]
    roots = {
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        4: "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        6: "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    tree = ProvingTree()
    for size, data in enumerate(leaves, 1):
        tree.add(Digest(data))
        assert tree.root == roots[size]
    assert tree.inclusion(5) == (
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    )
    assert tree.consistency(6) == (
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    )
    assert consistent(Digest(roots[6]), 6, Digest(roots[8]), 8, tree.consistency(6))


@given(st.integers(0, 300), st.integers(0, 300), st.data())
def test_a_tree_goes_on_from_its_edge(before: int, more: int, data: st.DataObject) -> None:
    """Leaves added to a stored edge give the root of the whole tree, and prove that it grew from there."""
    went_on = ProvingTree(before, grown(before).edge)
    for one in LEAVES[before : before + more]:
        went_on.add(one)
    size = before + more
    assert (went_on.size, went_on.root, went_on.edge) == (size, ROOTS[size], grown(size).edge)
    assert went_on.consistency(before) == grown(size).consistency(before)
    if more:
        index = data.draw(st.integers(before, size - 1))
        assert went_on.inclusion(index) == grown(size).inclusion(index)
    if before:
        with pytest.raises(ValueError, match="was not added here"):
            went_on.inclusion(before - 1)


@given(st.integers(1, 200), st.data())
def test_a_changed_inclusion_proof_shows_nothing(size: int, data: st.DataObject) -> None:
    """Another leaf, place, size or root, or a proof with a node changed, missing, doubled or added, fails."""
    tree = grown(size)
    index = data.draw(st.integers(0, size - 1))
    proof, root = tree.inclusion(index), tree.root
    for changed in _changes(proof, data):
        assert not includes(root, size, LEAVES[index], index, changed)
    assert not includes(root, size, LEAVES[size], index, proof)
    assert not includes(ROOTS[size + 1], size, LEAVES[index], index, proof)
    for other in range(-1, size + 2):
        assert includes(root, size, LEAVES[index], other, proof) == (other == index)
    assert not includes(root, 0, LEAVES[index], 0, ())


@given(st.integers(2, 200), st.data())
def test_a_changed_consistency_proof_shows_nothing(size: int, data: st.DataObject) -> None:
    """Another root, or a proof with a node changed, missing, doubled or added, fails."""
    old = data.draw(st.integers(1, size - 1))
    proof = grown(size).consistency(old)
    for changed in _changes(proof, data):
        assert not consistent(ROOTS[old], old, ROOTS[size], size, changed)
    assert not consistent(ROOTS[old - 1], old, ROOTS[size], size, proof)
    assert not consistent(ROOTS[old], old, ROOTS[size - 1], size, proof)
    assert not consistent(ROOTS[size], size, ROOTS[old], old, proof)


def test_nothing_is_a_beginning_of_everything() -> None:
    """The empty tree needs no proof, and takes none; a tree is consistent with itself alone."""
    assert consistent(EMPTY, 0, ROOTS[7], 7, ())
    assert not consistent(EMPTY, 0, ROOTS[7], 7, (ROOTS[1],))
    assert not consistent(ROOTS[1], 0, ROOTS[7], 7, ())
    assert consistent(ROOTS[7], 7, ROOTS[7], 7, ())
    assert not consistent(ROOTS[6], 7, ROOTS[7], 7, ())
    assert not consistent(ROOTS[3], 3, ROOTS[7], 7, ())


def test_an_edge_of_another_size_is_refused() -> None:
    """An edge has one root for each bit of the size."""
    with pytest.raises(ValueError, match="an edge of 2, not 1"):
        ProvingTree(3, (ROOTS[2],))
    with pytest.raises(ValueError, match="not between"):
        grown(5).consistency(6)
    with pytest.raises(ValueError, match="was not added here"):
        grown(5).inclusion(5)


def _changes(proof: tuple[Digest, ...], data: st.DataObject) -> list[list[Digest]]:
    made: list[list[Digest]] = [[*proof, ROOTS[1]]]
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        flipped = Digest(("0" if proof[at][0] != "0" else "1") + proof[at][1:])
        made += [
            [*proof[:at], flipped, *proof[at + 1 :]],
            [*proof[:at], *proof[at + 1 :]],
            [*proof[:at], proof[at], *proof[at:]],
            [ROOTS[2], *proof],
        ]
    if any(one != other for one, other in pairwise(proof)):
        made.append([*proof[::-1]])
    return made
