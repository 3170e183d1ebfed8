"""Specifications of retention: which policy a session has, and what comes of it in its history."""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.legality import violations
from lucid_events.domain.redeciding import Redecider
from lucid_events.domain.retention import explained, next_step
from lucid_events.domain.transitions import State
from lucid_events.domain.values import (
    Retention,
    RetentionAsked,
    RetentionLimits,
    SessionSettings,
    SettingsAsked,
)

from .specification import EMPTY_MANIFEST, SID, T0, Given, active, ready, sealed

POLICY = Retention(payload_days=30, metadata_days=90)
DAY = timedelta(days=1)
MANIFEST = replace(EMPTY_MANIFEST, chunks=1, raw_bytes=10, stored_bytes=10)
STOPPED = [
    *active(),
    sealed(0, 0, 10),
    ready(0, 0, 10),
    ev.SessionStopping(),
    ev.RecorderDetached(epoch=1, offset=10),
    ev.SessionStopped(manifest=MANIFEST),
]
ENDED_AT = T0 + timedelta(seconds=len(STOPPED))
PAST = ENDED_AT + 30 * DAY
DUE = PAST + 7 * DAY
PROPOSE = cmd.ProposeCleanup(retention=POLICY, due=DUE)
PROPOSED = ev.SessionCleanupProposed(retention=POLICY, source="service", ended_at=ENDED_AT, due=DUE)
AT = len(STOPPED) + 1
"""Version of the proposal when it follows right behind the end."""
CARRIED_OUT = ev.SessionCleanupStarted(reason="retention", proposed=AT)


def stated(days: float) -> list[ev.SessionEvent]:
    """The same session with a policy of its own."""
    settings = SessionSettings(retention=Retention(payload_days=days))
    return [ev.SessionCreated(settings=settings), *STOPPED[1:]]


# the policy


def test_a_session_that_asks_for_none_has_the_services_policy_in_its_history() -> None:
    """The policy is stored at create: another default later changes nothing for it."""
    defaults = SessionSettings(retention=Retention(payload_days=5, metadata_days=50))
    Given().when(cmd.Create(), defaults=defaults).then(ev.SessionCreated(settings=defaults))


@pytest.mark.parametrize(
    ("asked", "agreed"),
    [
        (RetentionAsked(payload_days=7), Retention(payload_days=7, metadata_days=90)),
        (RetentionAsked(payload_days=365), Retention(payload_days=365, metadata_days=365)),
        (RetentionAsked(metadata_days=200), Retention(payload_days=30, metadata_days=200)),
        (RetentionAsked(payload_days=1.5, metadata_days=1.5), Retention(payload_days=1.5, metadata_days=1.5)),
    ],
)
def test_a_create_may_ask_for_its_own_periods(asked: RetentionAsked, agreed: Retention) -> None:
    """What is left out is the service's, and metadata is kept no shorter than the bytes."""
    defaults = SessionSettings(retention=POLICY)
    Given().when(cmd.Create(settings=SettingsAsked(retention=asked)), defaults=defaults).then(
        ev.SessionCreated(settings=SessionSettings(retention=agreed))
    )


@pytest.mark.parametrize(
    "asked",
    [
        RetentionAsked(payload_days=0.5),
        RetentionAsked(payload_days=366),
        RetentionAsked(metadata_days=366),
        RetentionAsked(payload_days=10, metadata_days=5),
    ],
)
def test_periods_beyond_the_limits_or_that_do_not_fit_are_refused(asked: RetentionAsked) -> None:
    """Nothing is trimmed in silence."""
    Given().when(
        cmd.Create(settings=SettingsAsked(retention=asked)),
        defaults=SessionSettings(retention=POLICY),
        limits=RetentionLimits(least_days=1, most_days=365),
    ).rejected("invalid", field="settings.retention")


# proposing


def test_a_cleanup_is_proposed_once_its_time_is_over() -> None:
    """Not before, and not a second time while it stands; of a session without a policy by the service's."""
    given = Given(*STOPPED)
    given.when(PROPOSE, at=PAST - timedelta(microseconds=1)).nothing()
    given.when(cmd.ProposeCleanup(retention=POLICY, due=PAST - DAY), at=PAST).nothing()
    given.when(PROPOSE, at=PAST).then(PROPOSED).when(PROPOSE, at=PAST + DAY).nothing()


