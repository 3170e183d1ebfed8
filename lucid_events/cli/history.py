"""`lucid events`: the log itself, one line per event, for following; and how an event is shown."""

from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer

from lucid_events.cli.output import err, moment, out, print_json, printable
from lucid_events.cli.running import Json, Server, run, settings
from lucid_events.domain.envelope import Recorded, Stray
from lucid_events.domain.events import EVENT_TYPES
from lucid_events.domain.ids import session_id
from lucid_events.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(events)


def events(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new events as they are stored.")
    ] = False,
    type: Annotated[
        list[str] | None,
        typer.Option("--type", "-t", help="Only this kind, such as chunk.ready; repeatable."),
    ] = None,
    session: Annotated[str | None, typer.Option("--session", help="Only this session.")] = None,
    after: Annotated[
        int | None, typer.Option("--after", help="Begin behind this sequence of the log.")
    ] = None,
    since: Annotated[str | None, typer.Option("--since", help="Begin at this UTC time.")] = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Print events of all sessions; with --follow, as they happen and without missing one."""
    from lucid_events.service import connect

    async def work() -> None:
        kinds = [known_kind(kind) for kind in type or ()]
        one = session_id(session) if session is not None else None
        bound = parse_bound(since, "--since")
        if isinstance(bound, int):
            raise ConfigError("--since takes a UTC time; use --after for a sequence")
        async with connect(settings(nats_url=server)) as client:
            if follow and one is not None and not await client.store.version(one):
                err.print(f"there is no session {one} yet: waiting for it")
            found = client.events(kinds=kinds, session=one, after=after, since=bound, follow=follow)
            any_event = False
            async with aclosing(found) as feed:
                async for recorded in feed:
                    any_event = True
                    show_event(recorded, json)
            if one is not None and not any_event and not await client.store.version(one):
                await client.missing(one)

    run(work, json=json)


def known_kind(text: str) -> str:
    """Return `noun.fact` of an event type, with or without its version.

    Raises:
        ConfigError: there is no such event.
    """
    kinds = sorted({name.rsplit(".", 1)[0] for name in EVENT_TYPES})
    kind = text.rsplit(".", 1)[0] if text in EVENT_TYPES else text
    if kind not in kinds:
        raise ConfigError(f"--type {text!r} is no event: use one of {', '.join(kinds)}")
    return kind


def parse_bound(text: str | None, flag: str) -> int | datetime | None:
    """Return a sequence or an instant."""
    if text is None:
        return None
    if text.isdigit():
        return int(text)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"{flag} {text!r}: use a sequence (1234) or a UTC time (2026-01-31T12:00:00)"
        ) from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def show_event(recorded: Recorded | Stray, json: bool) -> None:
    """Print one message of the log, as a line or as a JSON object."""
    place = f"{recorded.sequence:>8}  {moment(recorded.stored_at)}  {recorded.session}"
    if isinstance(recorded, Stray):
        if json:
            print_json({"sequence": recorded.sequence, "session": recorded.session, "stray": recorded.reason})
        else:
            err.print(f"{place}  not an event: {recorded.reason}", markup=False)
        return
    body: dict[str, Any] = msgspec.to_builtins(recorded.event)
    if json:
        print_json(
            {
                "sequence": recorded.sequence,
                "session": recorded.session,
                "type": recorded.type,
                "id": recorded.id,
                "time": recorded.time,
                "stored_at": recorded.stored_at,
                "actor": recorded.actor,
                "cause": recorded.cause,
                "correlation": recorded.correlation,
                "prev": recorded.prev,
                "digest": recorded.digest,
                "data": body,
            }
        )
        return
    details = " ".join(
        f"{name}={_short(value)}" for name, value in body.items() if value not in ("", None, {}, [])
    )
    out.print(f"{place}  {recorded.type}  {printable(recorded.actor)}  {details}", markup=False)


def _short(value: object) -> str:
    text = printable(msgspec.json.encode(value).decode() if isinstance(value, dict | list) else str(value))
    return text if len(text) <= 80 else f"{text[:77]}..."
