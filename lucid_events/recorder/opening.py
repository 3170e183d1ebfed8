"""Becoming a session's recorder: create it, start it, attach, and find where to go on."""

import asyncio
import logging
import uuid
from contextlib import aclosing, suppress

from lucid_events.client import Commands
from lucid_events.domain.commands import Attach, Create, Detach, Recover, SessionCommand, Start
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.events import ChunkSealed, GapDeclared
from lucid_events.domain.ids import CommandId, SessionId
from lucid_events.domain.replies import Accepted
from lucid_events.domain.transitions import State
from lucid_events.errors import CommandRejected, ConfigError, IntegrityError, LucidError
from lucid_events.ports import Clock, EventStore
from lucid_events.recorder.options import Checkpoint, RecorderOptions
from lucid_events.recorder.sources import Source
from lucid_events.recorder.spool import Spool

_ALREADY = frozenset({"exists", "illegal_transition"})
_ATTACH_AGAIN_S = 1.0
"""Between attempts to attach while another recorder is alive: the service listens for a beat each time."""

_LEAVE_S = 5.0
"""How long leaving may take where nothing was begun: the lease ends by itself."""
_TELL_AFTER_S = 3.0
"""Unanswered as long, a command of the opening is told to be waited for. Half speaks of every election."""

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
        created = await _unless_already(commands, clock, session, create)
        if not created and create != Create():
            why = "the session is there already: it keeps its owner, label and settings"
            _log.warning("asked for a new session only", extra={"session": session, "reason": why})
        await _bring_to_start(commands, clock, session, options)
        await checkpoint("session.started")
    attach = attach_of(source, options)
    id = CommandId(str(uuid.uuid4()))
    deadline = clock.now().timestamp() + options.attach_timeout_s
    level = logging.WARNING  # once: a recorder that waits says so
    anew = False
    while True:
        try:
            accepted = await _asked(commands, clock, session, attach, id)
        except CommandRejected as exc:
            over = clock.now().timestamp() + _ATTACH_AGAIN_S > deadline
            # The recorder before us may be given up at any moment until we attach, which ends the session.
            # So may we, while the answer is on its way, longer than we would ask: then we begin anew, once.
            ended = exc.code == "illegal_transition" and options.recover
            if not (over and anew) and (
                exc.code == "expired" or (ended and await _bring_to_start(commands, clock, session, options))
            ):
                # What was carried out under the old one is over, and never happens again.
                id, anew = CommandId(str(uuid.uuid4())), True
                continue
            if over:
                raise
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


def attach_of(source: Source, options: RecorderOptions) -> Attach:
    """Return what a recorder of `source` attaches with."""
    return Attach(
        recorder=options.recorder,
        takeover=options.takeover,
        source=source.name[:200],
        content_type=source.content_type[:200],
        resumable=source.resumable,
    )


async def give_back(commands: Commands, session: SessionId, accepted: Accepted, reason: str) -> None:
    """Leave when recording can't begin, without an error; whoever comes next need not wait for a lease."""
    detach = Detach(epoch=accepted.epoch, offset=accepted.offset, reason=reason[:500])
    with suppress(LucidError):
        await commands.send(session, detach, give_up_after_s=_LEAVE_S)


async def _was_overtaken(session: SessionId, spool: Spool, epoch: int, history: EventStore | None) -> bool:
    """Return whether a recorder between the one that left `spool` and that of `epoch` has left bytes.

    Who is not known to have attached has left none; nor has one that was given up before it sent any.
    """
    between = range(spool.epoch + 1, epoch)
    if not spool.epoch or not between:
        return False
    if history is not None:
        try:
            async with aclosing(history.read(session)) as messages:
                async for message in messages:
                    event = message.event if isinstance(message, Recorded) else None
                    if isinstance(event, ChunkSealed | GapDeclared) and event.epoch in between:
                        return True
        except ConfigError as exc:
            if "forbidden" not in exc.fields:
                raise
        else:
            return False
    why = f"{len(between)} recorders have attached since it was left, and whether they wrote can't be read"
    _log.warning("the spool may be out of date", extra={"session": session, "reason": why})
    return False


async def _bring_to_start(
    commands: Commands, clock: Clock, session: SessionId, options: RecorderOptions
) -> bool:
    """Start the session, and recover it first if that is asked for; True when it was recovered."""
    recover = Recover(reason="recording goes on")
    recovered = options.recover and await _unless_already(commands, clock, session, recover)
    await _unless_already(commands, clock, session, Start())
    return recovered


async def _asked(
    commands: Commands, clock: Clock, session: SessionId, command: SessionCommand, id: CommandId | None = None
) -> Accepted:
    """Send `command`, and say so when its answer is waited for."""

    async def tell() -> None:
        await clock.sleep(_TELL_AFTER_S)
        why = "neither the server nor a worker has answered yet: is `lucid up` or a worker running?"
        extra = {"session": session, "command": command.verb, "reason": why}
        _log.warning("waiting for an answer", extra=extra)

    telling = asyncio.create_task(tell(), name=f"waiting for {command.verb}")
    try:
        return await commands.send(session, command, id=id)
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


async def _unless_already(
    commands: Commands, clock: Clock, session: SessionId, command: SessionCommand
) -> bool:
    try:
        await _asked(commands, clock, session, command)
    except CommandRejected as exc:
        if exc.code not in _ALREADY:
            raise
        # Whether the state it is in will do is for `attach` to say.
        return False
    return True


async def where_to_read_on(
    session: SessionId,
    source: Source,
    spool: Spool | None,
    *,
    epoch: int,
    offset: int,
    append: bool,
    history: EventStore | None,
) -> int:
    """Return the offset of the first byte to read, with `source` placed there.

    Bytes from `offset` up to it are in the spool, left there by an earlier recorder. What the
    spool holds below `offset` was captured before that recorder went and is let go.

    Raises:
        ConfigError: the source can't begin there.
        IntegrityError: bytes between the session's end and the spool's beginning are nowhere, or
            another recorder has written into the session since the spool was left.
    """
    covered = False
    if spool and spool.end and await _was_overtaken(session, spool, epoch, history):
        raise IntegrityError(
            f"another recorder has written into session {session} since its spool was left (as epoch "
            f"{spool.epoch}): the bytes from {spool.start} to {spool.end} there don't belong behind what "
            f"is recorded by now. Move {spool.folder}/{session}.* away to record without them",
            offset=offset,
            start=spool.start,
        )
    if spool:
        await asyncio.to_thread(spool.note, epoch)
    if spool and spool.end:
        spool.release(offset)
        if spool.end > offset:
            covered = spool.covers(offset)
            if not covered and not source.resumable:
                raise IntegrityError(
                    f"session {session} ends at {offset}, its spool begins at {spool.start}: "
                    "the bytes between are not here. "
                    f"Move {spool.folder}/{session}.* away to record without them",
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
