"""Becoming a session's recorder: create it, start it, attach, and find where to go on."""

import logging
import uuid

from lucid_events.client import Commands
from lucid_events.domain.commands import Attach, Create, Recover, SessionCommand, Start
from lucid_events.domain.ids import CommandId, SessionId
from lucid_events.domain.replies import Accepted
from lucid_events.domain.transitions import State
from lucid_events.errors import CommandRejected, ConfigError, IntegrityError
from lucid_events.ports import Clock
from lucid_events.recorder.options import Checkpoint, RecorderOptions
from lucid_events.recorder.sources import Source
from lucid_events.recorder.spool import Spool

_ALREADY = frozenset({"exists", "illegal_transition"})
_ATTACH_AGAIN_S = 1.0
"""Between attempts to attach while another recorder is alive: the service listens for a beat each time."""

_log = logging.getLogger(__name__)


async def become_recorder(
    commands: Commands,
    clock: Clock,
    session: SessionId,
    create: Create,
    *,
    source: Source,
    options: RecorderOptions,
    checkpoint: Checkpoint,
) -> Accepted:
    """Attach to `session`, which is created and started when it has not been.

    With `options.recover` a session that has ended, or ends while we ask, is brought back first.

    Raises:
        CommandRejected: another recorder is alive (`recorder_alive`), or the session's state does
            not allow it.
        StoreUnavailable, AppendUncertain: the service does not answer.
    """
    if not options.attach_only:
        created = await _unless_already(commands, session, create)
        if not created and create != Create():
            why = "the session is there already: it keeps its owner, label and settings"
            _log.warning("asked for a new session only", extra={"session": session, "reason": why})
        await _bring_to_start(commands, session, options)
        await checkpoint("session.started")
    attach = Attach(
        recorder=options.recorder,
        takeover=options.takeover,
        source=source.name[:200],
        content_type=source.content_type[:200],
    )
    id = CommandId(str(uuid.uuid4()))
    deadline = clock.now().timestamp() + options.attach_timeout_s
    level = logging.WARNING  # once: a recorder that waits says so
    while True:
        try:
            accepted = await commands.send(session, attach, id=id)
        except CommandRejected as exc:
            if clock.now().timestamp() + _ATTACH_AGAIN_S > deadline:
                raise
            # The recorder before us may be given up at any moment until we attach, which ends the session.
            ended = exc.code == "illegal_transition" and options.recover
            if ended and await _bring_to_start(commands, session, options):
                continue
            ending = ended and exc.fields.get("state") == State.STOPPING
            alive = exc.code == "recorder_alive" and options.wait_for_lease
            if not (ending or alive):
                raise
            what = "for another recorder to be gone" if alive else "until the session has ended"
            _log.log(level, f"waiting {what}", extra={"session": session, "reason": exc.message})
            level = logging.DEBUG
            await clock.sleep(_ATTACH_AGAIN_S)
        else:
            await checkpoint("recorder.attached")
            return accepted


async def _bring_to_start(commands: Commands, session: SessionId, options: RecorderOptions) -> bool:
    """Start the session, and recover it first if that is asked for; True when it was recovered."""
    recover = Recover(reason="recording goes on")
    recovered = options.recover and await _unless_already(commands, session, recover)
    await _unless_already(commands, session, Start())
    return recovered


async def _unless_already(commands: Commands, session: SessionId, command: SessionCommand) -> bool:
    try:
        await commands.send(session, command)
    except CommandRejected as exc:
        if exc.code not in _ALREADY:
            raise
        # Whether the state it is in will do is for `attach` to say.
        return False
    return True


async def where_to_read_on(
    session: SessionId, source: Source, spool: Spool | None, *, offset: int, append: bool
) -> int:
    """Return the offset of the first byte to read, with `source` placed there.

    Bytes from `offset` up to it are in the spool, left there by an earlier recorder. What the
    spool holds below `offset` was captured before that recorder went and is let go.

    Raises:
        ConfigError: the source can't begin there.
        IntegrityError: bytes between the session's end and the spool's beginning are nowhere.
    """
    covered = False
    if spool and spool.end:
        spool.release(offset)
        if spool.end > offset:
            covered = spool.covers(offset)
            if not covered and not source.resumable:
                raise IntegrityError(
                    f"session {session} ends at {offset}, its spool begins at {spool.start}: "
                    f"the bytes between are not here. Move {spool.folder} away to record without them",
                    offset=offset,
                    start=spool.start,
                )
            if not covered:
                spool.release(spool.end)  # the source has all of it still
    start = spool.end if spool and covered else offset
    if start and not source.resumable and not covered and not append:
        raise ConfigError(
            f"session {session} has {start} bytes already and {source.name} can't be read from there: "
            "use a new session, or --append to put what comes now behind them",
            offset=start,
        )
    if start:
        await source.seek(start)
    return start
