"""One complete example per event and command version: every field set, none at its default.

Landed samples are never written again (`landing.py`), so they are what an old message looked like.
"""

from datetime import UTC, datetime, timedelta

from lucid_events import codec
from lucid_events.contracts.schemas import Document, plain
from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import NewEvent
from lucid_events.domain.ids import NO_DIGEST, Digest, SessionId, event_id
from lucid_events.domain.values import (
    CodecTotals,
    Frames,
    Manifest,
    Quality,
    Retention,
    RetentionAsked,
    SessionSettings,
    SettingsAsked,
    Span,
)
from lucid_events.evidence import chain
from lucid_events.subjects import Subjects

_SID = SessionId("s1")
_ID = "7d1f1e9a-6b1c-4f0e-9c59-0d1a2b3c4d5e"
_TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
_AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
_THEN = datetime(2026, 1, 2, 3, 3, 26, 5, tzinfo=UTC)
_RAW = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_STORED = "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"
_HEAD = Digest("fd61a03af4f77d870fc21e05e7e80678095c92d808cfb3b5c279ee04c74aca13")

_MANIFEST = Manifest(
    version=2,
    chunks=3,
    raw_bytes=31457280,
    stored_bytes=12582912,
    end_offset=31457792,
    gaps=(Span(start=10485760, end=10486272),),
    gap_bytes=512,
    failed=(3,),
    merkle_root=_RAW,
    chain_head=_HEAD,
    events=17,
    codecs={"zstd": CodecTotals(chunks=3, raw_bytes=31457280, stored_bytes=12582912)},
    signature="c2lnbmF0dXJl",
    key="a2V5",
)

_RETENTION = Retention(payload_days=7.5, metadata_days=365)

EVENTS: tuple[ev.SessionEvent, ...] = (
    ev.SessionCreated(
        owner="ann",
        label="Night shift",
        metadata={"site": "north", "desk": "7"},
        settings=SessionSettings(
            chunk_bytes=5242880,
            chunk_seconds=60.5,
            codec="zstd",
            level=9,
            retention=_RETENTION,
        ),
    ),
    ev.SessionStarted(),
    ev.SessionPausing(reason="lunch"),
    ev.SessionPaused(offset=10485760),
    ev.SessionResumed(offset=10485760),
    ev.SessionStopping(reason="end of shift"),
    ev.SessionStopped(manifest=_MANIFEST),
    ev.SessionFailed(code="recorder_lost", reason="no beat for 30 s"),
    ev.SessionRecovered(reason="recorder replaced"),
    ev.SessionMarked(label="alarm", offset=4711),
    ev.SessionHeld(hold="case-7", reason="audit"),
    ev.SessionReleased(hold="case-7", reason="closed"),
    ev.SessionCleanupProposed(
        retention=_RETENTION, source="service", ended_at=_THEN, due=_THEN + timedelta(days=14.5)
    ),
    ev.SessionCleanupStarted(reason="retention", proposed=21),
    ev.SessionDestroyed(objects=3, stored_bytes=12582912, reason="retention"),
    ev.SessionViewed(start=10485760, end=20971520, how="play"),
    ev.SessionVerified(
        version=17,
        head=_HEAD,
        holds=False,
        chunks=3,
        ready=4,
        raw_bytes=31457280,
        signature="signed",
        differences=2,
        first="object_missing: session s1, chunk 3: there is no such object in its bucket",
        seed="8a522cc0b829cbf9",
    ),
    ev.RecorderAttached(
        epoch=2,
        recorder="desk-7",
        offset=10485760,
        source="upload",
        content_type="video/mp4",
        takeover=True,
        resumable=True,
    ),
    ev.RecorderDrained(epoch=2, offset=31457792),
    ev.RecorderDetached(epoch=2, offset=31457792, reason="source ended", exit_code=3),
    ev.RecorderLost(epoch=1, reason="taken over", last_seen=_THEN),
    ev.RecorderSlowed(epoch=2, offset=10485760, step="spooling", reason="capture is full"),
    ev.ChunkSealed(
        index=1,
        epoch=2,
        n=4,
        offset=10486272,
        size=10485760,
        sha256=_RAW,
        first_seq=101,
        last_seq=120,
        started_at=_THEN,
        ended_at=_AT,
        cut="salvage",
        recovered=True,
        gap_before=512,
        frames=Frames(delivered=1165, dropped=5),
    ),
    ev.ChunkReady(
        index=1,
        offset=10486272,
        size=10485760,
        stored_size=4194304,
        sha256=_RAW,
        stored_sha256=_STORED,
        codec="zstd",
        level=3,
        ratio=2.5,
        quality=Quality(score=0.9956, complete=0.9999, frames=0.9957),
        hash_by="salvage",
        bucket="lucid-chunks",
        object="s1/00000001-9f86d081884c7d65",
        timings_ms={"read": 21.5, "compress": 103.25, "store": 44.0},
    ),
    ev.ChunkFailed(index=3, code="corrupt", reason="the digest made at the source differs"),
    ev.ChunkCorrupt(
        index=3,
        what="object_bytes",
        reason="the stored bytes are not those that were stored",
        expected=_STORED,
        found=_RAW,
    ),
    ev.GapDeclared(epoch=2, start=10485760, end=10486272, reason="the source outran the spool"),
)

