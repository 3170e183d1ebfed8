"""Specifications of the rules: given a history, when something is asked, then this comes of it."""

from datetime import timedelta

import msgspec
import pytest

from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.outside import CaptureTail, Salvage, Unproven
from lucid_events.domain.state import MAX_VIEWERS, VIEW_INTERVAL
from lucid_events.domain.transitions import ERASING, TRANSITIONS, State, Trigger
from lucid_events.domain.values import SessionSettings, SettingsAsked

from .specification import (
    EMPTY_MANIFEST,
    T0,
    Given,
    active,
    attached,
    created,
    leftover,
    ready,
    recorded,
    seal,
    sealed,
    stored,
    tail,
)

PAUSED = [*active(), ev.SessionPausing(), ev.RecorderDrained(epoch=1, offset=0), ev.SessionPaused(offset=0)]
STOPPING = [*active(), ev.SessionStopping()]
DETACHED = [*STOPPING, ev.RecorderDetached(epoch=1, offset=0)]
STOPPED = [*DETACHED, ev.SessionStopped(manifest=EMPTY_MANIFEST)]
ERROR = [created(), ev.SessionFailed(code="failed")]
IN_STATE: dict[State, list[ev.SessionEvent]] = {
    State.CREATED: [created()],
    State.STARTING: [created(), ev.SessionStarted()],
    State.ACTIVE: active(),
    State.PAUSING: [*active(), ev.SessionPausing()],
    State.PAUSED: PAUSED,
    State.STOPPING: STOPPING,
    State.STOPPED: STOPPED,
    State.ERROR: ERROR,
    State.CLEANUP: [*ERROR, ev.SessionCleanupStarted()],
    State.DESTROYED: [created(), ev.SessionDestroyed()],
}
ASKING: dict[Trigger, cmd.Command] = {
    Trigger.CREATE: cmd.Create(),
    Trigger.START: cmd.Start(),
    Trigger.PAUSE: cmd.Pause(),
    Trigger.RESUME: cmd.Resume(),
    Trigger.STOP: cmd.Stop(),
    Trigger.ERROR: cmd.Fail(reason="because"),
    Trigger.RECOVER: cmd.Recover(),
    Trigger.CLEANUP: cmd.Cleanup(),
    Trigger.DESTROY: cmd.Destroy(),
}
UNDER_WAY = {
    (State.STARTING, Trigger.START),
    (State.PAUSING, Trigger.PAUSE),
    (State.STOPPING, Trigger.STOP),
    (State.CLEANUP, Trigger.CLEANUP),
}


@pytest.mark.parametrize("trigger", list(ASKING))
@pytest.mark.parametrize("state", list(State))
def test_every_command_in_every_state_does_what_the_table_says(state: State, trigger: Trigger) -> None:
    """What the table has is accepted, what is under way is nothing to do, all else is refused with a list."""
    given = Given(*IN_STATE[state])
    assert given.session.state is state
    asked = given.when(ASKING[trigger], salvage=Salvage(epoch=1))
    allowed = tuple(str(t) for (source, t) in TRANSITIONS if source is state)
    if (state, trigger) in UNDER_WAY:
        asked.nothing()
    elif trigger is Trigger.CREATE:
        asked.rejected("exists", allowed=allowed)
    elif (state, trigger) not in TRANSITIONS:
        asked.rejected("illegal_transition", allowed=allowed)
    else:
        assert isinstance(asked.decision, list)
        after = asked.then(*asked.decision)
        assert after.session.state in (TRANSITIONS[state, trigger], State.PAUSED)


def test_an_empty_create_takes_the_services_settings() -> None:
    """Every field of create is optional."""
    defaults = SessionSettings(chunk_bytes=4096, codec="zstd", level=7)
    Given().when(cmd.Create(), defaults=defaults).then(ev.SessionCreated(settings=defaults))


def test_a_create_may_ask_for_its_own_codec_and_then_gets_its_default_level() -> None:
    """A level that was meant for another codec is not carried over."""
    defaults = SessionSettings(codec="zstd", level=19)
    Given().when(cmd.Create(settings=SettingsAsked(codec="lz4")), defaults=defaults).then(
        ev.SessionCreated(settings=SessionSettings(codec="lz4", level=None))
    )