def test_the_sessions_own_policy_goes_before_the_services() -> None:
    """Longer or shorter, and the proposal says whose it is."""
    Given(*stated(100)).when(PROPOSE, at=ENDED_AT + 99 * DAY).nothing()
    due = ENDED_AT + 12 * DAY
    Given(*stated(5)).when(cmd.ProposeCleanup(retention=POLICY, due=due), at=ENDED_AT + 5 * DAY).then(
        ev.SessionCleanupProposed(
            retention=Retention(payload_days=5), source="session", ended_at=ENDED_AT, due=due
        )
    )


def test_a_failed_session_is_past_its_time_too() -> None:
    """What ended in error has bytes like any other."""
    failed = [*active(), sealed(0, 0, 10), ev.RecorderLost(epoch=1), ev.SessionFailed(code="x")]
    ended_at = T0 + timedelta(seconds=len(failed))
    Given(*failed).when(PROPOSE, at=PAST).then(
        ev.SessionCleanupProposed(retention=POLICY, source="service", ended_at=ended_at, due=DUE)
    )


@pytest.mark.parametrize(
    "history",
    [
        active(),
        [*active(), ev.RecorderLost(epoch=1), ev.SessionFailed(code="x")],
        [*STOPPED, ev.SessionHeld(hold="h")],
        [*STOPPED, ev.SessionRecovered()],
        [*STOPPED, ev.SessionCleanupStarted()],
        [*STOPPED, ev.SessionCleanupStarted(), ev.SessionDestroyed()],
        [*STOPPED, ev.SessionCleanupStarted(), ev.SessionFailed(code="cleanup_failed")],
    ],
    ids=["active", "nothing stored", "held", "recovered", "cleanup", "destroyed", "cleanup failed"],
)
def test_nothing_is_proposed_that_may_not_be_erased_now(history: list[ev.SessionEvent]) -> None:
    """Whatever else a session is, a reminder changes nothing in it; a cleanup that failed is a person's."""
    Given(*history).when(PROPOSE, at=PAST + 1000 * DAY).nothing()


# carrying out


def test_a_proposal_is_carried_out_when_it_is_due() -> None:
    """The cleanup names the proposal, and the erasure the policy, for good."""
    given = Given(*STOPPED, PROPOSED)
    given.when(cmd.CarryOut(proposed=AT), at=DUE - timedelta(microseconds=1)).nothing()
    cleanup = given.when(cmd.CarryOut(proposed=AT), at=DUE).then(CARRIED_OUT)
    assert cleanup.session.state is State.CLEANUP
    erased = cleanup.when(cmd.Erased(objects=1, stored_bytes=10)).then(
        ev.SessionDestroyed(objects=1, stored_bytes=10)
    )
    erasure = erased.session.erasure
    assert erasure is not None
    assert erasure.proposal is not None
    assert (erasure.proposal.version, erasure.proposal.retention, erasure.objects) == (AT, POLICY, 1)
    assert erasure.completed_at is not None


@pytest.mark.parametrize(
    "before",
    [
        [ev.SessionHeld(hold="h")],
        [ev.SessionHeld(hold="h"), ev.SessionReleased(hold="h")],
        [ev.SessionRecovered()],
        [ev.SessionCleanupStarted(), ev.SessionFailed(code="cleanup_failed")],
    ],
    ids=["held", "held and released", "recovered", "cleaned up in vain"],
)
def test_what_came_first_withdraws_a_proposal(before: list[ev.SessionEvent]) -> None:
    """Its reminder may come when it likes: a withdrawn proposal is never carried out."""
    Given(*STOPPED, PROPOSED, *before).when(cmd.CarryOut(proposed=AT), at=DUE + DAY).nothing()


