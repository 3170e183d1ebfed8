"""given(events).then(view): what a session's status says after a history."""

from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given
from msgspec.structs import replace

from lucid_events import codec
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded, Stray
from lucid_events.domain.ids import Digest, Sequence
from lucid_events.domain.state import evolve, initial
from lucid_events.domain.transitions import ERASING, State
from lucid_events.domain.values import Retention, Span
from lucid_events.projections.base import Problem, advance, follows
from lucid_events.projections.chunk_progress import ChunkProgress, Run
from lucid_events.projections.status import StatusProjection
from lucid_events.projections.status_view import MAX_GAPS, MAX_MARKS, MAX_TRANSITIONS, StatusView
from tests.unit.domain.specification import EMPTY_MANIFEST, active, attached, created, ready, sealed
from tests.unit.projections.chained import SID, T0, chained
from tests.unit.projections.histories import legal_histories

PROJECTION = StatusProjection("LUCID_EVENTS")


def fold(history: list[Recorded], view: StatusView | None = None) -> StatusView:
    """The view a history adds up to, from `view` on."""
    for recorded in history:
        view = advance(PROJECTION, view, recorded)
    assert view is not None
    return view


@dataclass
class Status:
    """A view to be held against what is expected, field by field."""

    view: StatusView

    def then(self, **fields: object) -> StatusView:
        found = {name: getattr(self.view, name) for name in fields}
        assert found == fields
        return self.view


def given_events(*events: ev.SessionEvent) -> Status:
    """The view of a history; delivered once or every event twice, it is the same."""
    history = chained(events)
    view = fold(history)
    doubled = [recorded for recorded in history for _ in range(2)]
    assert fold(doubled) == view
    assert fold([*history, *history]) == view
    return Status(view)


def test_nothing_but_what_was_created() -> None:
    """A created session shows what it was created with, and a cutoff at its only event."""
    history = chained(
        [ev.SessionCreated(owner="ann", label="demo", metadata={"a": "b"}, settings=created().settings)]
    )
    view = fold(history)
    assert (view.owner, view.label, view.metadata, view.state) == ("ann", "demo", {"a": "b"}, State.CREATED)
    assert (view.position.sequence, view.head, view.events) == (1, history[0].digest, 1)


def test_every_transition_is_kept_with_its_reason() -> None:
    """A transition names from, trigger, to, when, who, why and the version it made."""
    view = given_events(*active(), ev.SessionPausing(reason="lunch")).then(
        state=State.PAUSING, transition_count=4, started_at=T0.replace(second=2)
    )
    last = msgspec.to_builtins(view.transitions[-1])
    assert last == {
        "from": "active",
        "trigger": "pause",
        "to": "pausing",
        "when": "2026-01-01T00:00:04Z",
        "actor": "test",
        "cause": "cause-4",
        "reason": "lunch",
        "version": 4,
    }
    assert view.since == view.transitions[-1].when


def test_only_the_newest_transitions_are_kept() -> None:
    """The list of transitions is capped, the count is not."""
    rounds = MAX_TRANSITIONS
    again = [ev.SessionFailed(code="x"), ev.SessionRecovered()] * rounds
    view = given_events(created(), *again).then(transition_count=1 + 2 * rounds)
    assert len(view.transitions) == MAX_TRANSITIONS
    assert view.transitions[-1].version == 1 + 2 * rounds


def test_bytes_and_ratio_count_ready_chunks() -> None:
    """Sealed bytes are no stored bytes; the ratio is raw by stored and absent before there is one."""
    given_events(*active(), sealed(0, 0, 100)).then(
        raw_bytes=0, stored_bytes=0, ratio=None, sealed_offset=100
    )
    squeezed = replace(ready(0, 0, 100), stored_size=25)
    given_events(*active(), sealed(0, 0, 100), squeezed).then(
        raw_bytes=100, stored_bytes=25, ratio=4.0, ready_offset=100
    )


def test_a_chunk_that_is_ready_twice_counts_once() -> None:
    """Even a history that breaks the rule never doubles bytes or chunks."""
    once = [*active(), sealed(0, 0, 100), ready(0, 0, 100)]
    view = given_events(*once, ready(0, 0, 100)).then(raw_bytes=100)
    assert view.chunks == ChunkProgress(sealed=1, ready=1, ready_below=1)


def test_chunks_are_a_watermark_and_exceptions() -> None:
    """Chunks ready out of order stand as runs; the watermark swallows them when it gets there."""
    seals = [sealed(i, i * 10, 10) for i in range(6)]
    late = [*active(), *seals, ready(2, 20, 10), ready(1, 10, 10), ready(4, 40, 10)]
    view = given_events(*late).then(ready_offset=0, sealed_offset=60)
    assert view.chunks.ready_ahead == (Run(first=1, last=2, end=30), Run(first=4, last=4, end=50))
    assert view.chunks.waiting == 3
    view = given_events(*late, ready(0, 0, 10)).then(ready_offset=30)
    assert (view.chunks.ready_below, view.chunks.ready_ahead) == (3, (Run(first=4, last=4, end=50),))
    view = given_events(*late, ready(0, 0, 10), ready(3, 30, 10), ready(5, 50, 10)).then(ready_offset=60)
    assert view.chunks == ChunkProgress(sealed=6, ready=6, ready_below=6)