def test_an_unknown_codec_is_refused_at_create() -> None:
    """No silent fallback."""
    Given().when(cmd.Create(settings=SettingsAsked(codec="brotli"))).rejected("invalid", field="settings")


def test_nothing_can_be_asked_of_a_session_that_does_not_exist() -> None:
    """Not found, and create is what is allowed."""
    Given().when(cmd.Start()).rejected("not_found", allowed=("create",))


def test_a_repeated_command_id_gets_its_first_outcome() -> None:
    """Even when the state has moved on."""
    given = Given(created(), ev.SessionStarted())
    given.when(cmd.Start(), id="cause-2").repeats(version=2)


def test_a_command_older_than_the_horizon_is_refused() -> None:
    """Nobody can tell any more whether it took effect."""
    Given(created()).when(cmd.Start(), at=T0 + timedelta(hours=30), issued_at=T0).rejected(
        "expired", field="ce-time"
    )


def test_attach_makes_a_starting_session_active() -> None:
    """The recorder goes on at the offset the event says."""
    given = Given(created(), ev.SessionStarted()).when(cmd.Attach(recorder="r1")).then(attached())
    assert given.session.state is State.ACTIVE


def test_a_repeated_attach_makes_no_second_epoch() -> None:
    """Attach is idempotent by its command id as long as its epoch stands."""
    Given(*active()).when(cmd.Attach(recorder="r1"), id="cause-3").nothing()


def test_attach_listens_before_it_replaces_and_fences_nobody_who_is_alive() -> None:
    """Alive is asked first; only a silent or taken-over recorder is salvaged."""
    given = Given(*active())
    given.when(cmd.Attach(recorder="r2")).needs(alive=1)
    given.when(cmd.Attach(recorder="r2"), alive=True).rejected("recorder_alive")
    given.when(cmd.Attach(recorder="r2"), alive=False).needs(salvage=1)
    given.when(cmd.Attach(recorder="r2", takeover=True)).needs(salvage=1)


def test_a_takeover_seals_what_the_old_recorder_left_and_goes_on_behind_it() -> None:
    """One append: lost, the leftovers with the hole between them as a gap, attached."""
    given = Given(*active(), sealed(0, 0, 100))
    salvage = Salvage(epoch=1, leftovers=(leftover(1, 100, 50), leftover(1, 160, 40)))
    after = given.when(cmd.Attach(recorder="r2", takeover=True), salvage=salvage).then(
        ev.RecorderLost(epoch=1, reason="taken over"),
        sealed(1, 100, 50, n=1, cut="salvage", recovered=True),
        ev.GapDeclared(
            epoch=1, start=150, end=160, reason="captured bytes never arrived before the recorder was gone"
        ),
        sealed(2, 160, 40, n=1, cut="salvage", recovered=True, gap_before=10),
        attached(2, 200, takeover=True, recorder="r2"),
    )
    assert after.session.offset == 200
    assert after.session.epoch == 2


def test_a_source_that_has_the_bytes_still_goes_on_at_the_hole() -> None:
    """What a resumable source left behind a hole is not salvaged, and the hole no gap: both come again."""
    given = Given(created(), ev.SessionStarted(), attached(resumable=True), sealed(0, 0, 100))
    unproven = Unproven(start=190, end=250, reason="damaged")
    salvage = Salvage(epoch=1, leftovers=(leftover(1, 100, 50), leftover(1, 160, 40)), unproven=(unproven,))
    after = given.when(cmd.Attach(recorder="r2", takeover=True, resumable=True), salvage=salvage).then(
        ev.RecorderLost(epoch=1, reason="taken over"),
        sealed(1, 100, 50, n=1, cut="salvage", recovered=True),
        attached(2, 150, takeover=True, recorder="r2", resumable=True),
    )
    assert after.session.offset == 150


def test_a_seal_is_checked_against_capture() -> None:
    """The last message must be this chunk's and carry its digest."""
    given = Given(*active())
    given.when(seal(0, 0, 100)).needs(tail=9)
    given.when(seal(0, 0, 100), tail=tail(0, 100)).then(sealed(0, 0, 100))
    given.when(seal(0, 0, 100), tail=CaptureTail(found=False)).rejected("seal_mismatch", field="last_seq")
    for wrong in (tail(1, 100), tail(0, 99), tail(0, 100, epoch=2), tail(0, 100, sha256="cd" * 32)):
        given.when(seal(0, 0, 100), tail=wrong).rejected("seal_mismatch", field="last_seq")


