"""`lucid replay`: histories once more, as they were stored, as a view stood, or under the rules of today."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from lucid_events.cli.history import known_kind, parse_bound, show_event
from lucid_events.cli.keypress import QUIT, Keys, keyboard
from lucid_events.cli.output import counted, err, out, print_json, printable
from lucid_events.cli.running import Json, Server, run, settings
from lucid_events.domain.envelope import Recorded, Stray
from lucid_events.domain.ids import SessionId, session_id
from lucid_events.errors import ConfigError

if TYPE_CHECKING:
    from lucid_events.service.client import Client
    from lucid_events.service.replaying import Agreement

DISAGREES = 7
"""Exit status when a history does not agree with what it was held against, as of an IntegrityError."""

STEP = "step"
SILENCE_S = 5.0
"""Longest pause of a replay that is not explained. Half speaks between ordinary events, twice looks hung."""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(replay)


def replay(
    sid: Annotated[
        str | None,
        typer.Argument(metavar="[SID]", help="Session id; every session when left out.", show_default=False),
    ] = None,
    type: Annotated[
        list[str] | None,
        typer.Option("--type", "-t", help="Only this kind, such as chunk.ready; repeatable."),
    ] = None,
    start: Annotated[str | None, typer.Option("--from", help="A sequence, or a UTC time.")] = None,
    end: Annotated[
        str | None, typer.Option("--to", help="A sequence, or a UTC time, itself included.")
    ] = None,
    speed: Annotated[
        str, typer.Option(help="max, how many times faster than it happened (10x), or step: a key an event.")
    ] = "max",
    breaks: Annotated[
        list[str] | None,
        typer.Option("--break", help="Wait for a key before each event of this kind; repeatable."),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", help="Show the session's status as it stood at a UTC time or sequence."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="present|N",
            help="Hold histories against the rules of this release, or against the views of generation N.",
        ),
    ] = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Print histories in order, as they are stored; or what they amount to.

    With --as-of: what the status view said then, not what is known now. With --against present:
    whether every recorded event is legal by the rules of this release, and what they would have decided
    is what was recorded; the exit status is 7 when not. Nothing is written, nothing is set off.
    """
    from lucid_events.service import connect

    async def work() -> bool:
        session = session_id(sid) if sid is not None else None
        made = settings(nats_url=server)
        _at_most_one(as_of, against, printing=(type, start, end, breaks, speed != "max"))
        if as_of is not None:
            if session is None:
                raise ConfigError("--as-of shows one session: name it (lucid replay SID --as-of …)")
            at = parse_bound(as_of, "--as-of")
            async with connect(made) as client:
                await _show_as_of(client, session, at if at is not None else 0, json)
            return True
        if against is not None:
            generation = parse_against(against)
            async with connect(made) as client:
                return await _agree(client, session, generation, json)
        kinds = [known_kind(kind) for kind in type or ()]
        stops = frozenset(known_kind(kind) for kind in breaks or ())
        pace = parse_speed(speed)
        first, last = parse_bound(start, "--from"), parse_bound(end, "--to")
        async with AsyncExitStack() as stack:
            keys: Keys | None = None
            if pace is None or stops:
                what = "--speed step" if pace is None else "--break"
                instead = "run it in a terminal, or use --speed and --from/--to"
                keys = stack.enter_context(keyboard(what=what, instead=instead))
            client = await stack.enter_async_context(connect(made))
            if session is not None and not await client.store.version(session):
                await client.missing(session)
            feed = await stack.enter_async_context(aclosing(selected(client, session, kinds, first, last)))
            await _print(feed, pace, stops, keys, json)
        return True

    if not run(work, json=json):
        raise typer.Exit(DISAGREES)


def parse_speed(text: str) -> float | None:
    """Return how many times faster than real to go; 0 is as fast as possible, None a key an event.

    Raises:
        ConfigError: none of these.
    """
    if text in ("max", STEP):
        return 0.0 if text == "max" else None
    try:
        factor = float(text.removesuffix("x"))
    except ValueError:
        factor = 0.0
    if not 0 < factor < float("inf"):
        raise ConfigError(f"--speed {text!r}: use max, step, or a factor above 0 such as 1x or 10x")
    return factor


