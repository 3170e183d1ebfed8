"""`lucid retention`: how long a session is kept and why, and which ones are past their time."""

from typing import Annotated

import typer

from lucid_events.cli.output import counted, err, moment, out, print_json, printable, size, table
from lucid_events.cli.running import Json, Server, SessionArgument, run, settings
from lucid_events.domain.ids import session_id
from lucid_events.domain.retention import Outlook, Step, in_words
from lucid_events.domain.state import Erasure

retention_app = typer.Typer(
    help="How long recordings are kept: explain one, list those past their time.", no_args_is_help=True
)

_STEPS = {"propose": "a cleanup is proposed", "erase": "its bytes are erased"}


@retention_app.command()
def explain(sid: SessionArgument, server: Server = None, json: Json = False) -> None:
    """Say which policy a session is kept by, what is kept till when, and what happens next."""
    from lucid_events.service import connect
    from lucid_events.service.retention import Outlooks

    async def work() -> Outlook:
        session = session_id(sid)
        async with connect(settings(nats_url=server)) as client:
            return await Outlooks(client).explain(session)

    outlook = run(work, json=json)
    if json:
        print_json(outlook)
        return
    made = table("", ("", ""), ())
    made.show_header = False
    for name, value in _rows(outlook).items():
        made.add_row(name, printable(value))
    out.print(made)


@retention_app.command()
def due(
    within: Annotated[
        float, typer.Option("--within", min=0, help="Also those past their time in so many days.")
    ] = 0,
    metadata: Annotated[
        bool, typer.Option("--metadata", help="Those whose metadata is past its time, erased ones included.")
    ] = False,
    server: Server = None,
    json: Json = False,
) -> None:
    """List ended sessions that are past their time; changes nothing, the workers do what is due."""
    from lucid_events.service import connect
    from lucid_events.service.retention import Outlooks

    async def work() -> list[Outlook]:
        async with connect(settings(nats_url=server)) as client:
            found = []
            async for outlook in Outlooks(client).due(within_days=within, metadata=metadata):
                if json:
                    print_json(outlook)
                else:
                    found.append(outlook)
            return found

    found = run(work, json=json)
    if json:
        return
    rows = [
        (
            one.session_id,
            str(one.state),
            one.ended_at,
            one.metadata_until if metadata else one.payload_until,
            size(one.stored_bytes),
            _next(one.next) if one.next else one.because,
        )
        for one in found
    ]
    kept = "metadata kept till" if metadata else "bytes kept till"
    out.print(table("", ("session", "state", "ended", kept, "stored", "next"), rows))
    err.print(counted(len(found), "session"))


def erased_in_words(erasure: Erasure) -> str:
    """Return who erased a session's bytes, by which policy, and when."""
    proposal = erasure.proposal
    if proposal is not None:
        by = f"by policy: {in_words(proposal.retention, proposal.source)}"
        by += f", proposed at {moment(proposal.at)} (event {proposal.version})"
    else:
        by = f"asked for by {erasure.actor}" + (f": {erasure.reason}" if erasure.reason else "")
    by = printable(by)
    if erasure.completed_at is None:
        return f"erasing begun at {moment(erasure.started_at)} {by}; not completed"
    gone = f"{counted(erasure.objects, 'object')}, {size(erasure.stored_bytes)}"
    return f"erased at {moment(erasure.completed_at)} {by}; {gone}"


def _rows(outlook: Outlook) -> dict[str, str]:
    until, proposal = outlook.metadata_until, outlook.proposal
    metadata = f"till {moment(until)}" if until else f"{outlook.retention.metadata_days:g} days from its end"
    if outlook.metadata_due:
        metadata += ": over, and the log keeps it; see docs/retention.md"
    payload = (
        f"till {moment(outlook.payload_until)}"
        if outlook.payload_until
        else f"{outlook.retention.payload_days:g} days from its end"
    )
    holds = "; ".join(f"{name} ({why})" if why else name for name, why in outlook.holds.items())
    return {
        "session": f"{outlook.session_id}, {outlook.state}",
        "policy": in_words(outlook.retention, outlook.source),
        "ended": moment(outlook.ended_at),
        "bytes": f"{payload}: {counted(outlook.chunks, 'chunk')}, {size(outlook.stored_bytes)} stored",
        "metadata": metadata,
        "hashes and events": "for good",
        "holds": holds or "none",
        "proposal": f"at {moment(proposal.at)} for {moment(proposal.due)}" if proposal else "none",
        "erased": erased_in_words(outlook.erasure) if outlook.erasure else "no",
        "next": f"{_next(outlook.next)}: {outlook.because}" if outlook.next else "nothing",
        **({} if outlook.next else {"because": outlook.because}),
    }


def _next(step: Step) -> str:
    return f"{_STEPS[step.what]} at {moment(step.at)}"
