"""`lucid sessions`, `lucid status`, `lucid chunks`: what there is, read from the views and histories."""

import asyncio
import shlex
from contextlib import aclosing
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.table import Table
from typer.core import TyperGroup

from lucid_events.cli.output import counted, err, moment, out, print_json, printable, size, table
from lucid_events.cli.running import Json, Server, SessionArgument, run, settings
from lucid_events.domain.ids import session_id
from lucid_events.domain.transitions import ERASING, State
from lucid_events.projections.index import Page
from lucid_events.projections.live_status import LiveStatus
from lucid_events.projections.status_view import StatusView

PAGE = 100
"""Sessions on a page when no limit is asked for."""


class ListByDefault(TyperGroup):
    """`lucid chunks SID` means `lucid chunks list SID`; a session called `get` needs the long form."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert `list` before an argument that is no subcommand."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["list", *args]
        return super().parse_args(ctx, args)


chunks_app = typer.Typer(
    help="List a session's chunks, fetch one, sweep orphans.", cls=ListByDefault, no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(sessions)
    app.command()(status)


def sessions(
    state: Annotated[State | None, typer.Option(help="Only sessions in this state.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only this owner's sessions.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most sessions on a page.")] = PAGE,
    after: Annotated[int, typer.Option(help="Cursor: where the page before ended.")] = 0,
    server: Server = None,
    json: Json = False,
) -> None:
    """List sessions, the one that changed longest ago first; a page at a time."""
    from lucid_events.service import connect

    async def work() -> Page:
        async with connect(settings(nats_url=server)) as client:
            return await client.sessions(owner=owner, state=state, after=after, limit=limit)

    page = run(work, json=json)
    if json:
        for entry in page.entries:
            print_json(entry)
        if page.cursor is not None:
            # Beside the data, as the totals of `play`: every line of standard output is a session.
            err.print_json(data={"cursor": page.cursor}, indent=None)
        return
    rows = [(e.session_id, str(e.state), e.owner, moment(e.since), e.label) for e in page.entries]
    out.print(table("", ("session", "state", "owner", "since", "label"), rows))
    if page.cursor is not None:
        asked = {
            "--state": state,
            "--owner": owner,
            "--limit": limit if limit != PAGE else None,
            "--server": server,
        }
        words = [word for name, value in asked.items() if value is not None for word in (name, str(value))]
        err.print(
            f"more: {shlex.join(['lucid', 'sessions', *words, '--after', str(page.cursor)])}", markup=False
        )


def status(
    sid: SessionArgument,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow until the session has ended.")] = False,
    min_version: Annotated[
        int, typer.Option("--min-version", help="Wait until the view has seen this version.")
    ] = 0,
    server: Server = None,
    json: Json = False,
) -> None:
    """Show where a session stands."""
    from lucid_events.service import connect, watching

    async def work() -> None:
        session = session_id(sid)
        async with connect(settings(nats_url=server)) as client:
            view = await watching.look(client, session, min_version=min_version)
            if not watch:
                print_json(view) if json else out.print(status_table(view))
                return
            async with aclosing(watching.watch(client, session)) as views:
                if json:
                    async for view in views:
                        print_json(view)
                    return
                with Live(status_table(view), console=out, refresh_per_second=4) as live:
                    async for view in views:
                        live.update(status_table(view))

    run(work, json=json)


def status_table(view: LiveStatus, *, as_of: bool = False) -> Table:
    """Return a status as people read it; `as_of` is one of the past, which has no gauge."""
    made = table("", ("", ""), ())
    made.show_header = False
    rows = {
        "session": view.session_id,
        "state": f"{view.state} since {moment(view.since)}",
        "owner": view.owner or "–",
        "label": view.label or "–",
        "recorder": recorder_of(view),
        **({} if as_of else {"captured": captured_of(view)}),
        "sealed": f"{size(view.sealed_offset)} in {counted(view.chunks.sealed, 'chunk')}",
        "ready": f"{size(view.raw_bytes)} in {counted(view.chunks.ready, 'chunk')}",
        "failed": counted(view.chunks.failed_count, "chunk"),
        "stored": f"{size(view.stored_bytes)}, ratio {view.ratio:.2f}" if view.ratio else "nothing",
        "gaps": f"{view.gap_count} ({size(view.gap_bytes)})",
        "holds": ", ".join(f"{name} ({why})" if why else name for name, why in view.holds.items()) or "none",
        **({"proposal": proposal_of(view)} if view.proposal else {}),
        "marks": f"{view.mark_count}, the last {view.marks[-1].label!r} at {view.marks[-1].offset}"
        if view.marks
        else "0",
        "last error": f"{view.last_error.code}: {view.last_error.reason}" if view.last_error else "none",
        "problem": str(view.problem) if view.problem else "none",
        "version": str(view.position.sequence),
    }
    for name, value in rows.items():
        made.add_row(name, printable(value))
    return made


def proposal_of(view: StatusView) -> str:
    """Return the cleanup that is proposed, or was carried out."""
    if view.proposal is None:
        return "none"
    gone = view.state in ERASING
    return f"cleanup by policy {'since' if gone else 'at'} {moment(view.proposal.due)}" + (
        "" if gone else f", unless it is held (lucid hold {view.session_id} …)"
    )


def recorder_of(view: StatusView) -> str:
    """Return who records the session, and what it means when nobody does."""
    if view.recorder:
        return f"{view.recorder.recorder} (epoch {view.epoch}, {view.recorder.step})"
    match view.state:
        case State.STARTING:
            return "none has attached yet: the session ends in error unless one does in time"
        case State.ACTIVE:
            return (
                "none is attached, nothing is being recorded: the session ends in error unless one "
                f"attaches in time (lucid record {view.session_id} …), or stop it"
            )
        case State.PAUSED:
            return f"none is attached: one has to be (lucid record {view.session_id} …) when it is resumed"
        case _:
            return "none"


def captured_of(view: LiveStatus) -> str:
    """Return how far capture has got, and how much of it is on its way into chunks."""
    if view.captured is None:
        return "can't be read from here"
    waiting = view.captured.unstored_bytes
    if not waiting:
        return size(view.captured.offset)
    unsealed, at = size(view.captured.unsealed_bytes), view.captured.at
    last = f", the last at {moment(at)}" if at else ""
    return f"{size(view.captured.offset)}, {size(waiting)} not yet stored ({unsealed} not yet sealed){last}"


@chunks_app.command("list")
def chunks_list(
    sid: SessionArgument,
    server: Server = None,
    json: Json = False,
) -> None:
    """List a session's chunks, as its history has them."""
    from lucid_events.service import connect

    async def work() -> Any:
        async with connect(settings(nats_url=server)) as client:
            return await client.player.contents(session_id(sid))

    contents = run(work, json=json)
    rows = []
    for index in sorted(contents.chunks):
        chunk = contents.chunks[index]
        sealed, ready = chunk.sealed, chunk.ready
        if json:
            print_json(
                {
                    "index": index,
                    "state": chunk.state,
                    "sealed": sealed,
                    "ready": ready,
                    "failed": chunk.failed,
                }
            )
        rows.append(
            (
                index,
                chunk.state,
                sealed.offset,
                sealed.size,
                ready.stored_size if ready else None,
                ready.codec if ready else None,
                ready.ratio if ready else None,
                sealed.cut,
                sealed.sha256[:16],
            )
        )
    if not json:
        names = ("index", "state", "offset", "bytes", "stored", "codec", "ratio", "cut", "sha256")
        out.print(table("", names, rows))


