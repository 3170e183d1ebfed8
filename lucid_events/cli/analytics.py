"""`lucid analytics`: what goes on in the pipeline, by windows of time."""

import asyncio
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from lucid_events.cli.output import out, print_json, printable, size, table
from lucid_events.cli.running import Json, Server, run, settings
from lucid_events.errors import ConfigError
from lucid_events.projections.analytics.layout import LENGTHS, MAX_LAST

if TYPE_CHECKING:
    from lucid_events.projections.analytics.reports import Report, Row

LOOK_S: Final = 1.0
BARS: Final = "▁▂▃▄▅▆▇█"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(analytics)


def analytics(
    window: Annotated[str, typer.Option("--window", "-w", help="Length of a window: 10s, 1m or 1h.")] = "1m",
    last: Annotated[int, typer.Option("--last", "-n", min=1, max=MAX_LAST, help="How many windows.")] = 20,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every second, until Ctrl-C.")] = False,
    server: Server = None,
    json: Json = False,
) -> None:
    """Show sessions by state, bytes, throughput, ratios, delays, failures and the busiest owners.

    They are kept by `lucid up --analytics`, or by
    `faust -A lucid_events.projections.analytics worker --without-web`.
    """
    from lucid_events.service import connect
    from lucid_events.service.analytics import read

    if window not in LENGTHS:
        raise ConfigError(f"--window {window!r}: use one of {', '.join(LENGTHS)}")
    size_s = LENGTHS[window]

    async def work() -> Any:
        async with connect(settings(nats_url=server)) as client:
            if not watch:
                return await read(client.adapters, size_s=size_s, last=last)
            _end_on_sigterm()
            with Live(console=out, auto_refresh=False, screen=out.is_terminal and not json) as live:
                while True:
                    found = await read(client.adapters, size_s=size_s, last=last)
                    if json:
                        print_json(found)
                    else:
                        live.update(shown(found), refresh=True)
                    await asyncio.sleep(LOOK_S)

    found = run(work, json=json)
    if json:
        print_json(found)
    else:
        out.print(shown(found))


def _end_on_sigterm() -> None:
    """Let SIGTERM end the command as Ctrl-C does: at once, it would leave the screen and the cursor taken."""
    task = asyncio.current_task()
    if task is not None:
        with suppress(NotImplementedError):  # Windows, which does not send it either
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def shown(report: "Report") -> Group:
    """Return the report as people read it."""
    states = "  ".join(f"{state} {count}" for state, count in report.sessions.items()) or "none yet"
    head = Text(f"sessions: {states}\nevents: {report.events:,} up to sequence {report.sequence}")
    if report.late or report.strays or report.undecodable:
        head.append(
            f"\nleft out: {report.undecodable} undecodable (see `lucid dlq list`), "
            f"{report.strays} strays, {report.late} too late",
            style="yellow",
        )
    if report.ahead:
        head.append(f"\ncounted when they were stored: {report.ahead} of a wrong clock", style="yellow")
    columns = (
        "start",
        "events",
        "captured",
        "sealed",
        "ready",
        "per second",
        "ratio",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "failed",
        "gaps",
        "recovered",
    )
    rows = [_cells(row) for row in report.windows]
    rates = sparkline([row.ready_bytes_per_second for row in report.windows])
    codecs: dict[str, float] = {}
    for row in report.windows:
        codecs |= row.codecs
    busiest = report.owners.items()
    owners = "  ".join(f"{printable(owner) or '(none)'} {size(count)}" for owner, count in busiest)
    ratios = "  ".join(f"{name} {ratio:.2f}" for name, ratio in sorted(codecs.items()))
    tail = Text(
        f"throughput {rates}\nratio by codec, latest: {ratios or '–'}\nbusiest owners: {owners or '–'}"
    )
    return Group(head, table("", columns, rows), tail)


def _cells(row: "Row") -> tuple[object, ...]:
    return (
        row.start.strftime("%m-%d %H:%M:%S"),
        row.events,
        size(row.captured_bytes),
        size(row.sealed_bytes),
        size(row.ready_bytes),
        size(row.ready_bytes_per_second),
        row.ratio,
        *row.delay_ms.values(),
        row.failures,
        row.gaps,
        row.recoveries,
    )


def sparkline(values: list[float]) -> str:
    """Return the values as a row of bars, the highest as the full one."""
    most = max(values, default=0.0)
    if not most:
        return BARS[0] * len(values)
    return "".join(BARS[min(len(BARS) - 1, int(value / most * (len(BARS) - 1) + 0.5))] for value in values)