def parse_against(text: str) -> int | None:
    """Return the generation to hold histories against, None for the rules of this release.

    Raises:
        ConfigError: neither.
    """
    if text == "present":
        return None
    if not text.isdigit() or not int(text):
        raise ConfigError(
            f"--against {text!r}: use present, or a generation of the status views such as 1 "
            "(lucid projections list)"
        )
    return int(text)


async def selected(
    client: "Client",
    session: SessionId | None,
    kinds: Sequence[str],
    first: int | datetime | None,
    last: int | datetime | None,
) -> AsyncGenerator[Recorded | Stray, None]:
    """Yield the log's messages from `first` to `last`, both included, of one session and some kinds."""
    filters = [client.subjects.events_of_type(kind, session or "*") for kind in kinds]
    if not filters and session is not None:
        filters = [client.subjects.history(session)]
    after = max(0, first - 1) if isinstance(first, int) else 0
    since = first if isinstance(first, datetime) else None
    upto = last if isinstance(last, int) else None
    async with aclosing(client.store.replay(filters, after=after, upto=upto, since=since)) as feed:
        async for message in feed:
            if isinstance(last, datetime) and message.stored_at > last:
                break
            yield message


def _at_most_one(as_of: str | None, against: str | None, *, printing: Sequence[object]) -> None:
    if (as_of is not None) + (against is not None) + any(printing) > 1:
        raise ConfigError(
            "--as-of, --against and the options that choose and pace events "
            "(--type, --from, --to, --speed, --break) are three different questions: ask one"
        )


async def _print(
    feed: AsyncIterator[Recorded | Stray],
    pace: float | None,
    stops: frozenset[str],
    keys: Keys | None,
    json: bool,
) -> None:
    before: datetime | None = None
    async for message in feed:
        kind = message.type.rpartition(".")[0] if isinstance(message, Recorded) else ""
        if keys is not None and (pace is None or kind in stops):
            err.print(f"before {message.sequence} {kind or 'a stray message'}: any key goes on, q ends")
            if await keys.press() in QUIT:
                return
        elif pace and before is not None:
            wait_s = max(0.0, (message.stored_at - before).total_seconds() / pace)
            if wait_s > SILENCE_S:
                err.print(f"the next event comes in {wait_s:,.0f} s; --to ends before it")
            await asyncio.sleep(wait_s)
        before = message.stored_at
        show_event(message, json)


async def _show_as_of(client: "Client", session: SessionId, at: int | datetime, json: bool) -> None:
    from lucid_events.cli.sessions import status_table
    from lucid_events.projections.live_status import without_gauge
    from lucid_events.service.replaying import as_of

    view = await as_of(client.adapters, session, at)
    if json:
        print_json(view)
    else:
        out.print(status_table(without_gauge(view), as_of=True))


async def _agree(client: "Client", session: SessionId | None, generation: int | None, json: bool) -> bool:
    from lucid_events.service.replaying import against_generation, against_present, sessions_of

    agrees, count, events, decided, untold = True, 0, 0, 0, 0
    if session is not None and not await client.store.version(session):
        await client.missing(session)
    async for one in _only(session) if session is not None else sessions_of(client.adapters):
        if generation is None:
            found = await against_present(client.adapters, one)
        else:
            found = await against_generation(client.adapters, one, generation)
        agrees = agrees and not found.differ
        count, events = count + 1, events + found.events
        decided, untold = decided + found.decided, untold + found.untold
        _tell(found, json)
    if not json:
        what = "the rules of this release" if generation is None else f"generation {generation}"
        again = f", {decided} appends decided again, {untold} only held to legality" if not generation else ""
        held = f"agree with {what}" if agrees else f"DIFFER from {what}"
        out.print(f"{counted(count, 'session')}, {counted(events, 'event')}{again}: they {held}")
    return agrees


async def _only(session: SessionId) -> AsyncIterator[SessionId]:
    yield session


def _tell(found: "Agreement", json: bool) -> None:
    if json:
        print_json(found)
        return
    for one in found.disagreements:
        what = f"{one.sequence} {one.type}".strip()
        out.print(printable(f"{one.session_id}  {what}  {one.kind}: {one.reason}"), markup=False)
    if found.differ > len(found.disagreements):
        out.print(f"{found.session_id}: {found.differ - len(found.disagreements)} more", markup=False)