@chunks_app.command("get")
def chunks_get(
    sid: SessionArgument,
    index: Annotated[int, typer.Argument(min=0, help="Which chunk, from 0.")],
    output: Annotated[str, typer.Option("--output", "-o", help="File; - is standard output.")] = "-",
    stored: Annotated[bool, typer.Option(help="The stored bytes as they are, still compressed.")] = False,
    server: Server = None,
) -> None:
    """Fetch one chunk, verified and decompressed."""
    from lucid_events.cli.playing import write_out
    from lucid_events.service import connect

    async def work() -> None:
        async with connect(settings(nats_url=server)) as client:
            session = session_id(sid)
            read = client.player.stored if stored else client.player.chunk
            if (chunk := (await client.player.contents(session)).chunks.get(index)) is not None:
                place = chunk.sealed
                await client.note_view(
                    session, start=place.offset, end=place.offset + place.size, how="chunk"
                )
            data = await read(session, index)
            await asyncio.to_thread(write_out, output, data)

    run(work)


@chunks_app.command("sweep")
def chunks_sweep(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    grace: Annotated[float | None, typer.Option(help="Seconds; younger pieces are left alone.")] = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Remove object pieces that no metadata points to."""
    from lucid_events.service import connect

    async def work() -> Any:
        made = settings(nats_url=server, sweep_grace_s=grace)
        async with connect(made) as client:
            return await client.chunks.sweep(older_than_s=made.sweep_grace_s, dry_run=dry_run)

    orphans = run(work, json=json)
    if json:
        for orphan in orphans:
            print_json(
                {
                    "nuid": orphan.nuid,
                    "pieces": orphan.pieces,
                    "newest": orphan.newest,
                    "removed": not dry_run,
                }
            )
        return
    rows = [(orphan.nuid, orphan.pieces, orphan.newest) for orphan in orphans]
    out.print(table("", ("object", "pieces", "newest piece"), rows))
    verb = "would be removed" if dry_run else "removed"
    out.print(f"{counted(len(orphans), 'orphan')} {verb}")
