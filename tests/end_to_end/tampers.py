"""Ways to tamper with a recording, each with what has to be named; `test_tamper.py` tries every one.

They go from clumsy to able: the last ones mend every link and view, and leave the signature alone.
"""
# ruff: noqa: D103 - the name of each function is its sentence

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from lucid_events.domain.ids import SessionId
from lucid_events.domain.values import Manifest
from lucid_events.evidence.differences import What
from lucid_events.evidence.keys import KeyList
from lucid_events.evidence.manifests import sign_manifest
from lucid_events.evidence.signing import Signer, generate_seed
from tests.end_to_end.forging import EVENTS, OBJECTS, Message, Store

SID = SessionId("s1")


@dataclass
class Taken:
    """Two signed recordings as they stood when they were stopped, and the keys that are believed."""

    store: Store
    keys: KeyList
    signer: Signer


@dataclass
class Found:
    """What has to be named: the kind, and the place."""

    what: What
    sequence: int | None = None
    index: int | None = None


Tamper = Callable[[Store, Taken], Found]
TAMPERS: dict[str, Tamper] = {}


def tamper(change: Tamper) -> Tamper:
    """Add a way to tamper to the table."""
    TAMPERS[change.__name__] = change
    return change


# chunks: the objects and their pieces


@tamper
def a_bit_of_a_chunk_is_flipped(store: Store, taken: Taken) -> Found:
    store.pieces(2)[0].flip(5000, 3)
    return Found(What.OBJECT_BYTES, index=2)


@tamper
def the_last_byte_of_a_chunk_is_cut_off(store: Store, taken: Taken) -> Found:
    piece = store.pieces(3)[0]
    piece.data = piece.data[:-1]
    return Found(What.OBJECT_BYTES, index=3)


@tamper
def a_chunk_is_removed_with_its_metadata(store: Store, taken: Taken) -> Found:
    for message in (*store.pieces(1), store.meta(1)):
        message.kept = False
    return Found(What.OBJECT_MISSING, index=1)


@tamper
def a_chunk_is_marked_as_deleted(store: Store, taken: Taken) -> Found:
    store.meta(0).edit(deleted=True)
    return Found(What.OBJECT_MISSING, index=0)


@tamper
def the_pieces_of_a_chunk_are_removed(store: Store, taken: Taken) -> Found:
    for message in store.pieces(1):
        message.kept = False
    return Found(What.OBJECT_BYTES, index=1)


@tamper
def the_bytes_of_two_chunks_are_swapped(store: Store, taken: Taken) -> Found:
    one, other = store.pieces(1)[0], store.pieces(2)[0]
    one.data, other.data = other.data, one.data
    return Found(What.OBJECT_BYTES, index=1)


@tamper
def the_metadata_of_two_chunks_is_swapped(store: Store, taken: Taken) -> Found:
    one, other = store.meta(1), store.meta(2)
    one.data, other.data = other.data, one.data
    return Found(What.OBJECT_METADATA, index=1)


@tamper
def a_piece_is_there_twice(store: Store, taken: Taken) -> Found:
    piece = store.pieces(0)[-1]
    store.streams[OBJECTS].append(Message(piece.subject, {}, piece.data))
    return Found(What.OBJECT_BYTES, index=0)


@tamper
def a_chunk_of_another_session_stands_in_its_place(store: Store, taken: Taken) -> Found:
    store.pieces(2)[0].data = store.pieces(2, "s2")[0].data
    return Found(What.OBJECT_BYTES, index=2)


@tamper
def the_digest_of_an_object_is_changed(store: Store, taken: Taken) -> Found:
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"").digest()).decode()
    store.meta(2).edit(digest=f"SHA-256={digest}")
    return Found(What.OBJECT_METADATA, index=2)


@tamper
def the_metadata_of_an_object_names_another_codec(store: Store, taken: Taken) -> Found:
    meta = store.meta(3)
    meta.edit(metadata={**meta.json["metadata"], "codec": "store"})
    return Found(What.OBJECT_METADATA, index=3)


@tamper
def an_object_gets_a_field_of_metadata_more(store: Store, taken: Taken) -> Found:
    meta = store.meta(0)
    meta.edit(metadata={**meta.json["metadata"], "note": "harmless"})
    return Found(What.OBJECT_METADATA, index=0)


@tamper
def the_metadata_of_an_object_is_no_metadata(store: Store, taken: Taken) -> Found:
    store.meta(1).data = b"{}"
    return Found(What.OBJECT_BYTES, index=1)


@tamper
def an_object_is_replaced_as_its_writer_would(store: Store, taken: Taken) -> Found:
    """Other bytes, with metadata that fits them."""
    data = store.pieces(1, "s2")[0].data
    store.pieces(1)[0].data = data
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()
    store.meta(1).edit(size=len(data), digest=f"SHA-256={digest}")
    return Found(What.OBJECT_METADATA, index=1)


