"""How long a session is kept, and what becomes of it then: the policy, its proposals, its next step.

    ended ──payload days──> cleanup proposed ──grace──> cleanup ──> destroyed
                                  │ hold, recovery
                                  └──> withdrawn; proposed anew once nothing holds it any more

A proposal and whatever withdraws it are in one history, under one guard: what was withdrawn is never
carried out. Nothing here knows how a period is waited for.
"""

from datetime import datetime, timedelta
from typing import Literal

from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.decisions import Rejected
from lucid_events.domain.state import Erasure, Proposal, Session
from lucid_events.domain.transitions import ENDED, ERASING, State
from lucid_events.domain.values import Fact, Retention, RetentionAsked, RetentionLimits

CLEANUP_FAILED = "cleanup_failed"
"""Code of the error that a cleanup ends in which did not succeed: a person looks before the next one."""


class Step(Fact, frozen=True, kw_only=True):
    """What retention does next with a session, and when."""

    what: Literal["propose", "erase"]
    at: datetime


class Outlook(Fact, frozen=True, kw_only=True):
    """A session's retention, explained: `next` is what happens next, `because` why that, or why nothing.

    `metadata_due` says that the period of what people wrote is over; the log keeps it all the same.
    """

    session_id: str
    state: State
    retention: Retention
    source: ev.type_of_source
    ended_at: datetime | None
    payload_until: datetime | None
    metadata_until: datetime | None
    metadata_due: bool
    chunks: int
    stored_bytes: int
    holds: dict[str, str]
    proposal: Proposal | None
    erasure: Erasure | None
    next: Step | None
    because: str


def agreed(
    asked: RetentionAsked, default: Retention | None, limits: RetentionLimits
) -> Retention | Rejected | None:
    """Return the policy of a new session; None when nobody says any."""
    if asked == RetentionAsked() and default is None:
        return None
    fallback = default or Retention()
    for name in asked.__struct_fields__:
        days = getattr(asked, name)
        if days is not None and not limits.least_days <= days <= limits.most_days:
            return _invalid(
                f"{name} {days:g} is not within the service's limits: "
                f"ask for {limits.least_days:g} to {limits.most_days:g} days"
            )
    payload = asked.payload_days or fallback.payload_days
    metadata = asked.metadata_days or max(fallback.metadata_days, payload)
    if metadata < payload:
        return _invalid(
            f"metadata_days {metadata:g} is less than payload_days {payload:g}: "
            "what is said of bytes is kept as long as they are, or longer"
        )
    return Retention(payload_days=payload, metadata_days=metadata)


def policy_of(session: Session, default: Retention) -> tuple[Retention, ev.type_of_source]:
    """Return the policy a session is kept by: its own, or the service's when its history states none."""
    stated = session.settings.retention
    return (stated, "session") if stated is not None else (default, "service")


def next_step(session: Session, default: Retention) -> Step | None:
    """Return what retention does next with the session, None when that is nothing."""
    if session.ended_at is None or _why_not(session):
        return None
    if session.proposal is not None:
        return Step(what="erase", at=session.proposal.due)
    retention, _ = policy_of(session, default)
    return Step(what="propose", at=session.ended_at + timedelta(days=retention.payload_days))


def propose(asked: cmd.Asked, command: cmd.ProposeCleanup, session: Session) -> list[ev.SessionEvent]:
    """Propose a cleanup that is due and has not been proposed; anything else is a stray reminder."""
    step = next_step(session, command.retention)
    if step is None or step.what != "propose" or session.ended_at is None:
        return []
    if min(asked.at, command.due) < step.at:
        return []
    retention, source = policy_of(session, command.retention)
    return [
        ev.SessionCleanupProposed(
            retention=retention, source=source, ended_at=session.ended_at, due=command.due
        )
    ]


def carry_out(asked: cmd.Asked, command: cmd.CarryOut, session: Session) -> list[ev.SessionEvent]:
    """Begin the cleanup of the proposal that stands and is due; one that was withdrawn changes nothing."""
    proposal = session.proposal
    step = next_step(session, Retention())
    if proposal is None or proposal.version != command.proposed or step is None or asked.at < step.at:
        return []
    # The proposal says the rest: a text made here would have to be made alike for ever.
    return [ev.SessionCleanupStarted(reason="retention", proposed=proposal.version)]


def explained(session: Session, default: Retention, *, now: datetime, damage: str | None = None) -> Outlook:
    """Return what is kept of an existing session till when, and what happens next.

    Args:
        default: the service's policy.
        damage: where the chain of the history breaks; nothing of such a session is erased.
    """
    retention, source = policy_of(session, default)
    ended = session.ended_at
    until = ended + timedelta(days=retention.payload_days) if ended else None
    metadata_until = ended + timedelta(days=retention.metadata_days) if ended else None
    step = None if damage else next_step(session, default)
    if damage:
        because = f"the history is damaged ({damage}): nothing of it is erased until a person has looked"
    elif step is None:
        because = _why_not(session) or "its time begins when the recording has ended"
    elif step.what == "propose":
        because = f"its bytes are past their {retention.payload_days:g} days then"
    else:
        because = "as proposed, unless a hold or a recovery comes first"
    return Outlook(
        session_id=session.id,
        state=session.state or State.CREATED,
        retention=retention,
        source=source,
        ended_at=ended,
        payload_until=until,
        metadata_until=metadata_until,
        metadata_due=metadata_until is not None and metadata_until <= now,
        chunks=0 if session.state is State.DESTROYED else session.ready_chunks,
        stored_bytes=0 if session.state is State.DESTROYED else session.stored_bytes,
        holds=dict(session.holds),
        proposal=session.proposal,
        erasure=session.erasure,
        next=step,
        because=because,
    )


def in_words(retention: Retention, source: ev.type_of_source) -> str:
    """Return the policy as people read it."""
    of = "the session's policy" if source == "session" else "the service's policy"
    return f"bytes are kept for {retention.payload_days:g} days ({of})"


def _why_not(session: Session) -> str:
    """Return why retention does nothing with the session now; nothing when it does."""
    if session.state in ERASING:
        return "it is being erased" if session.state is State.CLEANUP else "its bytes are gone"
    if session.state not in ENDED:
        return f"it is {session.state}: its time begins when the recording has ended"
    if session.holds:
        return f"it is held by {', '.join(session.holds)}: nothing is erased until that is released"
    if session.error_code == CLEANUP_FAILED:
        return f"erasing it failed ({session.error_reason}): a person looks, and cleans it up"
    if not session.next_index:
        return "nothing of it was ever stored"
    return ""


def _invalid(message: str) -> Rejected:
    return Rejected(code="invalid", message=message, field="settings.retention")
