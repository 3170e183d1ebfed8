"""Snapshots: a session's state at a version, kept so that loading reads only what came after.

Best effort: a snapshot is believed only when it was made by the very rules in use (the fingerprint)
and the log still has its last event (the digest). Without one, the history is read from its start.

The value is MessagePack, not JSON: nobody but this module reads it, and its maps keep integer keys.
"""

import hashlib
import inspect
import logging
import secrets

import msgspec

from lucid_events.domain import envelope, events, state, transitions, upcast, values
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import Digest, SessionId, Version
from lucid_events.domain.state import Session
from lucid_events.errors import LucidError
from lucid_events.ports import EventStore, KeyValue

_log = logging.getLogger(__name__)


def _fingerprint() -> str:
    hashed = hashlib.sha256()
    try:
        for module in (state, transitions, events, values, envelope, upcast):
            hashed.update(inspect.getsource(module).encode())
    except OSError:
        # Shipped without source: nothing can be compared, so no other process's snapshot is believed.
        return secrets.token_hex(32)
    return hashed.hexdigest()


EVOLVE_FINGERPRINT = _fingerprint()
"""SHA-256 over the source of everything `evolve` depends on: other rules, other snapshots."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A history summed up: its last message is the event with digest `head`, at `version`."""

    fingerprint: str
    version: Version
    head: Digest
    damage: str | None
    state: Session


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Snapshot).decode


class Snapshots:
    """The snapshots of all sessions in one bucket, or none at all.

    No method raises what the package raises: a snapshot that can't be had is one that isn't there.
    """

    def __init__(self, bucket: KeyValue | None, store: EventStore) -> None:
        self._bucket, self._store = bucket, store

    async def find(self, session: SessionId) -> Snapshot | None:
        """Return the session's snapshot if the log bears it out, else None."""
        if self._bucket is None:
            return None
        try:
            entry = await self._bucket.get(session)
            if entry is None:
                return None
            snapshot = _decode(entry[0])
            if snapshot.fingerprint != EVOLVE_FINGERPRINT or snapshot.state.id != session:
                return None
            if await self._stands(session, snapshot):
                return snapshot
            _log.warning("snapshot disagrees with the log: read from the start", extra={"session": session})
        except (LucidError, msgspec.DecodeError) as exc:
            _log.warning("snapshot not used", extra={"session": session, "reason": str(exc)})
        return None

    async def keep(self, snapshot: Snapshot) -> None:
        """Write the snapshot over the last one; an older one written late does no harm."""
        if self._bucket is None:
            return
        try:
            await self._bucket.put(snapshot.state.id, _encode(snapshot))
        except LucidError as exc:
            _log.warning("snapshot not written", extra={"session": snapshot.state.id, "reason": str(exc)})

    async def _stands(self, session: SessionId, snapshot: Snapshot) -> bool:
        stands = False
        before = Version(snapshot.version - 1)
        async for message in self._store.read(session, after=before, upto=snapshot.version):
            stands = isinstance(message, Recorded) and message.digest == snapshot.head
        return stands