# events: bodies and headers


def behind(store: Store, message: Message) -> int:
    """Return the sequence of the event behind `message`, where a broken link shows."""
    events = store.events()
    return store.sequence(events[events.index(message) + 1])


@tamper
def a_bit_of_an_event_is_flipped(store: Store, taken: Taken) -> Found:
    event = store.events(kind="chunk.ready")[1]
    event.flip(event.data.index(b'"ratio":') + 8)  # a digit stays a digit
    return Found(What.CHAIN, sequence=behind(store, event))


@tamper
def an_event_is_made_unreadable(store: Store, taken: Taken) -> Found:
    event = store.events(kind="chunk.sealed")[1]
    event.flip(0, 7)
    return Found(What.UNREADABLE, sequence=store.sequence(event))


@tamper
def the_time_of_an_event_is_changed(store: Store, taken: Taken) -> Found:
    event = store.events(kind="recorder.attached")[0]
    event.headers["ce-time"] = "2020-01-01T00:00:00.000000Z"
    return Found(What.CHAIN, sequence=behind(store, event))


@tamper
def the_actor_of_an_event_is_changed(store: Store, taken: Taken) -> Found:
    event = store.events(kind="session.created")[0]
    event.headers["Lucid-Actor"] = "somebody else"
    return Found(What.CHAIN, sequence=behind(store, event))


@tamper
def a_link_is_changed(store: Store, taken: Taken) -> Found:
    event = store.events(kind="chunk.sealed")[2]
    event.headers["Lucid-Prev"] = "0" * 64
    return Found(What.CHAIN, sequence=store.sequence(event))


@tamper
def an_event_is_made_a_stray(store: Store, taken: Taken) -> Found:
    event = store.events(kind="chunk.ready")[2]
    del event.headers["ce-id"]
    return Found(What.FOREIGN, sequence=store.sequence(event))


@tamper
def the_last_event_is_made_a_stray(store: Store, taken: Taken) -> Found:
    event = store.events(kind="session.stopped")[-1]
    del event.headers["ce-id"]
    return Found(What.FOREIGN, sequence=store.sequence(event))


@tamper
def a_message_is_put_in_that_is_no_event(store: Store, taken: Taken) -> Found:
    junk = store.append(Message("lucid.evt.s1.forged", {}, b'{"stream":"LUCID_CAPTURE","seq":1}'))
    return Found(What.FOREIGN, sequence=store.sequence(junk))


@tamper
def an_event_is_given_another_type(store: Store, taken: Taken) -> Found:
    event = store.events(kind="session.started")[0]
    event.headers["ce-type"] = "session.rewritten.v1"
    return Found(What.UNREADABLE, sequence=store.sequence(event))


@tamper
def an_event_is_moved_to_another_session(store: Store, taken: Taken) -> Found:
    event = store.events(kind="chunk.ready")[0]
    place = behind(store, event)
    event.subject = event.subject.replace(".s1.", ".s2.")
    return Found(What.CHAIN, sequence=place)


# histories: what is in them, and in which order


@tamper
def an_event_is_removed(store: Store, taken: Taken) -> Found:
    event = store.events(kind="chunk.ready")[1]
    place = behind(store, event)
    event.kept = False
    return Found(What.CHAIN, sequence=place)


@tamper
def the_first_event_is_removed(store: Store, taken: Taken) -> Found:
    event = store.events()[0]
    place = behind(store, event)
    event.kept = False
    return Found(What.CHAIN, sequence=place)


@tamper
def two_events_change_places(store: Store, taken: Taken) -> Found:
    log = store.streams[EVENTS]
    one, other = (store.sequence(event) - 1 for event in store.events(kind="chunk.sealed")[1:3])
    log[one], log[other] = log[other], log[one]
    return Found(What.CHAIN, sequence=one + 1)


@tamper
def an_event_is_there_twice(store: Store, taken: Taken) -> Found:
    event = store.events(kind="chunk.ready")[0]
    again = store.append(Message(event.subject, dict(event.headers), event.data))
    return Found(What.CHAIN, sequence=store.sequence(again))


@tamper
def an_event_is_forged_at_the_end(store: Store, taken: Taken) -> Found:
    last = store.events()[-1]
    headers = {**last.headers, "ce-type": "session.marked.v1", "Lucid-Prev": "ab" * 32}
    subject = "lucid.evt.s1.session.marked"
    forged = store.append(Message(subject, headers, b'{"label":"nothing to see","offset":0}'))
    return Found(What.CHAIN, sequence=store.sequence(forged))


@tamper
def an_illegal_event_is_forged_with_a_good_link(store: Store, taken: Taken) -> Found:
    ready = store.events(kind="chunk.ready")[0]
    forged = store.append(Message(ready.subject, dict(ready.headers), ready.data))
    store.chain()
    return Found(What.ILLEGAL, sequence=store.sequence(forged))