def test_a_failed_chunk_holds_the_watermark_until_it_is_redriven() -> None:
    """Failed chunks are runs of their own; one that becomes ready after all leaves them."""
    history = [*active(), *(sealed(i, i * 10, 10) for i in range(4))]
    history += [ev.ChunkFailed(index=i, code="corrupt") for i in (0, 1, 2)] + [ready(3, 30, 10)]
    view = given_events(*history).then(ready_offset=0)
    assert (view.chunks.failed, view.chunks.failed_count) == ((Run(first=0, last=2),), 3)
    view = given_events(*history, ready(1, 10, 10)).then(raw_bytes=20)
    assert view.chunks.failed == (Run(first=0, last=0), Run(first=2, last=2))
    assert (view.chunks.failed_count, view.chunks.waiting) == (2, 0)
    view = given_events(*history, *(ready(i, i * 10, 10) for i in (2, 0, 1))).then(ready_offset=40)
    assert view.chunks == ChunkProgress(sealed=4, ready=4, ready_below=4)


def test_gaps_that_touch_are_one() -> None:
    """Gaps are merged where they touch, and what lies behind the last stored chunk is not waited for."""
    gaps = [ev.GapDeclared(epoch=1, start=s, end=e, reason="r") for s, e in ((10, 15), (15, 30))]
    given_events(*active(), sealed(0, 0, 10), *gaps, ready(0, 0, 10)).then(
        gaps=(Span(start=10, end=30),), gap_count=1, gap_bytes=20, sealed_offset=30, ready_offset=30
    )
    given_events(*active(), sealed(0, 0, 10), ready(0, 0, 10), *gaps).then(ready_offset=30)


def test_gaps_and_marks_are_capped_and_counted() -> None:
    """However many gaps and bookmarks there are, a view keeps the newest and says how many there were."""
    gaps = [ev.GapDeclared(epoch=1, start=i * 10, end=i * 10 + 5, reason="r") for i in range(MAX_GAPS + 3)]
    marks = [ev.SessionMarked(label=f"m{i}", offset=i) for i in range(MAX_MARKS + 3)]
    view = given_events(*active(), *gaps, *marks).then(gap_count=MAX_GAPS + 3, mark_count=MAX_MARKS + 3)
    assert (len(view.gaps), len(view.marks)) == (MAX_GAPS, MAX_MARKS)
    assert view.marks[-1].label == f"m{MAX_MARKS + 2}"
    assert view.gaps[0].start == 30


def test_the_recorder_comes_and_goes() -> None:
    """The attached recorder is shown with its epoch and pressure; source and type outlive it."""
    first = replace(attached(), source="screen", content_type="video/mp4")
    slowed = ev.RecorderSlowed(epoch=1, offset=0, step="spooling")
    view = given_events(created(), ev.SessionStarted(), first, slowed).then(epoch=1, source="screen")
    assert view.recorder is not None
    assert (view.recorder.recorder, view.recorder.step) == ("r1", "spooling")
    given_events(created(), ev.SessionStarted(), first, ev.RecorderLost(epoch=1)).then(
        recorder=None, epoch=1, content_type="video/mp4", state=State.ACTIVE
    )


def test_the_last_error_outlives_a_recovery() -> None:
    """A recovered session still tells what went wrong last."""
    view = given_events(
        created(), ev.SessionFailed(code="start_timeout", reason="r"), ev.SessionRecovered()
    ).then(state=State.CREATED)
    assert view.last_error is not None
    assert (view.last_error.code, view.last_error.version) == ("start_timeout", 2)


def test_a_proposal_stands_until_it_is_withdrawn_and_stays_when_it_is_carried_out() -> None:
    """A hold, a recovery, a cleanup of somebody's own and one that failed take it away."""
    stopped = [
        *active(),
        sealed(0, 0, 10),
        ready(0, 0, 10),
        ev.SessionStopping(),
        ev.RecorderDetached(epoch=1, offset=10),
        ev.SessionStopped(manifest=EMPTY_MANIFEST),
    ]
    event = ev.SessionCleanupProposed(retention=Retention(), source="service", ended_at=T0, due=T0)
    proposed = [*stopped, event]
    version = len(proposed)
    proposal = given_events(*proposed).view.proposal
    assert proposal is not None
    assert (proposal.version, proposal.retention, proposal.due) == (version, Retention(), T0)
    by_policy = [*proposed, ev.SessionCleanupStarted(proposed=version)]
    given_events(*by_policy).then(proposal=proposal, state=State.CLEANUP)
    given_events(*by_policy, ev.SessionDestroyed()).then(proposal=proposal, state=State.DESTROYED)
    given_events(*by_policy, ev.SessionFailed(code="cleanup_failed")).then(proposal=None, state=State.ERROR)
    for withdrawn in (ev.SessionHeld(hold="h"), ev.SessionRecovered(), ev.SessionCleanupStarted()):
        given_events(*proposed, withdrawn).then(proposal=None)


