"""The ten states of a session and every way from one to another, as data.

`TRANSITIONS` is the table; `docs/design.md` shows it and a test compares the two. Triggers keep
the names they have always had (`start_complete`, `pause_complete`, …).
"""

from enum import StrEnum

from lucid_events.domain.events import (
    RecorderAttached,
    SessionCleanupStarted,
    SessionCreated,
    SessionDestroyed,
    SessionEvent,
    SessionFailed,
    SessionPaused,
    SessionPausing,
    SessionRecovered,
    SessionResumed,
    SessionStarted,
    SessionStopped,
    SessionStopping,
)


class State(StrEnum):
    """Where a session stands."""

    CREATED = "created"
    STARTING = "starting"
    ACTIVE = "active"
    PAUSING = "pausing"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    ERROR = "error"
    CLEANUP = "cleanup"
    DESTROYED = "destroyed"


class Trigger(StrEnum):
    """What moves a session from one state to another."""

    CREATE = "create"
    START = "start"
    START_COMPLETE = "start_complete"
    PAUSE = "pause"
    PAUSE_COMPLETE = "pause_complete"
    RESUME = "resume"
    STOP = "stop"
    STOP_COMPLETE = "stop_complete"
    ERROR = "error"
    RECOVER = "recover"
    CLEANUP = "cleanup"
    CLEANUP_COMPLETE = "cleanup_complete"
    DESTROY = "destroy"


_S, _T = State, Trigger

TRANSITIONS: dict[tuple[State | None, Trigger], State] = {
    (None, _T.CREATE): _S.CREATED,
    (_S.CREATED, _T.START): _S.STARTING,
    (_S.CREATED, _T.ERROR): _S.ERROR,
    (_S.CREATED, _T.DESTROY): _S.DESTROYED,
    (_S.STARTING, _T.START_COMPLETE): _S.ACTIVE,
    (_S.STARTING, _T.STOP): _S.STOPPING,
    (_S.STARTING, _T.ERROR): _S.ERROR,
    (_S.ACTIVE, _T.PAUSE): _S.PAUSING,
    (_S.ACTIVE, _T.STOP): _S.STOPPING,
    (_S.ACTIVE, _T.ERROR): _S.ERROR,
    (_S.PAUSING, _T.PAUSE_COMPLETE): _S.PAUSED,
    (_S.PAUSING, _T.STOP): _S.STOPPING,
    (_S.PAUSING, _T.ERROR): _S.ERROR,
    (_S.PAUSED, _T.RESUME): _S.ACTIVE,
    (_S.PAUSED, _T.STOP): _S.STOPPING,
    (_S.PAUSED, _T.ERROR): _S.ERROR,
    (_S.STOPPING, _T.STOP_COMPLETE): _S.STOPPED,
    (_S.STOPPING, _T.ERROR): _S.ERROR,
    (_S.STOPPED, _T.RECOVER): _S.CREATED,
    (_S.STOPPED, _T.CLEANUP): _S.CLEANUP,
    (_S.STOPPED, _T.DESTROY): _S.DESTROYED,
    (_S.ERROR, _T.RECOVER): _S.CREATED,
    (_S.ERROR, _T.CLEANUP): _S.CLEANUP,
    (_S.ERROR, _T.DESTROY): _S.DESTROYED,
    (_S.CLEANUP, _T.CLEANUP_COMPLETE): _S.DESTROYED,
    (_S.CLEANUP, _T.ERROR): _S.ERROR,
}

_TRIGGERS: dict[type[SessionEvent], Trigger] = {
    SessionCreated: _T.CREATE,
    SessionStarted: _T.START,
    RecorderAttached: _T.START_COMPLETE,
    SessionPausing: _T.PAUSE,
    SessionPaused: _T.PAUSE_COMPLETE,
    SessionResumed: _T.RESUME,
    SessionStopping: _T.STOP,
    SessionStopped: _T.STOP_COMPLETE,
    SessionFailed: _T.ERROR,
    SessionRecovered: _T.RECOVER,
    SessionCleanupStarted: _T.CLEANUP,
    SessionDestroyed: _T.DESTROY,
}

WITHOUT_RECORDER = frozenset({None, _S.CREATED, _S.STARTING, _S.STOPPED, _S.ERROR, _S.CLEANUP, _S.DESTROYED})
"""States in which no recorder can be attached."""

TAKES_BYTES = frozenset({_S.ACTIVE, _S.PAUSING, _S.STOPPING})
"""States in which a recorder may seal and declare gaps."""

UNDER_WAY = (_S.STARTING, _S.ACTIVE, _S.PAUSING, _S.PAUSED, _S.STOPPING)
"""States that a session leaves by itself, or by whoever records it: timers stand, or a recorder beats."""

OPEN = (_S.CREATED, *UNDER_WAY)
"""States in which bytes may still come, at once or after a start."""

NEEDS_ATTENTION = (*OPEN, _S.CLEANUP, _S.ERROR)
"""States in which something, or somebody, may still have to do its part."""

AT_REST = frozenset({_S.STOPPED, _S.ERROR, _S.DESTROYED})
"""States that nothing leaves unless somebody asks."""

ENDED = (_S.STOPPED, _S.ERROR)
"""States in which a recording is over and its bytes may be there."""

ERASING = frozenset({_S.CLEANUP, _S.DESTROYED})
"""States in which no chunk becomes ready any more."""


def trigger_of(state: State | None, event: SessionEvent) -> Trigger | None:
    """Return the trigger `event` is in `state`, None when it is a fact that moves nothing."""
    trigger = _TRIGGERS.get(type(event))
    if trigger is _T.START_COMPLETE and state is not _S.STARTING:
        return None  # a takeover or a re-attachment: the session goes on as it was
    if trigger is _T.STOP_COMPLETE and state is _S.STOPPED:
        return None  # a later manifest over everything
    if trigger is _T.DESTROY and state is _S.CLEANUP:
        return _T.CLEANUP_COMPLETE
    return trigger


def target(state: State | None, trigger: Trigger) -> State | None:
    """Return where `trigger` leads from `state`, None when the table has no such transition."""
    return TRANSITIONS.get((state, trigger))


def triggers_from(state: State | None) -> tuple[Trigger, ...]:
    """Return what may happen in `state`, in the order of the table."""
    return tuple(trigger for (source, trigger) in TRANSITIONS if source is state)
