"""Bundles that were touched: each change is found, by us and by the independent checker, and named."""

import gzip
import io
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lucid_events import codec
from lucid_events.domain.events import SessionStopped
from lucid_events.domain.ids import SessionId
from lucid_events.errors import IntegrityError
from lucid_events.evidence.manifests import sign_manifest
from lucid_events.evidence.signing import Signer, generate_seed
from tests.end_to_end.bundles import (
    CHECKER,
    CHUNKS,
    Members,
    Recorded,
    one_spelling,
    ours,
    packed,
    recording,
    refused,
    unpacked,
    with_json,
    with_lines,
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """Record one session for the tests of this file."""
    with recording(tmp_path_factory.mktemp("bundles")) as found:
        yield found


# any single byte


@settings(max_examples=400)
@given(st.data())
def test_any_changed_byte_is_found(recorded: Recorded, data: st.DataObject) -> None:
    """Wherever one byte of a bundle is changed, to whatever, both checkers refuse it."""
    bundle = recorded.excerpt
    at = data.draw(st.integers(0, len(bundle) - 1))
    by = data.draw(st.integers(1, 255))
    refused(bundle[:at] + bytes([bundle[at] ^ by]) + bundle[at + 1 :], recorded.folder)


@settings(max_examples=60)
@given(st.data())
def test_any_lost_or_added_byte_is_found(recorded: Recorded, data: st.DataObject) -> None:
    """Bytes that are missing or too many, anywhere, the end included, are found."""
    bundle = recorded.excerpt
    at = data.draw(st.integers(0, len(bundle)))
    more = data.draw(st.binary(min_size=1, max_size=600))
    refused(bundle[:at] + more + bundle[at:], recorded.folder)
    if at < len(bundle):
        refused(bundle[:at], recorded.folder)
        refused(bundle[:at] + bundle[at + 1 :], recorded.folder)


def test_every_byte_between_the_members_counts(recorded: Recorded) -> None:
    """Each single byte of a tar header, of padding and of the end is compared: none is without meaning."""
    bundle = recorded.excerpt
    size = len(unpacked(bundle)["README.md"])
    padding = range(512 + size, 512 + size + -size % 512)
    places = [*range(512), *padding[:: len(padding) // 40 or 1], *range(len(bundle) - 1024, len(bundle), 13)]
    for at in places:
        changed = bytearray(bundle)
        changed[at] ^= 0x20
        refused(bytes(changed), recorded.folder)


# tampering by somebody who makes the rest fit


def _dropped(name: str) -> Callable[[Members], Members]:
    return lambda members: {key: data for key, data in members.items() if key != name}


def _swapped(members: Members) -> Members:
    one, other = "chunks/00000002.gz", "chunks/00000004.gz"
    return {**members, one: members[other], other: members[one]}


def _doubled(members: Members) -> Members:
    return {**members, "chunks/00000005.gz": members["chunks/00000004.gz"]}


def _recompressed(members: Members) -> Members:
    name = "chunks/00000002.gz"
    return {**members, name: gzip.compress(gzip.decompress(members[name]), 1, mtime=1)}


def _other_bytes(members: Members) -> Members:
    return {**members, "chunks/00000003": members["chunks/00000003"][:-1] + b"!"}


def _reordered_members(members: Members) -> Members:
    first, *rest = members
    return {name: members[name] for name in (*rest, first)}


def _proofs(change: Callable[[list[bytes]], None]) -> Callable[[Members], Members]:
    return lambda members: with_lines(members, "proofs.jsonl", change)


def _events(change: Callable[[list[bytes]], None]) -> Callable[[Members], Members]:
    return lambda members: with_lines(members, "events.jsonl", change)


def _line(number: int, change: Callable[[dict[str, Any]], None]) -> Callable[[list[bytes]], None]:
    def changed(lines: list[bytes]) -> None:
        value = json.loads(lines[number])
        change(value)
        lines[number] = one_spelling(value)

    return changed


def _said(change: Callable[[dict[str, Any]], None]) -> Callable[[Members], Members]:
    return lambda members: with_json(members, "bundle.json", change)


def _fewer(value: dict[str, Any]) -> None:
    value["chunks"].update(last=3, included=2)


def _flipped(path: list[str]) -> None:
    path[0] = ("0" if path[0][0] != "0" else "1") + path[0][1:]


TAMPERED: dict[str, tuple[Callable[[Members], Members], str]] = {
    "chunk removed": (_dropped("chunks/00000003"), "chunks/00000003, found chunks/00000004.gz"),
    "last chunk removed": (_dropped("chunks/00000004.gz"), "chunks/00000004.gz, found SHA256SUMS"),
    "chunks swapped": (_swapped, "chunk 2"),
    "chunk doubled": (_doubled, "chunks/00000005.gz does not belong here"),
    "chunk compressed anew": (_recompressed, "chunk 2"),
    "chunk changed": (_other_bytes, "chunk 3: the stored bytes are not what event"),
    "chunk left out, said so, proofs left": (
        lambda m: _said(_fewer)(_dropped("chunks/00000004.gz")(m)),
        "proofs.jsonl, line 3 is one too many",
    ),
    "proofs removed": (_dropped("proofs.jsonl"), "proofs.jsonl, found chunks/00000002.gz"),
    "proof removed": (
        _proofs(lambda lines: lines.__delitem__(1)),
        "proofs.jsonl, line 2 proves another place",
    ),
    "last proof removed": (_proofs(lambda lines: lines.__delitem__(2)), "proofs.jsonl ends early"),
    "proofs swapped": (_proofs(lambda lines: lines.reverse()), "proofs.jsonl, line 1 proves another place"),
    "proof of another leaf": (
        _proofs(_line(1, lambda proof: proof.update(leaf=2))),
        "proofs.jsonl, line 2 proves another place",
    ),
    "proof of another tree": (
        _proofs(_line(1, lambda proof: proof.update(size=8))),
        "proofs.jsonl, line 2 proves another place",
    ),
    "node of a proof changed": (
        _proofs(_line(1, lambda proof: _flipped(proof["path"]))),
        "proofs.jsonl, line 2 does not prove chunk 3",
    ),
    "node of a proof removed": (
        _proofs(_line(0, lambda proof: proof["path"].pop())),
        "proofs.jsonl, line 1 does not prove chunk 2",
    ),
    "node of a proof added": (
        _proofs(_line(0, lambda proof: proof["path"].append("0" * 64))),
        "proofs.jsonl, line 1 does not prove chunk 2",
    ),
    "manifest removed": (_dropped("manifest.json"), "manifest.json, found proofs.jsonl"),
    "manifest changed": (
        lambda m: {**m, "manifest.json": m["manifest.json"].replace(b'"chunks":7', b'"chunks":8', 1)},
        "manifest.json is not the body of event",
    ),
    "event removed": (_events(lambda lines: lines.__delitem__(3)), "events.jsonl, line 4: chain_broken"),
    "first event removed": (_events(lambda lines: lines.__delitem__(0)), "events.jsonl, line 1"),
    "last event removed": (_events(lambda lines: lines.__delitem__(-1)), "bundle.json: "),
    "events swapped": (
        _events(lambda lines: lines.insert(3, lines.pop(4))),
        "events.jsonl, line 4: chain_broken",
    ),
    "event doubled": (
        _events(lambda lines: lines.insert(3, lines[3])),
        "events.jsonl, line 5 is out of order",
    ),
    "body changed": (
        _events(_line(0, lambda line: line.update(body=line["body"].replace("gzip", "lz4")))),
        "events.jsonl, line 2: chain_broken",
    ),
    "header changed": (
        _events(_line(2, lambda line: line["headers"].update({"Lucid-Actor": "unverified:nobody"}))),
        "events.jsonl, line 4: chain_broken",
    ),
    "header added": (
        _events(_line(2, lambda line: line["headers"].update({"ce-new": "x"}))),
        "events.jsonl, line 4: chain_broken",
    ),
    "subject changed": (
        _events(_line(1, lambda line: line.update(subject="lucid.evt.other.session.started"))),
        "events.jsonl, line 2 is of another session",
    ),
    "member of a line doubled": (
        _events(lambda lines: lines.__setitem__(0, lines[0].replace(b"{", b'{"sequence":1,', 1))),
        "events.jsonl, line 1",
    ),
    "line spelled otherwise": (
        _events(lambda lines: lines.__setitem__(0, lines[0].replace(b":", b": ", 1))),
        "events.jsonl, line 1",
    ),
    "said to be another session": (_said(lambda said: said.update(session="other")), "bundle.json: session"),
    "said to have more chunks": (_said(lambda said: said["chunks"].update(ready=9)), "bundle.json: chunks"),
    "said to end later": (_said(lambda said: said.update(version=10**6)), "bundle.json: version"),
    "said to be another format": (
        _said(lambda said: said.update(format="lucid-bundle/2")),
        "bundle.json: format",
    ),
    "members in another order": (_reordered_members, "README.md, found events.jsonl"),
    "member that is unknown": (lambda m: {**m, "notes.txt": b"trust me"}, "notes.txt does not belong here"),
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_tampering_is_found_and_named(recorded: Recorded, kind: str) -> None:
    """Sums and tar made to fit again, each kind of tampering is refused by both, and named where it is."""
    change, words = TAMPERED[kind]
    assert words in refused(packed(change(unpacked(recorded.excerpt))), recorded.folder)


ODD: list[Any] = [None, 0, -1, 2**63, 1.5, "", "x", "0" * 64, [], {}, True]


@settings(max_examples=150)
@given(st.data())
def test_a_history_made_up_is_judged_whatever_is_in_it(recorded: Recorded, data: st.DataObject) -> None:
    """One field of one event replaced by anything, and chain, sums and description made to fit: no crash."""
    members = unpacked(recorded.excerpt)
    lines = [json.loads(line) for line in members["events.jsonl"].splitlines()]
    changed = data.draw(st.sampled_from(lines))
    body = json.loads(changed["body"])
    if body and data.draw(st.booleans()):
        body[data.draw(st.sampled_from(sorted(body)))] = data.draw(st.sampled_from(ODD))
        changed["body"] = json.dumps(body)
    else:
        names = sorted(set(changed["headers"]) - {"Lucid-Prev"})
        changed["headers"][data.draw(st.sampled_from(names))] = data.draw(st.text(max_size=5))
    head, manifest = "", b""
    for line in lines:
        line["headers"]["Lucid-Prev"] = head
        if line["headers"]["ce-type"] == "session.stopped.v1":
            manifest = line["body"].encode()
        head = CHECKER.event_digest(line["subject"], line["headers"], line["body"].encode())
    events = b"".join(map(one_spelling, lines))
    made = {**members, "events.jsonl": events, "manifest.json": manifest}
    with suppress(IntegrityError):
        ours(packed(with_json(made, "bundle.json", lambda said: said.update(head=head))), recorded.folder)


def test_a_smaller_excerpt_is_an_excerpt_and_no_more(recorded: Recorded) -> None:
    """Whoever leaves chunks out and says so in every place makes a bundle that holds, and says less."""
    members = _said(_fewer)(_dropped("chunks/00000004.gz")(unpacked(recorded.excerpt)))
    members = _proofs(lambda lines: lines.__delitem__(2))(members)
    report = ours(packed(members), recorded.folder, keys=recorded.trusted(), require_signature=True)
    assert (report.chunks.last, report.chunks.included, report.chunks.ready) == (3, 2, CHUNKS)


def _resigned(members: Members, signer: Signer | None, session: str = "s1") -> Members:
    """Return the bundle with the manifest signed by another, or by nobody, and everything made to fit.

    What came behind the manifest is cut off: nothing vouches for that.
    """
    lines = members["events.jsonl"].splitlines(keepends=True)
    at = max(number for number, line in enumerate(lines) if b'"session.stopped.v1"' in line)
    last = json.loads(lines[at])
    manifest = codec.decode(last["body"].encode(), SessionStopped).manifest
    made = msgspec.structs.replace(manifest, signature=None, key=None)
    if signer is not None:
        made = sign_manifest(signer, SessionId(session), made)
    last["body"] = codec.encode(SessionStopped(manifest=made)).decode()
    forged = {
        **members,
        "events.jsonl": b"".join([*lines[:at], one_spelling(last)]),
        "manifest.json": last["body"].encode(),
    }
    head = CHECKER.event_digest(last["subject"], last["headers"], last["body"].encode())
    facts = {"head": head, "version": last["sequence"], "messages": at + 1}
    return with_json(forged, "bundle.json", lambda said: said.update(facts))


def test_a_manifest_signed_by_another_key_is_not_believed(recorded: Recorded) -> None:
    """A forger who signs a whole bundle anew is found by whoever brings the right keys along."""
    forged = packed(_resigned(unpacked(recorded.whole), Signer(generate_seed())))
    assert ours(forged, recorded.folder).signature.verdict == "unlisted"
    with pytest.raises(IntegrityError, match="a key that is not in the list of keys"):
        ours(forged, recorded.folder, keys=recorded.trusted())
    CHECKER.check_bundle(io.BytesIO(forged), None)
    with pytest.raises(ValueError, match="not by"):
        CHECKER.check_bundle(io.BytesIO(forged), recorded.key)


def test_a_manifest_without_a_signature_can_be_refused(recorded: Recorded) -> None:
    """A signature that was taken off is missed when one is required."""
    forged = packed(_resigned(unpacked(recorded.whole), None))
    assert ours(forged, recorded.folder, keys=recorded.trusted()).signature.verdict == "unsigned"
    with pytest.raises(IntegrityError, match="carries no signature"):
        ours(forged, recorded.folder, keys=recorded.trusted(), require_signature=True)


def test_a_manifest_of_another_session_does_not_fit(recorded: Recorded) -> None:
    """A good signature for another session is none for this one."""
    seed = (recorded.folder / "seed").read_text()
    forged = packed(_resigned(unpacked(recorded.whole), Signer(seed), session="other"))
    assert "is not what its signature was made for" in refused(forged, recorded.folder)
