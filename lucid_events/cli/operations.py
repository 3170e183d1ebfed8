"""`lucid up|worker|deploy|doctor|schemas`: running the pipeline and looking after it."""

import asyncio
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec.structs import replace

from lucid_events.cli.collecting import collect_rarely
from lucid_events.cli.output import counted, err, out, print_json, table
from lucid_events.cli.running import Json, Server, run, settings
from lucid_events.config import Service, Settings, masked
from lucid_events.errors import ConfigError, StoreUnavailable

schemas_app = typer.Typer(help="The wire contracts: JSON Schemas, samples, AsyncAPI.", no_args_is_help=True)

EMBEDDED_PORT = 4222
"""Where clients look when they are told of no server."""

Only = Annotated[str, typer.Option("--only", help="Comma-separated parts; all when empty.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(up)
    app.command()(worker)
    app.command()(deploy)
    app.command()(doctor)
    app.add_typer(schemas_app, name="schemas")


def up(
    data: Annotated[
        Path | None, typer.Option("--data", help="Directory of the embedded server's store.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535, help="Of the embedded server: 4222; 0 takes a free one."),
    ] = None,
    http: Annotated[bool, typer.Option("--http", help="Also serve both REST services.")] = False,
    analytics: Annotated[bool, typer.Option("--analytics", help="Also keep stream analytics.")] = False,
    server: Server = None,
    json: Json = False,
) -> None:
    """Run everything in one process: an embedded server (or yours), handlers, projections, REST if asked."""
    from lucid_events.service import up as service_up
    from lucid_events.service.embedded import until

    async def work() -> None:
        services: tuple[Service, ...] = ("pipeline", "recorder") if http else ()
        made = settings(service=True, http=services, nats_url=server, data=str(data) if data else None)
        _refuse_both(made, {"--data": data, "--port": port})
        stop = stop_event()
        async with AsyncExitStack() as stack:
            try:
                own_port = EMBEDDED_PORT if port is None else port
                service = await stack.enter_async_context(service_up(made, port=own_port))
            except StoreUnavailable as exc:
                if not made.nats_url:
                    raise
                hint = "Without NATS_URL (or --server, or nats_url in a file), up starts a server of its own."
                raise type(exc)(f"{exc.message} {hint}", **exc.fields) from exc
            told: dict[str, object] = {}
            if analytics:
                from lucid_events.service.analytics import analysing

                await stack.enter_async_context(analysing(replace(made, nats_url=service.url), service.ended))
                told["analytics"] = True
            if services:
                from lucid_events.cli.serving import gateway

                there = replace(made, nats_url=service.url)
                gateways = await stack.enter_async_context(
                    gateway().serving(there, services, workers=service.workers, embedded=service.embedded)
                )
                told["http"] = gateways.urls
                for name, url in gateways.urls.items() if not json else ():
                    err.print(f"[green]serving[/] {name}: [bold]{url}[/]")
            elif made.http.metrics_port is not None:
                from lucid_events.cli.serving import gateway

                shown = gateway().exporting(made, service.workers, embedded=service.embedded)
                told["metrics"] = await stack.enter_async_context(shown)
            collect_rarely()
            if json:
                parts = service.workers.parts
                print_json({"url": service.url, "prefix": made.prefix, "parts": parts, **told})
            else:
                err.print(f"[green]up[/]: connect to [bold]{service.url}[/] (Ctrl-C stops in order)")
                err.print(f"    export NATS_URL={service.url}", markup=False)
            await until(service, stop)
            if not json:
                err.print("stopping: finishing what is in hand …")

    run(work, json=json)


def _refuse_both(made: Settings, asked: dict[str, object]) -> None:
    """Refuse what is for a server of our own when another one is named: it would be dropped in silence."""
    given = [flag for flag, value in asked.items() if value is not None]
    where = f"the server {masked(made)['nats_url']}" if made.nats_url else f"the context {made.nats_context}"
    if given and (made.nats_url or made.nats_context):
        raise ConfigError(
            f"{' and '.join(given)} is for a server of our own, and {where} is to be used: drop it, or unset "
            "NATS_URL and NATS_CONTEXT and leave --server out to start an embedded server"
        )


def worker(
    only: Only = "",
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-port", min=0, max=65535, help="Show /metrics and /health; 0: a free port."),
    ] = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Run more handlers beside a pipeline that is up, on the same server."""
    from lucid_events.service import work as service_work

    async def work() -> None:
        made = settings(service=True, nats_url=server)
        parts = [part.strip() for part in only.split(",") if part.strip()]
        stop = stop_event()
        async with AsyncExitStack() as stack:
            workers = await stack.enter_async_context(service_work(made, only=parts))
            told: dict[str, object] = {"parts": workers.parts}
            if metrics_port is not None or made.http.metrics_port is not None:
                from lucid_events.cli.serving import gateway

                shown = gateway().exporting(made, workers, port=metrics_port)
                told["metrics"] = await stack.enter_async_context(shown)
            collect_rarely()
            if json:
                print_json(told)
            else:
                err.print(f"[green]working[/]: {', '.join(workers.parts)} (Ctrl-C stops in order)")
            await stop.wait()

    run(work, json=json)


def deploy(
    update: Annotated[bool, typer.Option("--update", help="Also change what differs.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Change nothing, only compare.")] = False,
    server: Server = None,
    json: Json = False,
) -> None:
    """Create the streams, buckets and consumers of deploy/nats, and name what differs.

    The exit status is 2 while anything differs.
    """
    from lucid_events.service import deploying

    made = settings(nats_url=server)
    done = run(lambda: deploying.deploy(made, check=check, update=update), json=json)
    if json:
        print_json(done)
    else:
        for verb, names in (("created", done.created), ("updated", done.updated)):
            for name in names:
                out.print(f"{verb} {name}")
        for difference in done.differences:
            out.print(f"differs: {difference}", markup=False)
        if not (done.created or done.updated or done.differences):
            out.print("everything is as defined")
    if done.differences:
        raise typer.Exit(2)


def doctor(server: Server = None, json: Json = False) -> None:
    """Check the server and the streams, and say what to change. The exit status is 2 if anything must."""
    from lucid_events.service.adapters import open_adapters
    from lucid_events.service.preflight import examine

    async def work() -> Any:
        async with open_adapters(settings(nats_url=server), name="lucid-doctor") as adapters:
            return await examine(adapters)

    findings = run(work, json=json)
    if json:
        for finding in findings:
            print_json(finding)
    else:
        out.print(table("", ("", "what", "change"), [(f.level, f.what, f.change) for f in findings]))
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(2)


@schemas_app.command("export")
def schemas_export(
    folder: Annotated[Path, typer.Argument(help="Directory to write to.")] = Path("schemas"),
) -> None:
    """Write the JSON Schemas, golden samples and the AsyncAPI document."""
    from lucid_events.contracts.landing import land

    try:
        written = land(folder)
    except OSError as exc:
        raise ConfigError(f"can't write to {folder}: {exc.strerror}") from exc
    out.print(f"{counted(len(written), 'file')} in {folder}")


def stop_event() -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set; a second signal is left to Python."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked(number: int) -> None:
        stop.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, asked, number)
    return stop
