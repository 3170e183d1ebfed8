"""What a signature on a manifest stands for: the bytes that are signed, field by field.

    message  = frame(tag) frame(session) frame(key)
               frame(version) frame(chunks) frame(raw_bytes) frame(stored_bytes) frame(end_offset)
               frame(gap_bytes) frame(merkle_root) frame(chain_head) frame(events)
               frame(number of gaps)   { frame(start) frame(end) }              in their order
               frame(number of failed) { frame(index) }                         in their order
               frame(number of codecs) { frame(name) frame(chunks) frame(raw_bytes) frame(stored_bytes) }
                                                                                by the bytes of the name
    tag      = "lucid_events/manifest/v1"
    key      = the public key that signs, as text
    numbers    decimal ASCII without leading zeros; digests 64 lower-case hexadecimal digits
    frame(x) = length of x as 8 bytes, big endian, then x (`framing.py`)

The session is in it, so a manifest of another session does not fit, and the chain head, so every
event before the manifest is signed with it. A field added later is signed under a new tag.
"""

from enum import StrEnum

from msgspec.structs import replace

from lucid_events.domain.ids import SessionId
from lucid_events.domain.values import Manifest
from lucid_events.errors import ConfigError
from lucid_events.evidence.framing import framed
from lucid_events.evidence.signing import Signer, verify

TAG = "lucid_events/manifest/v1"

MAX_GAPS = 1000
"""Gaps named one by one in a manifest: 60 KiB. `gap_bytes` counts all of them; twice as many would
come close to the largest event there may be."""


class Signature(StrEnum):
    """What can be said of a manifest's signature without knowing whom to trust."""

    NONE = "unsigned"
    GOOD = "good"
    WRONG = "wrong"


def manifest_message(session: SessionId, key: str, manifest: Manifest) -> bytes:
    """Return the bytes that `key` signs for `manifest` of `session`."""
    codecs = sorted(manifest.codecs.items(), key=lambda item: item[0].encode())
    numbers: list[object] = [len(manifest.gaps)]
    for gap in manifest.gaps:
        numbers += (gap.start, gap.end)
    numbers += (len(manifest.failed), *manifest.failed, len(codecs))
    for name, totals in codecs:
        numbers += (name, totals.chunks, totals.raw_bytes, totals.stored_bytes)
    fields = (
        manifest.version,
        manifest.chunks,
        manifest.raw_bytes,
        manifest.stored_bytes,
        manifest.end_offset,
        manifest.gap_bytes,
        manifest.merkle_root,
        manifest.chain_head,
        manifest.events,
    )
    return framed(TAG, session, key, *(str(value) for value in (*fields, *numbers)))


def sign_manifest(signer: Signer, session: SessionId, manifest: Manifest) -> Manifest:
    """Return `manifest` with the signature and the key of `signer`."""
    return replace(
        manifest, signature=signer.sign(manifest_message(session, signer.key, manifest)), key=signer.key
    )


def check_signature(session: SessionId, manifest: Manifest) -> Signature:
    """Return whether the manifest is signed by the key it names; whose key that is, a key list says."""
    if manifest.signature is None and manifest.key is None:
        return Signature.NONE
    if manifest.signature is None or manifest.key is None:
        return Signature.WRONG
    try:
        good = verify(manifest.key, manifest.signature, manifest_message(session, manifest.key, manifest))
    except ConfigError:  # what it names is no key at all
        good = False
    return Signature.GOOD if good else Signature.WRONG