def test_a_wrong_seal_is_refused_naming_the_field() -> None:
    """Epoch, number, offset and size each have their place."""
    given = Given(*active())
    given.when(seal(0, 0, 100, epoch=2)).rejected("fenced", field="epoch")
    given.when(seal(1, 0, 100)).rejected("seal_mismatch", field="n")
    given.when(seal(0, 5, 100)).rejected("seal_mismatch", field="offset")
    given.when(seal(0, 0, 11 * 1024 * 1024)).rejected("seal_mismatch", field="size")


def test_a_repeated_seal_has_nothing_to_do_and_a_changed_one_is_refused() -> None:
    """Idempotent by (epoch, n), never by silence."""
    given = Given(*active(), sealed(0, 0, 100), sealed(1, 100, 100))
    given.when(seal(1, 100, 100)).nothing()
    given.when(seal(0, 0, 100)).nothing()
    given.when(seal(1, 100, 100, sha256="cd" * 32)).rejected("seal_mismatch", field="sha256")


def test_nothing_is_sealed_while_paused() -> None:
    """Only active, pausing and stopping take bytes."""
    Given(*PAUSED).when(seal(0, 0, 100)).rejected("illegal_transition")


def test_a_pause_completes_when_the_recorder_has_drained() -> None:
    """Drained is checked against the seals."""
    given = Given(*active(), sealed(0, 0, 100), ev.SessionPausing())
    given.when(cmd.Drained(epoch=1, offset=50)).rejected("unsealed", field="offset")
    after = given.when(cmd.Drained(epoch=1, offset=100)).then(
        ev.RecorderDrained(epoch=1, offset=100), ev.SessionPaused(offset=100)
    )
    after.when(cmd.Drained(epoch=1, offset=100)).nothing()


def test_a_pause_without_a_recorder_completes_at_once() -> None:
    """There is nobody to wait for."""
    Given(*active(), ev.RecorderDetached(epoch=1, offset=0)).when(cmd.Pause()).then(
        ev.SessionPausing(), ev.SessionPaused(offset=0)
    )


def test_a_detach_fences_its_epoch_and_finds_nothing_left() -> None:
    """A clean leave is salvaged like any other, and a repeat has nothing to do."""
    given = Given(*STOPPING)
    given.when(cmd.Detach(epoch=1, offset=0)).needs(salvage=1)
    after = given.when(cmd.Detach(epoch=1, offset=0), salvage=Salvage(epoch=1)).then(
        ev.RecorderDetached(epoch=1, offset=0)
    )
    after.when(cmd.Detach(epoch=1, offset=0)).nothing()


def test_a_lost_recorder_takes_the_session_to_error_unless_it_was_stopping() -> None:
    """Its leftovers are chunks in the same append."""
    salvage = Salvage(epoch=1, leftovers=(leftover(0, 0, 10),))
    lost, left = ev.RecorderLost(epoch=1, reason="silent"), sealed(0, 0, 10, cut="salvage", recovered=True)
    command = cmd.LoseRecorder(epoch=1, reason="silent")
    Given(*active()).when(command).needs(salvage=1)
    Given(*active()).when(command, salvage=salvage).then(
        lost, left, ev.SessionFailed(code="recorder_lost", reason="silent")
    )
    Given(*STOPPING).when(command, salvage=salvage).then(lost, left)
    Given(*DETACHED).when(command, salvage=salvage).nothing()


def test_every_road_to_error_salvages() -> None:
    """Fail and a time-out seal what is left, too."""
    salvage = Salvage(epoch=1, leftovers=(leftover(0, 0, 10),))
    for given, command, code in (
        (Given(*active()), cmd.Fail(reason="why"), "failed"),
        (Given(*STOPPING), cmd.TimeOut(what="stop", armed_at=4), "stop_timeout"),
    ):
        given.when(command).needs(salvage=1)
        events = given.when(command, salvage=salvage).decision
        assert isinstance(events, list)
        assert [type(event) for event in events] == [ev.RecorderLost, ev.ChunkSealed, ev.SessionFailed]
        assert events[-1].code == code  # type: ignore[attr-defined] # just checked