def test_a_release_makes_it_due_again_with_its_whole_grace() -> None:
    """A second proposal, of which the first one's reminder knows nothing."""
    given = Given(*STOPPED, PROPOSED, ev.SessionHeld(hold="h"), ev.SessionReleased(hold="h"))
    later = DUE + 20 * DAY
    again = given.when(cmd.ProposeCleanup(retention=POLICY, due=later), at=DUE + 13 * DAY).then(
        ev.SessionCleanupProposed(retention=POLICY, source="service", ended_at=ENDED_AT, due=later)
    )
    again.when(cmd.CarryOut(proposed=AT), at=later).nothing()
    assert next_step(again.session, POLICY) is not None


def test_a_cleanup_somebody_asks_for_is_no_policys() -> None:
    """Beside a proposal that stands too: who asked is in the erasure, and no policy."""
    given = (
        Given(*STOPPED, PROPOSED)
        .when(cmd.Cleanup(reason="asked"))
        .then(ev.SessionCleanupStarted(reason="asked"))
    )
    erasure = given.session.erasure
    assert erasure is not None
    assert (erasure.proposal, erasure.reason) == (None, "asked")


def test_time_begins_anew_when_a_recovered_session_ends_again() -> None:
    """The end is that of the recording, not of its first part."""
    first = Given(*STOPPED).session.ended_at
    again = Given(*STOPPED, ev.SessionRecovered(), ev.SessionFailed(code="x")).session.ended_at
    assert first == ENDED_AT
    assert again == ENDED_AT + timedelta(seconds=2)


def test_a_cleanup_that_failed_does_not_move_the_end() -> None:
    """Metadata is due as long after the recording as before, however often erasing it was tried."""
    failed = [*STOPPED, ev.SessionCleanupStarted(), ev.SessionFailed(code="cleanup_failed")]
    assert Given(*failed).session.ended_at == ENDED_AT


# judging


@pytest.mark.parametrize(
    "history",
    [
        [*active(), PROPOSED],
        [*STOPPED, ev.SessionHeld(hold="h"), PROPOSED],
        [*STOPPED, PROPOSED, PROPOSED],
        [*stated(100), PROPOSED],
        [*stated(100), replace(PROPOSED, source="session")],
        [*STOPPED, replace(PROPOSED, due=PAST - DAY)],
        [*STOPPED, ev.SessionCleanupStarted(proposed=3)],
        [*STOPPED, PROPOSED, ev.SessionHeld(hold="h"), ev.SessionReleased(hold="h"), CARRIED_OUT],
    ],
    ids=["active", "held", "twice", "another policy", "misquoted", "too early", "no proposal", "withdrawn"],
)
def test_a_history_with_an_erasure_nobody_was_entitled_to_is_illegal(history: list[ev.SessionEvent]) -> None:
    """Verifying finds it, whoever wrote it."""
    assert [found.event for found, _ in violations(Given(*history).history)] == [history[-1]]


def test_the_rules_decide_an_erasure_again() -> None:
    """A replay makes the same proposal and the same cleanup of what is in the history."""
    times = {PROPOSED.type: PAST, CARRIED_OUT.type: DUE}
    redecider, found = Redecider(SID), []
    for recorded in Given(*STOPPED, PROPOSED, CARRIED_OUT).history:
        found += redecider.take(replace(recorded, time=times.get(recorded.type, recorded.time)))
    found += redecider.finish()
    assert found == []
    assert redecider.untold == 0


def test_an_explanation_says_what_comes_next_and_why() -> None:
    """Of an ended session the date, of a held one its hold, of a damaged one that a person has to look."""
    session = Given(*STOPPED).session
    plain = explained(session, POLICY, now=PAST)
    assert plain.next is not None
    assert (plain.next.what, plain.next.at) == ("propose", PAST)
    assert (plain.payload_until, plain.metadata_until) == (PAST, ENDED_AT + 90 * DAY)
    assert (plain.metadata_due, plain.source) == (False, "service")
    held = explained(Given(*STOPPED, ev.SessionHeld(hold="case-7")).session, POLICY, now=PAST)
    assert held.next is None
    assert "case-7" in held.because
    damaged = explained(session, POLICY, now=ENDED_AT + 90 * DAY, damage="at 7")
    assert damaged.next is None
    assert "damaged" in damaged.because
    assert damaged.metadata_due
