"""What must hold of a session whatever happened to it, checked from what is stored and nothing else."""

import asyncio
import hashlib
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from lucid_events.config import Settings
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import NO_DIGEST, Digest, SessionId
from lucid_events.domain.legality import violations
from lucid_events.domain.state import evolve, initial
from lucid_events.domain.values import CodecTotals, Manifest, Span
from lucid_events.errors import LucidError, StoreUnavailable
from lucid_events.evidence.merkle import MerkleTree
from lucid_events.playback import Bytes
from lucid_events.service import Client, connect
from lucid_events.service.letters import open_letters
from lucid_events.service.rebuilding import rebuild_status

SETTLE_S = 60.0
"""Longest until a session has ended and nothing of it is on its way any more."""
LOOK_S = 0.05

Kind = TypeVar("Kind", bound=ev.SessionEvent)


class Audited(msgspec.Struct, frozen=True):
    """A session that has passed: its history, in order, and the bytes it plays."""

    history: tuple[Recorded, ...]
    state: str
    played: bytes

    def of(self, kind: type[Kind]) -> list[Kind]:
        """Return the events of one kind."""
        return [recorded.event for recorded in self.history if isinstance(recorded.event, kind)]


def last_acked(acked_file: Path) -> int:
    """Return the highest offset a recorder has noted as durable; a line torn by a kill counts not."""
    said = acked_file.read_text() if acked_file.exists() else ""
    return max((int(line) for line in said.splitlines(keepends=True) if line.endswith("\n")), default=0)


def audit(url: str, sid: str, source: bytes, *, acked: int = 0, settle_s: float = SETTLE_S) -> Audited:
    """Wait until the session has ended and settled, check every promise, and return what was found.

    Args:
        url: where the pipeline is.
        sid: which session.
        source: what was to be recorded; the session holds a beginning of it.
        acked: so much of it at least.
        settle_s: how long to wait for the end; nothing is done to bring it about.
    """
    return asyncio.run(_audit(url, SessionId(sid), source, acked, settle_s))


async def _audit(url: str, sid: SessionId, source: bytes, acked: int, settle_s: float) -> Audited:
    deadline = time.monotonic() + settle_s
    while True:
        try:
            return await _checked(url, sid, source, acked, settle_s)
        except StoreUnavailable:  # it says to try again: servers that were down elect their leaders
            if time.monotonic() > deadline:
                raise


async def _checked(url: str, sid: SessionId, source: bytes, acked: int, settle_s: float) -> Audited:
    async with connect(Settings(nats_url=url), name="audit") as client:
        history = await _settled(client, sid, settle_s)
        found = Audited(tuple(history), _state(history), b"".join(await _played(client, sid)))
        _check_chain(found)
        assert not [f"{r.type} at {r.sequence}: {why}" for r, why in violations(history)]
        _check_chunks(found)
        _check_manifest(found)
        for ready in found.of(ev.ChunkReady):
            await _check_object(client, ready)
        assert len(found.played) >= acked, f"{acked} bytes were acked, {len(found.played)} are there"
        assert found.played == source[: len(found.played)], "other bytes are played than were recorded"
        rebuilt = await rebuild_status(client.adapters)
        assert not rebuilt.differences
        await _check_capture(client)
    async with open_letters(Settings(nats_url=url)) as letters:
        assert not [letter async for letter in letters.list()], "messages were set aside"
    return found


async def _settled(client: Client, sid: SessionId, within_s: float) -> list[Recorded]:
    """Return the history once the session has ended, nothing is pending and capture is purged."""
    deadline, why = time.monotonic() + within_s, ""
    while time.monotonic() < deadline:
        with suppress(LucidError):
            why, history = await _unsettled(client, sid)
            if not why:
                return history
        await asyncio.sleep(LOOK_S)
    raise AssertionError(f"{sid} has not settled within {within_s:g} s: {why}")


async def _unsettled(client: Client, sid: SessionId) -> tuple[str, list[Recorded]]:
    history = [message async for message in client.store.read(sid)]
    assert all(isinstance(message, Recorded) for message in history), "a stray message is in the history"
    recorded = [message for message in history if isinstance(message, Recorded)]
    if not recorded:
        return "there is no history", recorded
    settled = {r.event.index for r in recorded if isinstance(r.event, ev.ChunkReady | ev.ChunkFailed)}
    waiting = [r.event.index for r in recorded if isinstance(r.event, ev.ChunkSealed)]
    if open_ := [index for index in waiting if index not in settled]:
        return f"chunks {open_} are neither ready nor failed", recorded
    if (state := _state(recorded)) not in ("stopped", "error"):
        return f"the session is {state}", recorded
    if left := await _captured(client):
        return f"capture holds {left}", recorded
    view = await client.status(sid)
    if view.position.sequence != recorded[-1].sequence:
        return f"the view is at {view.position.sequence} of {recorded[-1].sequence}", recorded
    return "", recorded


