"""`lucid create SID`, `lucid start SID` and so on: one command line for each verb of a session."""

from typing import Annotated

import typer

from lucid_events.cli.output import out, print_json, size
from lucid_events.cli.running import ChunkBytes, Json, PayloadDays, Server, SessionArgument, run, settings
from lucid_events.domain import commands as cmd
from lucid_events.domain.ids import CommandId, command_id, session_id
from lucid_events.domain.replies import Accepted
from lucid_events.domain.retention import Outlook
from lucid_events.domain.values import RetentionAsked, SettingsAsked

Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; kept in the history.")]
Id = Annotated[
    str | None,
    typer.Option("--id", help="Command id: the same id twice takes effect once and has one outcome."),
]
Queued = Annotated[
    bool, typer.Option("--queued", help="Store the command durably and return; it will be handled.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(create)
    app.command()(start)
    app.command()(pause)
    app.command()(resume)
    app.command()(stop)
    app.command()(fail)
    app.command()(recover)
    app.command()(mark)
    app.command()(hold)
    app.command()(release)
    app.command()(cleanup)
    app.command()(destroy)


def create(
    sid: SessionArgument,
    owner: Annotated[str, typer.Option(help="Who the recording belongs to.")] = "",
    label: Annotated[str, typer.Option(help="A name for people.")] = "",
    meta: Annotated[list[str] | None, typer.Option("--meta", help="KEY=VALUE, repeatable.")] = None,
    chunk_bytes: ChunkBytes = None,
    codec: Annotated[str | None, typer.Option(help="gzip, zstd, lz4, store or auto.")] = None,
    level: Annotated[int | None, typer.Option(help="Level within the codec's range.")] = None,
    payload_days: PayloadDays = None,
    metadata_days: Annotated[
        float | None, typer.Option(help="Days after which its metadata is reported as due.")
    ] = None,
    id: Id = None,
    queued: Queued = False,
    server: Server = None,
    json: Json = False,
) -> None:
    """Bring a session into being."""
    pairs: dict[str, str] = {}
    for item in meta or ():
        key, sign, value = item.partition("=")
        if not sign or not key:
            raise typer.BadParameter(f"{item!r} is not KEY=VALUE", param_hint="--meta")
        pairs[key] = value
    kept = RetentionAsked(payload_days=payload_days, metadata_days=metadata_days)
    wanted = SettingsAsked(chunk_bytes=chunk_bytes, codec=codec, level=level, retention=kept)
    command = cmd.Create(owner=owner, label=label, metadata=pairs, settings=wanted)
    _send(sid, command, id, queued, server, json)


def start(
    sid: SessionArgument, id: Id = None, queued: Queued = False, server: Server = None, json: Json = False
) -> None:
    """Let a recorder attach to a created session."""
    _send(sid, cmd.Start(), id, queued, server, json)


def pause(
    sid: SessionArgument,
    reason: Reason = "",
    id: Id = None,
    queued: Queued = False,
    server: Server = None,
    json: Json = False,
) -> None:
    """Drain the recorder, then take nothing in until resumed."""
    _send(sid, cmd.Pause(reason=reason), id, queued, server, json)


def resume(
    sid: SessionArgument, id: Id = None, queued: Queued = False, server: Server = None, json: Json = False
) -> None:
    """Take bytes in again."""
    _send(sid, cmd.Resume(), id, queued, server, json)


def stop(
    sid: SessionArgument,
    reason: Reason = "",
    id: Id = None,
    queued: Queued = False,
    server: Server = None,
    json: Json = False,
) -> None:
    """Drain, let the recorder leave, finish with a manifest."""
    _send(sid, cmd.Stop(reason=reason), id, queued, server, json)


def fail(
    sid: SessionArgument,
    reason: Reason = "",
    id: Id = None,
    queued: Queued = False,
    server: Server = None,
    json: Json = False,
) -> None:
    """Give the session up: what was captured becomes chunks, the session goes to error."""
    _send(sid, cmd.Fail(reason=reason), id, queued, server, json)


def recover(
    sid: SessionArgument,
    reason: Reason = "",
    id: Id = None,
    queued: Queued = False,
    server: Server = None,
    json: Json = False,
) -> None:
    """Bring a stopped or failed session back to created; offsets and indices go on."""
    _send(sid, cmd.Recover(reason=reason), id, queued, server, json)


def mark(
    sid: SessionArgument,
    label: Annotated[str, typer.Argument(help="What to call the place.")],
    offset: Annotated[
        int | None, typer.Option(help="Byte offset; by default where sealed bytes end.")
    ] = None,
    id: Id = None,
    queued: Queued = False,
    server: Server = None,
    json: Json = False,
) -> None:
    """Set a bookmark."""
    _send(sid, cmd.Mark(label=label, offset=offset), id, queued, server, json)


def hold(
    sid: SessionArgument,
    name: Annotated[str, typer.Argument(help="Name of the hold.")],
    reason: Reason = "",
    id: Id = None,
    queued: Queued = False,
    server: Server = None,
    json: Json = False,
) -> None:
    """Forbid erasing the session until the hold is released."""
    _send(sid, cmd.Hold(hold=name, reason=reason), id, queued, server, json)


def release(
    sid: SessionArgument,
    name: Annotated[str, typer.Argument(help="Name of the hold.")],
    reason: Reason = "",
    id: Id = None,
    queued: Queued = False,
    server: Server = None,
    json: Json = False,
) -> None:
    """Lift a hold."""
    _send(sid, cmd.Release(hold=name, reason=reason), id, queued, server, json)


def cleanup(
    sid: SessionArgument,
    reason: Reason = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be erased, or why it is refused.")
    ] = False,
    id: Id = None,
    queued: Queued = False,
    server: Server = None,
    json: Json = False,
) -> None:
    """Erase the session's bytes; its history stays."""
    if dry_run:
        _rehearse_cleanup(sid, server, json)
        return
    _send(sid, cmd.Cleanup(reason=reason), id, queued, server, json)


def destroy(
    sid: SessionArgument,
    reason: Reason = "",
    id: Id = None,
    queued: Queued = False,
    server: Server = None,
    json: Json = False,
) -> None:
    """End a session of which nothing is stored."""
    _send(sid, cmd.Destroy(reason=reason), id, queued, server, json)


def _rehearse_cleanup(sid: str, server: str | None, json: bool) -> None:
    from lucid_events.service import connect
    from lucid_events.service.retention import Outlooks

    async def work() -> Outlook:
        session = session_id(sid)
        async with connect(settings(nats_url=server)) as client:
            return await Outlooks(client).rehearse_cleanup(session)

    found = run(work, json=json)
    if json:
        print_json({"session_id": sid, "outcome": "rehearsed", "retention": found})
    else:
        out.print(
            f"{sid}: {found.chunks} chunks, {size(found.stored_bytes)} stored, and what is left in capture "
            "would be erased; nothing was"
        )


def _send(
    sid: str, command: cmd.SessionCommand, id: str | None, queued: bool, server: str | None, json: bool
) -> None:
    from lucid_events.service import connect

    async def work() -> Accepted | CommandId:
        session = session_id(sid)
        chosen = command_id(id) if id is not None else None
        async with connect(settings(nats_url=server)) as client:
            if queued:
                return await client.commands.enqueue(session, command, id=chosen)
            return await client.commands.send(session, command, id=chosen)

    done = run(work, json=json)
    if not isinstance(done, Accepted):
        if json:
            print_json({"session_id": sid, "command_id": done, "outcome": "queued"})
        else:
            out.print(f"{sid}: {command.verb} queued as {done}")
    elif json:
        print_json(done)
    else:
        what = ", ".join(event.type for event in done.events) or "nothing to do"
        out.print(
            f"{sid}: {done.state} (version {done.version}; {what}{', repeated' if done.repeated else ''})"
        )
