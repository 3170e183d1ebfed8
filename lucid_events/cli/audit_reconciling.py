"""`lucid audit reconcile`: whether captured, sealed, stored and verified bytes add up."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from lucid_events.cli.output import counted, err, out, print_json, printable, size, table
from lucid_events.cli.running import Json, Server, run, settings
from lucid_events.domain.ids import session_id
from lucid_events.errors import LucidError

if TYPE_CHECKING:
    from lucid_events.service.adapters import Adapters
    from lucid_events.service.reconciling import Reconciled, Totals

MISSING = 7
"""Exit status when something is missing, as of an IntegrityError."""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(reconcile)


def reconcile(
    sid: Annotated[
        str | None,
        typer.Argument(metavar="[SID]", help="Session id; every session when left out.", show_default=False),
    ] = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Hold captured, sealed, stored and verified bytes against each other, and objects against events.

    The exit status is 7 when something is missing or left: a ready chunk without its object, an object that
    no history knows, a sealed chunk that is not stored and no longer in capture, capture that was purged
    and has come back, or a history that can't be read. Bytes are not read: `verified` is what the newest
    scrub has looked at, which may be a sample. The sums over everything are kept for metrics.
    """
    from lucid_events.service import connect
    from lucid_events.service.reconciling import Reconciled, Totals, reconcile

    async def work() -> Totals:
        session = session_id(sid) if sid is not None else None
        totals, shown = Totals(at=datetime.now(UTC)), list[Reconciled]()
        async with connect(settings(nats_url=server)) as client:
            if session is not None and not await client.store.version(session):
                await client.missing(session)
            async for one in reconcile(client.adapters, session):
                totals = totals.with_(one)
                print_json(one) if json else shown.append(one)
            if session is None and (why := await not_kept(client.adapters, totals)):
                err.print(f"the sums were not kept for metrics: {why}", markup=False)
        if json:
            print_json({"total": totals})
        else:
            _show(shown, totals)
        return totals

    if run(work, json=json).incomplete:
        raise typer.Exit(MISSING)


async def not_kept(adapters: "Adapters", totals: "Totals") -> str:
    """Keep the sums, and return why they were not kept; what was found is told all the same."""
    from lucid_events.service.reconciling import note

    try:
        if await note(adapters, totals):
            return ""
    except LucidError as exc:
        return exc.message
    return f"no right to {'read capture' if totals.capture_unseen else 'write to the bucket of metadata'}"


def _show(sessions: "list[Reconciled]", totals: "Totals") -> None:
    names = (
        "session",
        "state",
        "captured",
        "sealed",
        "ready",
        "stored",
        "verified",
        "unstored for",
        "missing",
    )
    rows = [
        (
            one.session_id,
            "can't be read" if one.damaged else str(one.state or "not in the log"),
            None if one.captured_bytes is None else size(one.captured_bytes),
            size(one.sealed_bytes),
            size(one.ready_bytes),
            size(one.stored_bytes),
            size(one.verified_bytes),
            f"{one.unstored_s:,.1f} s" if one.unstored_s else "–",
            _missing(one),
        )
        for one in sessions
    ]
    out.print(table("", names, rows))
    for one in sessions:
        for name in one.named:
            out.print(printable(f"  {one.session_id}: {name}"), markup=False)
    out.print(
        f"{counted(totals.sessions, 'session')}, {totals.incomplete} with something missing; "
        f"the oldest byte not stored is {totals.oldest_unstored_s:,.1f} s old"
    )


def _missing(one: "Reconciled") -> str:
    if one.damaged:
        return "not compared"
    told = {
        "events without objects": one.events_without_objects,
        "objects without events": one.objects_without_events,
        "sealed and lost from capture": one.capture_lost,
        "purged and back in capture": one.capture_left,
    }
    missing = ", ".join(f"{count} {what}" for what, count in told.items() if count) or "nothing"
    return f"{missing}; capture not looked at" if one.unseen else missing