def test_a_mark_lies_in_the_recording_or_ahead_of_one_that_goes_on() -> None:
    """A place ahead of the sealed bytes is one being captured; once the session has ended it is none."""
    running = (*active(), sealed(0, 0, 100))
    mark = cmd.Mark(label="here", offset=101)
    Given(*running).when(mark).then(ev.SessionMarked(label="here", offset=101))
    ended = Given(*running, ev.RecorderLost(epoch=1), ev.SessionFailed(code="failed"))
    ended.when(mark).rejected("beyond_end", field="offset")
    ended.when(cmd.Mark(label="end", offset=100)).then(ev.SessionMarked(label="end", offset=100))


def test_a_chunk_becomes_ready_once() -> None:
    """A second report has nothing to do, other bytes are refused, an unknown index too."""
    given = Given(*active(), sealed(0, 0, 100))
    after = given.when(stored(0, 0, 100)).then(ready(0, 0, 100))
    after.when(stored(0, 0, 100)).nothing()
    given.when(stored(0, 0, 99)).rejected("seal_mismatch")
    given.when(stored(1, 100, 1)).rejected("unknown_chunk")


def test_a_chunk_never_fails_after_it_was_ready_and_may_be_ready_after_it_failed() -> None:
    """Redrive brings a chunk back that was set aside."""
    failed = ev.ChunkFailed(index=0, code="corrupt")
    given = Given(*active(), sealed(0, 0, 100))
    given.when(stored(0, 0, 100)).then(ready(0, 0, 100)).when(
        cmd.ChunkRefused(index=0, code="corrupt")
    ).nothing()
    given.when(cmd.ChunkRefused(index=0, code="corrupt")).then(failed).when(stored(0, 0, 100)).then(
        ready(0, 0, 100)
    )


def test_no_chunk_becomes_ready_once_erasing_began() -> None:
    """The handler deletes the object it has just written."""
    given = Given(*active(), sealed(0, 0, 100), ev.RecorderLost(epoch=1), ev.SessionFailed(code="x"))
    given.when(cmd.Cleanup()).then(ev.SessionCleanupStarted()).when(stored(0, 0, 100)).rejected("erased")


def test_a_stop_completes_when_nobody_is_attached_and_nothing_is_pending() -> None:
    """The manifest is read only then, and numbered."""
    Given(*STOPPING).when(cmd.Finish()).nothing()
    Given(*active(), sealed(0, 0, 1), ev.SessionStopping(), ev.RecorderDetached(epoch=1, offset=1)).when(
        cmd.Finish()
    ).nothing()
    Given(*DETACHED).when(cmd.Finish()).needs(manifest=True)
    Given(*DETACHED).when(cmd.Finish(), manifest=EMPTY_MANIFEST).then(
        ev.SessionStopped(manifest=EMPTY_MANIFEST)
    )


def test_a_hold_stands_in_the_way_of_cleanup_until_it_is_released() -> None:
    """By the same history, so there is no race."""
    held = (
        Given(*ERROR)
        .when(cmd.Hold(hold="case 7", reason="court"))
        .then(ev.SessionHeld(hold="case 7", reason="court"))
    )
    held.when(cmd.Hold(hold="case 7")).nothing()
    held.when(cmd.Cleanup()).rejected("held", allowed=("recover", "release"))
    held.when(cmd.Destroy()).rejected("held", allowed=("recover", "release"))
    held.when(cmd.Start()).rejected("illegal_transition", allowed=("recover",))
    held.when(cmd.Release(hold="case 8")).rejected("no_such_hold")
    held.when(cmd.Release(hold="case 7")).then(ev.SessionReleased(hold="case 7")).when(cmd.Cleanup()).then(
        ev.SessionCleanupStarted()
    )


def test_a_session_with_chunks_is_not_simply_destroyed() -> None:
    """Cleanup erases, then it is destroyed."""
    given = Given(*active(), sealed(0, 0, 1), ev.RecorderLost(epoch=1), ev.SessionFailed(code="x"))
    given.when(cmd.Destroy()).rejected("not_empty", allowed=("recover", "cleanup"))
    erasing = given.when(cmd.Cleanup()).then(ev.SessionCleanupStarted())
    erasing.when(cmd.Erased(objects=1, stored_bytes=1)).then(ev.SessionDestroyed(objects=1, stored_bytes=1))
    erasing.when(cmd.EraseFailed(reason="disk")).then(ev.SessionFailed(code="cleanup_failed", reason="disk"))


