import hashlib

import msgspec
import pytest

from lucid_events.domain.ids import SessionId
from lucid_events.domain.values import CodecTotals, Manifest, Span
from lucid_events.evidence.manifests import TAG, Signature, check_signature, manifest_message, sign_manifest
from lucid_events.evidence.signing import Signer, generate_seed

SID = SessionId("s1")
KEY = "AAB2CB576PHBBPQ5ODORRZ2LYCMWPZGWGCN2KDK7DXOIMZASKUY3QPZV"
MANIFEST = Manifest(
    version=2,
    chunks=3,
    raw_bytes=31,
    stored_bytes=12,
    end_offset=40,
    gaps=(Span(start=10, end=19),),
    gap_bytes=9,
    failed=(3, 5),
    merkle_root="ab" * 32,
    chain_head="cd" * 32,
    events=17,
    codecs={
        "zstd": CodecTotals(chunks=2, raw_bytes=21, stored_bytes=7),
        "gzip": CodecTotals(chunks=1, raw_bytes=10, stored_bytes=5),
    },
)
PINNED = "24c3326edfbcecc4d72657eabe2252fc89b0d3ba63ed4d100b9137dcc8040e1d"
OTHER: dict[str, object] = {
    "version": 3,
    "chunks": 4,
    "raw_bytes": 32,
    "stored_bytes": 13,
    "end_offset": 41,
    "gaps": (Span(start=10, end=18),),
    "gap_bytes": 8,
    "failed": (3,),
    "merkle_root": "ac" * 32,
    "chain_head": "ce" * 32,
    "events": 18,
    "codecs": {"gzip": CodecTotals(chunks=1, raw_bytes=10, stored_bytes=5)},
}


def test_what_is_signed_is_the_documented_framing() -> None:
    """The message is the fields of the manifest in their documented order, each behind its length."""
    fields = [TAG, "s1", KEY, "2", "3", "31", "12", "40", "9", "ab" * 32, "cd" * 32, "17"]
    fields += ["1", "10", "19", "2", "3", "5", "2", "gzip", "1", "10", "5", "zstd", "2", "21", "7"]
    framed = b"".join(len(field).to_bytes(8, "big") + field.encode() for field in fields)
    assert manifest_message(SID, KEY, MANIFEST) == framed
    assert hashlib.sha256(framed).hexdigest() == PINNED, "what was signed once has to verify for ever"


def test_every_field_is_signed() -> None:
    """A manifest that differs in any field, session or key is not what was signed."""
    signed = sign_manifest(Signer(generate_seed()), SID, MANIFEST)
    assert check_signature(SID, signed) is Signature.GOOD
    assert {*OTHER, "signature", "key"} == set(Manifest.__struct_fields__), "a field nobody signs"
    for name, value in OTHER.items():
        changed = msgspec.structs.replace(signed, **{name: value})
        assert check_signature(SID, changed) is Signature.WRONG, name
    assert check_signature(SessionId("s2"), signed) is Signature.WRONG
    other = msgspec.structs.replace(signed, key=Signer(generate_seed()).key)
    assert check_signature(SID, other) is Signature.WRONG


@pytest.mark.parametrize(
    ("signature", "key", "said"),
    [
        (None, None, Signature.NONE),
        (None, KEY, Signature.WRONG),
        ("c2ln", None, Signature.WRONG),
        ("c2ln", KEY, Signature.WRONG),
        ("c2ln", "a2V5", Signature.WRONG),
    ],
)
def test_half_a_signature_is_a_wrong_one(signature: str | None, key: str | None, said: Signature) -> None:
    """Only a manifest with neither signature nor key is unsigned; anything in between is wrong."""
    manifest = msgspec.structs.replace(MANIFEST, signature=signature, key=key)
    assert check_signature(SID, manifest) is said