COMMANDS: tuple[cmd.SessionCommand, ...] = (
    cmd.Create(
        owner="ann",
        label="Night shift",
        metadata={"site": "north"},
        settings=SettingsAsked(
            chunk_bytes=5242880,
            chunk_seconds=60.5,
            codec="zstd",
            level=9,
            retention=RetentionAsked(payload_days=7.5, metadata_days=365),
        ),
    ),
    cmd.Start(),
    cmd.Pause(reason="lunch"),
    cmd.Resume(),
    cmd.Stop(reason="end of shift"),
    cmd.Fail(reason="the screen is gone", code="no_display"),
    cmd.Recover(reason="recorder replaced"),
    cmd.Mark(label="alarm", offset=4711),
    cmd.Hold(hold="case-7", reason="audit"),
    cmd.Release(hold="case-7", reason="closed"),
    cmd.View(start=10485760, end=20971520, how="export"),
    cmd.Cleanup(reason="retention"),
    cmd.Destroy(reason="never used"),
    cmd.Attach(recorder="desk-7", takeover=True, source="upload", content_type="video/mp4", resumable=True),
    cmd.Seal(
        epoch=2,
        n=4,
        offset=10486272,
        size=10485760,
        sha256=_RAW,
        first_seq=101,
        last_seq=120,
        started_at=_THEN,
        ended_at=_AT,
        cut="pressure",
        frames=Frames(delivered=1165, dropped=5),
    ),
    cmd.Drained(epoch=2, offset=31457792),
    cmd.Gap(epoch=2, start=10485760, end=10486272, reason="the source outran the spool"),
    cmd.Slow(epoch=2, offset=10485760, step="blocking", reason="capture is full"),
    cmd.Detach(epoch=2, offset=31457792, reason="source ended", exit_code=3),
)


def sample_documents() -> dict[str, Document]:
    """Return every sample by its wire name: subject, headers, body, and of an event its digest."""
    subjects = Subjects()
    documents: dict[str, Document] = {}
    for event in EVENTS:
        first = isinstance(event, ev.SessionCreated)
        headers, body = codec.encode_event(
            NewEvent(
                id=event_id(_SID, _ID, 0),
                session=_SID,
                event=event,
                time=_AT,
                cause=_ID,
                correlation=_ID,
                actor="ann",
                traceparent=_TRACE,
            ),
            NO_DIGEST if first else _HEAD,
        )
        subject = subjects.event(_SID, event.type)
        documents[event.type] = {
            "subject": subject,
            "headers": headers,
            "body": plain(event),
            "digest": chain.digest(subject, headers, body),
        }
    for command in COMMANDS:
        documents[command.type] = {
            "subject": subjects.command(_SID, command.verb),
            "headers": {
                codec.ID: _ID,
                codec.TIME: codec.timestamp(_AT),
                codec.ACTOR: "ann",
                codec.CORRELATION: _ID,
                codec.TRACE: _TRACE,
            },
            "body": plain(command),
        }
    return documents
