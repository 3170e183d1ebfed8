"""`lucid projections` and `lucid rebuild`: the status views' generations, side by side."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from lucid_events.cli.output import counted, err, out, print_json, table
from lucid_events.cli.running import Json, Server, run, settings

if TYPE_CHECKING:
    from lucid_events.projections.comparison import Difference
    from lucid_events.projections.generations import Live
    from lucid_events.service.adapters import Adapters
    from lucid_events.service.rebuilding import RebuildReport

T = TypeVar("T")

DIFFERS = 7
"""Exit status when views differ, as of an IntegrityError."""

projections_app = typer.Typer(
    help="Generations of the status views: build one beside the live one, switch, go back.",
    no_args_is_help=True,
)

Generation = Annotated[int, typer.Argument(metavar="N", min=1, help="Which generation.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("rebuild")(check)
    app.add_typer(projections_app, name="projections")


def check(server: Server = None, json: Json = False) -> None:
    """Build the status views anew from the first event, compare them with the live ones, drop them again.

    The exit status is 7 when they differ. To keep what is built: lucid projections rebuild.
    """
    from lucid_events.service.rebuilding import rebuild_status

    _tell(_run(rebuild_status, server, json), json)


@projections_app.command("list")
def list_(server: Server = None, json: Json = False) -> None:
    """List the generations, the live one first, and how far each is behind the log.

    A leftover is of a rebuild that runs now, or of one that was killed: drop it then.
    """
    from lucid_events.service.rebuilding import list_generations

    found = _run(list_generations, server, json)
    if json:
        for one in found:
            print_json(one)
        return
    rows = [
        (
            one.generation,
            one.role if one.whole or one.version is None else f"{one.role}, being built",
            one.version,
            one.behind,
            one.bucket,
        )
        for one in found
    ]
    out.print(table("", ("generation", "role", "version", "messages behind", "bucket"), rows))


@projections_app.command()
def rebuild(server: Server = None, json: Json = False) -> None:
    """Build the next generation beside the live one, compare the two, and keep it as a candidate.

    Sessions go on recording and readers go on reading meanwhile. The exit status is 7 when the two
    differ: the candidate stays to be looked at.
    """
    from lucid_events.projections.generations import NAMED
    from lucid_events.service.rebuilding import build

    report = _run(build, server, json)
    if report.generation > NAMED:
        err.print(
            f"the roles of deploy/nats/roles.conf can read generations up to {NAMED}: "
            f"add {report.generation} there before you switch to it"
        )
    if not json:
        err.print(f"then: lucid projections switch {report.generation}")
    _tell(report, json)


@projections_app.command()
def compare(generation: Generation, server: Server = None, json: Json = False) -> None:
    """Compare every view of a generation with the live one, each at the same position.

    The exit status is 7 when they differ.
    """
    from lucid_events.service.rebuilding import compare_with_live

    found = _run(lambda adapters: compare_with_live(adapters, generation), server, json)
    if json:
        print_json(found)
    else:
        out.print(f"{counted(found.sessions, 'session')}: {_differing(found.different)}")
        _name(found.differences)
    if not found.same:
        raise typer.Exit(DIFFERS)


@projections_app.command()
def switch(
    generation: Generation,
    accept_differences: Annotated[
        bool,
        typer.Option("--accept-differences", help="The fold is a new one: its views are meant to differ."),
    ] = False,
    server: Server = None,
    json: Json = False,
) -> None:
    """Let readers read another generation, once it has caught up and equals the live one.

    The one before is kept, and filled, for a way back. The exit status is 7 when the views differ.
    """
    from lucid_events.service.rebuilding import switch as service_switch

    work = lambda adapters: service_switch(adapters, generation, accept_differences=accept_differences)  # noqa: E731
    _tell_live(_run(work, server, json), json)


@projections_app.command()
def rollback(server: Server = None, json: Json = False) -> None:
    """Let readers read the generation that was live before; the two change places."""
    from lucid_events.service.rebuilding import rollback as service_rollback

    _tell_live(_run(service_rollback, server, json), json)


@projections_app.command()
def drop(generation: Generation, server: Server = None, json: Json = False) -> None:
    """Delete a generation that is not live, or a leftover: its bucket and its consumer."""
    from lucid_events.service.rebuilding import drop as service_drop

    _run(lambda adapters: service_drop(adapters, generation), server, json)
    if json:
        print_json({"dropped": generation})
    else:
        out.print(f"dropped generation {generation}")


def _run(work: "Callable[[Adapters], Awaitable[T]]", server: str | None, json: bool) -> T:
    from lucid_events.service.adapters import open_adapters

    async def connected() -> T:
        async with open_adapters(settings(nats_url=server), name="lucid-projections") as adapters:
            return await work(adapters)

    return run(connected, json=json)


def _tell(report: "RebuildReport", json: bool) -> None:
    if json:
        print_json(report)
    else:
        out.print(
            f"{counted(report.events, 'event')}, {counted(report.sessions, 'session')}, "
            f"{report.seconds:.2f} s: {_differing(report.different)}"
        )
        _name(report.differences)
    if report.differences:
        raise typer.Exit(DIFFERS)


def _differing(views: int) -> str:
    return f"{counted(views, 'view')} {'differs' if views == 1 else 'differ'} from the live ones"


def _tell_live(live: "Live", json: bool) -> None:
    if json:
        print_json(live)
        return
    kept = f", generation {live.previous.generation} is kept for a way back" if live.previous else ""
    out.print(f"generation {live.generation} is live{kept}")


def _name(differences: "tuple[Difference, ...]") -> None:
    for one in differences:
        out.print(f"differs: {one.session_id} at {one.at} in {', '.join(one.fields)}", markup=False)