def test_after_recover_epochs_indices_and_offsets_go_on() -> None:
    """Nothing restarts at zero."""
    given = Given(
        *active(), sealed(0, 0, 100), ready(0, 0, 100), ev.RecorderLost(epoch=1), ev.SessionFailed(code="x")
    )
    again = given.when(cmd.Recover()).then(ev.SessionRecovered()).when(cmd.Start()).then(ev.SessionStarted())
    on = again.when(cmd.Attach(recorder="r1")).then(attached(2, 100))
    on.when(seal(0, 100, 5, epoch=2), tail=tail(0, 105, epoch=2)).then(sealed(1, 100, 5, n=0, epoch=2))


def test_a_gap_begins_where_the_sealed_bytes_end() -> None:
    """It is declared once, and the next chunk follows it."""
    given = Given(*active(), sealed(0, 0, 100))
    given.when(cmd.Gap(epoch=1, start=90, end=120, reason="disk full")).rejected(
        "gap_mismatch", field="start"
    )
    gap = cmd.Gap(epoch=1, start=100, end=120, reason="disk full")
    after = given.when(gap).then(ev.GapDeclared(epoch=1, start=100, end=120, reason="disk full"))
    after.when(gap).nothing()
    after.when(seal(1, 120, 5), tail=tail(1, 125)).then(sealed(1, 120, 5, gap_before=20))


@pytest.mark.parametrize(
    "state", [state for state in IN_STATE if state not in (State.CLEANUP, State.DESTROYED)]
)
def test_a_viewing_is_noted_once_per_viewer_and_five_minutes(state: State) -> None:
    """The first viewing is an event, the next of that viewer only five minutes later, another's at once."""
    seen = (
        Given(*IN_STATE[state])
        .when(cmd.View(start=7, end=9))
        .then(ev.SessionViewed(start=7, end=9, how="play"))
    )
    at = seen.history[-1].time
    seen.when(cmd.View(), id="c2", at=at + VIEW_INTERVAL - timedelta(microseconds=1)).nothing()
    again = ev.SessionViewed(start=0, how="play")
    assert seen.when(cmd.View(), id="c2", at=at + VIEW_INTERVAL).decision == [again]
    other = msgspec.structs.replace(seen.history[-1], actor="somebody else")
    assert Given(*seen.history[:-1], other).when(cmd.View(), id="c2", at=at).decision == [again]


def test_viewers_are_remembered_within_bounds() -> None:
    """However many look, the state holds `MAX_VIEWERS`, and nobody after five minutes."""
    history = list(Given(created()).history)
    for number in range(2, MAX_VIEWERS + 50):
        event = recorded(ev.SessionViewed(start=0), number, at=T0 + timedelta(milliseconds=number))
        history.append(msgspec.structs.replace(event, actor=f"viewer {number}"))
    session = Given(*history).session
    assert len(session.viewed) == MAX_VIEWERS
    assert list(session.viewed)[-1] == f"viewer {MAX_VIEWERS + 49}"
    assert len(session.remembered) == 1, "viewings push no command id out"
    late = recorded(ev.SessionViewed(start=0), 999, at=T0 + VIEW_INTERVAL + timedelta(seconds=1))
    assert list(Given(*history, late).session.viewed) == ["test"]


def test_what_is_erased_is_neither_viewed_nor_checked() -> None:
    """No viewing and no finding is noted of a session whose bytes are being erased."""
    for state in ERASING:
        erased = Given(*IN_STATE[state])
        erased.when(cmd.View()).nothing()
        erased.when(cmd.NoteFinding(finding=CORRUPT)).nothing()


def test_a_corrupt_chunk_is_said_once_and_only_of_a_ready_one() -> None:
    """`chunk.corrupt` is of a chunk that is ready, and a second scrub does not repeat it."""
    waiting = [*active(), sealed(0, 0, 9)]
    Given(*waiting).when(cmd.NoteFinding(finding=CORRUPT)).nothing()
    said = Given(*waiting, ready(0, 0, 9)).when(cmd.NoteFinding(finding=CORRUPT)).then(CORRUPT)
    said.when(cmd.NoteFinding(finding=CORRUPT), id="c2").nothing()


CORRUPT = ev.ChunkCorrupt(index=0, what="object_bytes")