@tamper
def the_end_of_a_history_is_cut_off(store: Store, taken: Taken) -> Found:
    last = store.events()[-1]
    place = store.sequence(last)
    last.kept = False
    return Found(What.TRUNCATED, sequence=place)


@tamper
def a_whole_history_is_cut_off(store: Store, taken: Taken) -> Found:
    place = store.sequence(store.events()[-1])
    for event in store.events():
        event.kept = False
    return Found(What.TRUNCATED, sequence=place)


@tamper
def the_last_event_has_another_time(store: Store, taken: Taken) -> Found:
    last = store.events()[-1]
    last.headers["ce-time"] = "2020-01-01T00:00:00.000000Z"
    return Found(What.REWRITTEN, sequence=store.sequence(last))


# manifests and signatures; whoever does this mends the chain and the views as well


def manifest_of(message: Message) -> Manifest:
    """Return the manifest in an event."""
    return msgspec.convert(message.json["manifest"], Manifest)


def set_manifest(message: Message, manifest: Manifest) -> None:
    """Put another manifest into an event."""
    message.write({"manifest": msgspec.to_builtins(manifest)})


@tamper
def a_manifest_of_another_session_stands_in_its_place(store: Store, taken: Taken) -> Found:
    stopped = store.events()[-1]
    stopped.data = store.events("s2")[-1].data
    store.chain(remember=True)
    return Found(What.SIGNATURE, sequence=store.sequence(stopped))


@tamper
def a_count_in_the_manifest_is_changed(store: Store, taken: Taken) -> Found:
    stopped = store.events()[-1]
    manifest = manifest_of(stopped)
    set_manifest(stopped, msgspec.structs.replace(manifest, stored_bytes=manifest.stored_bytes + 1))
    store.chain(remember=True)
    return Found(What.SIGNATURE, sequence=store.sequence(stopped))


@tamper
def a_wrong_manifest_is_signed_by_the_right_key(store: Store, taken: Taken) -> Found:
    stopped = store.events()[-1]
    wrong = msgspec.structs.replace(manifest_of(stopped), merkle_root="ab" * 32)
    set_manifest(stopped, sign_manifest(taken.signer, SID, wrong))
    store.chain(remember=True)
    return Found(What.MANIFEST, sequence=store.sequence(stopped))


@tamper
def a_manifest_is_signed_by_another_key(store: Store, taken: Taken) -> Found:
    stopped = store.events()[-1]
    set_manifest(stopped, sign_manifest(Signer(generate_seed()), SID, manifest_of(stopped)))
    store.chain(remember=True)
    return Found(What.KEY, sequence=store.sequence(stopped))


@tamper
def a_signature_is_put_under_another_key(store: Store, taken: Taken) -> Found:
    stopped = store.events()[-1]
    set_manifest(stopped, msgspec.structs.replace(manifest_of(stopped), key=Signer(generate_seed()).key))
    store.chain(remember=True)
    return Found(What.SIGNATURE, sequence=store.sequence(stopped))


@tamper
def a_signature_is_taken_off(store: Store, taken: Taken) -> Found:
    stopped = store.events()[-1]
    set_manifest(stopped, msgspec.structs.replace(manifest_of(stopped), key=None, signature=None))
    store.chain(remember=True)
    return Found(What.UNSIGNED)


@tamper
def a_chunk_is_rewritten_throughout(store: Store, taken: Taken) -> Found:
    """Object, metadata, events, links and views all agree; the manifest was signed before."""
    data = store.pieces(1, "s2")[0].data
    sha = hashlib.sha256(data).hexdigest()
    store.pieces(1)[0].data = data
    digest = base64.urlsafe_b64encode(bytes.fromhex(sha)).decode()
    store.meta(1).edit(size=len(data), digest=f"SHA-256={digest}")
    store.events(kind="chunk.ready")[1].edit(stored_size=len(data), stored_sha256=sha)
    store.chain(remember=True)
    return Found(What.MANIFEST, sequence=store.sequence(store.events()[-1]))


@tamper
def a_chunk_is_left_out_throughout(store: Store, taken: Taken) -> Found:
    """A seal and its ready are gone and every link is mended: the offsets have a hole that is no gap."""
    sealed, ready = store.events(kind="chunk.sealed")[1], store.events(kind="chunk.ready")[1]
    place = store.sequence(store.events(kind="chunk.sealed")[2])
    sealed.kept = ready.kept = False
    store.chain(remember=True)
    return Found(What.ILLEGAL, sequence=place)


@tamper
def a_gap_is_made_up(store: Store, taken: Taken) -> Found:
    sealed = store.events(kind="chunk.sealed")[2]
    sealed.edit(gap_before=512)
    store.chain(remember=True)
    return Found(What.ILLEGAL, sequence=store.sequence(sealed))