def _state(history: list[Recorded]) -> str:
    """Return the state the history adds up to: marks and holds behind the end move nothing."""
    if not history:
        return "nothing"
    session = initial(history[0].session)
    for recorded in history:
        session = evolve(session, recorded)
    return str(session.state)


async def _played(client: Client, sid: SessionId) -> list[bytes]:
    parts = [part async for part in client.player.play(sid)]
    missing = [part for part in parts if not isinstance(part, Bytes)]
    assert not missing, f"bytes are missing: {missing}"
    return [bytes(part.data) for part in parts if isinstance(part, Bytes)]


def _check_chain(found: Audited) -> None:
    head = NO_DIGEST
    for recorded in found.history:
        assert recorded.prev == head, f"the chain is broken at {recorded.sequence}"
        head = recorded.digest
    ids = [recorded.id for recorded in found.history]
    assert len(set(ids)) == len(ids), "an event is there twice"


def _check_chunks(found: Audited) -> None:
    """One `chunk.ready` for each index, indices and offsets without a hole or an overlap, gaps aside."""
    sealed, ready = found.of(ev.ChunkSealed), found.of(ev.ChunkReady)
    assert [chunk.index for chunk in sealed] == list(range(len(sealed)))
    assert sorted(chunk.index for chunk in ready) == list(range(len(sealed))), "not one ready for each sealed"
    assert not found.of(ev.ChunkFailed)
    at = 0
    for chunk in sealed:
        assert chunk.offset == at + chunk.gap_before, f"chunk {chunk.index} does not follow {at}"
        at = chunk.offset + chunk.size
    same = {(chunk.index, chunk.offset, chunk.size, chunk.sha256) for chunk in sealed}
    assert {(chunk.index, chunk.offset, chunk.size, chunk.sha256) for chunk in ready} == same
    for chunk in sealed:
        data = found.played[chunk.offset : chunk.offset + chunk.size]
        assert hashlib.sha256(data).hexdigest() == chunk.sha256


def _check_manifest(found: Audited) -> None:
    """The last manifest says what the events before it add up to, computed here a second time."""
    stops = [n for n, recorded in enumerate(found.history) if isinstance(recorded.event, ev.SessionStopped)]
    if not stops:
        return
    before = found.history[: stops[-1]]
    earlier = Audited(before, "", b"")
    tree = MerkleTree()
    codecs: dict[str, list[ev.ChunkReady]] = {}
    ready = sorted(earlier.of(ev.ChunkReady), key=lambda chunk: chunk.index)
    for chunk in ready:
        tree.add(Digest(chunk.sha256))
        codecs.setdefault(chunk.codec, []).append(chunk)
    gaps = tuple(Span(start=gap.start, end=gap.end) for gap in earlier.of(ev.GapDeclared))
    stopped: Any = found.history[stops[-1]].event
    assert stopped.manifest == Manifest(
        version=len(stops),
        chunks=len(ready),
        raw_bytes=sum(chunk.size for chunk in ready),
        stored_bytes=sum(chunk.stored_size for chunk in ready),
        end_offset=sum(chunk.size for chunk in ready) + sum(gap.end - gap.start for gap in gaps),
        gaps=gaps,
        gap_bytes=sum(gap.end - gap.start for gap in gaps),
        merkle_root=tree.root,
        chain_head=before[-1].digest,
        events=len(before),
        codecs={
            codec: CodecTotals(
                chunks=len(chunks),
                raw_bytes=sum(chunk.size for chunk in chunks),
                stored_bytes=sum(chunk.stored_size for chunk in chunks),
            )
            for codec, chunks in codecs.items()
        },
        signature=stopped.manifest.signature,
        key=stopped.manifest.key,
    )


async def _check_object(client: Client, ready: ev.ChunkReady) -> None:
    stored = await client.adapters.bucket(ready.bucket).get(ready.object)
    assert len(stored) == ready.stored_size
    assert hashlib.sha256(stored).hexdigest() == ready.stored_sha256


async def _captured(client: Client) -> list[str]:
    """Return the subjects of capture that still hold bytes."""
    adapters = client.adapters
    body = {"subjects_filter": f"{adapters.subjects.prefix}.cap.>"}
    info = await adapters.connection.api(f"STREAM.INFO.{adapters.subjects.capture_stream}", body)
    kept = adapters.subjects.ballast
    return [s for s in info["state"].get("subjects") or {} if ".fence." not in s and s not in kept]


async def _check_capture(client: Client) -> None:
    assert not await _captured(client), "bytes are left in capture"