def test_holds_stand_until_released() -> None:
    """A hold is shown with its reason until it is released."""
    held = [created(), ev.SessionHeld(hold="audit", reason="case 7"), ev.SessionHeld(hold="b")]
    given_events(*held).then(holds={"audit": "case 7", "b": ""})
    given_events(*held, ev.SessionReleased(hold="b")).then(holds={"audit": "case 7"})


def test_a_stopped_session_shows_its_newest_manifest() -> None:
    """The manifest is shown by root and version; a later one takes its place without a transition."""
    stopped = ev.SessionStopped(manifest=EMPTY_MANIFEST)
    later = ev.SessionStopped(manifest=replace(EMPTY_MANIFEST, version=2))
    history = [created(), ev.SessionStarted(), ev.SessionStopping(), stopped]
    view = given_events(*history, later).then(state=State.STOPPED, transition_count=4)
    assert view.manifest is not None
    assert (view.manifest.version, view.manifest.at) == (2, 5)


def test_a_broken_link_is_shown() -> None:
    """The first event that does not name its predecessor's digest marks the view damaged; it goes on."""
    history = chained([*active(), ev.SessionMarked(label="m", offset=0), ev.SessionStopping()])
    rotten = replace(history[2], digest=Digest("0" * 64))
    assert not follows(fold([*history[:2], rotten]), history[3])
    view = fold([*history[:2], rotten, *history[3:]])
    assert (view.damaged_at, view.state) == (4, State.STOPPING)
    assert fold(history).damaged_at is None


def test_a_stray_moves_the_cutoff_only() -> None:
    """A message that is no event counts for the version, and of itself makes no view."""
    stray = Stray(session=SID, subject="s", sequence=Sequence(9), stored_at=T0, reason="no ce-id header")
    assert advance(PROJECTION, None, stray) is None
    view = fold(chained([created()]))
    after = advance(PROJECTION, view, stray)
    assert after is not None
    assert after == replace(view, position=replace(view.position, sequence=9))
    assert advance(PROJECTION, after, replace(stray, sequence=Sequence(5))) is after


def test_a_problem_is_gone_with_the_next_event() -> None:
    """A view that stood still and goes on says nothing of it any more: it equals a rebuilt one."""
    history = chained(active())
    halted = PROJECTION.halt(fold(history[:2]), Problem(after=2, reason="unknown type"))
    assert halted.position.sequence == 2
    assert fold(history[2:], halted) == fold(history)


@given(legal_histories())
def test_a_view_agrees_with_the_rules(events: list[ev.SessionEvent]) -> None:
    """What view and domain both know of a session is the same, after any legal history."""
    history = chained(events, first=3, step=7)
    session = initial(SID)
    for recorded in history:
        session = evolve(session, recorded)
    view = fold(history)
    assert view.damaged_at is None
    assert (view.state, view.since, view.epoch, view.events) == (
        session.state,
        session.since,
        session.epoch,
        session.events,
    )
    assert (view.raw_bytes, view.stored_bytes, view.sealed_offset, view.gap_bytes) == (
        session.ready_bytes,
        session.stored_bytes,
        session.offset,
        session.gap_bytes,
    )
    assert (view.chunks.ready, view.chunks.failed_count, view.chunks.waiting) == (
        session.ready_chunks,
        len(session.failed),
        len(session.pending),
    )
    assert view.holds == session.holds
    erasure = session.erasure if session.state in ERASING else None
    assert view.proposal == (erasure.proposal if erasure else session.proposal)
    assert (view.recorder is None) == (session.lease is None)
    unready = sorted({**session.pending, **session.failed})
    assert view.chunks.ready_below == (unready[0] if unready else session.next_index)
    assert [i for i in range(session.next_index) if not view.chunks.is_ready(i)] == unready


@given(legal_histories())
def test_delivered_twice_is_delivered_once(events: list[ev.SessionEvent]) -> None:
    """After any history, every event twice and every event once are the same bytes."""
    history = chained(events)
    doubled = [recorded for recorded in history for _ in range(2)]
    assert codec.encode(fold(doubled)) == codec.encode(fold(history))


@given(legal_histories(max_steps=15))
def test_a_view_survives_its_bucket(events: list[ev.SessionEvent]) -> None:
    """Read back from JSON in the middle of a history, a view goes on to the same end, byte by byte."""
    history = chained(events)
    half = len(history) // 2
    view = fold(history[: half + 1])
    back = codec.decode(codec.encode(view), StatusView)
    assert codec.encode(fold(history[half + 1 :], back) if history[half + 1 :] else back) == codec.encode(
        fold(history)
    )


@pytest.mark.parametrize("trigger", [ev.SessionPaused(offset=0), ev.SessionResumed(offset=0)])
def test_an_illegal_event_changes_no_state(trigger: ev.SessionEvent) -> None:
    """An event the table has no way for leaves the state; the cutoff moves past it."""
    given_events(created(), trigger).then(state=State.CREATED, transition_count=1, events=2)
