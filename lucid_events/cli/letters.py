"""`lucid dlq list|show|redrive|drop`: messages that were set aside, and what to do with them."""

from typing import Annotated, Any

import typer

from lucid_events.cli.output import moment, out, print_json, table
from lucid_events.cli.running import Json, Server, run, settings

dlq_app = typer.Typer(help="Messages set aside by a reaction.", no_args_is_help=True)

Sequence = Annotated[int, typer.Argument(min=1, help="The letter's number, as `lucid dlq list` shows it.")]


@dlq_app.command("list")
def dlq_list(
    consumer: Annotated[str | None, typer.Option(help="Only letters of this consumer.")] = None,
    after: Annotated[int, typer.Option(help="Begin behind this number.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    server: Server = None,
    json: Json = False,
) -> None:
    """List letters, oldest first."""
    from lucid_events.service.letters import open_letters

    async def work() -> list[Any]:
        async with open_letters(settings(nats_url=server)) as letters:
            return [letter async for letter in letters.list(consumer, after=after, limit=limit)]

    found = run(work, json=json)
    if json:
        for letter in found:
            print_json(letter)
        return
    rows = [
        (
            x.sequence,
            x.pointer.consumer,
            x.pointer.subject,
            x.pointer.code,
            x.pointer.reason,
            moment(x.pointer.time),
        )
        for x in found
    ]
    out.print(table("", ("number", "consumer", "subject", "code", "reason", "when"), rows))


@dlq_app.command("show")
def dlq_show(number: Sequence, server: Server = None, json: Json = False) -> None:
    """Show a letter with the message it points to."""
    from lucid_events.service.letters import open_letters

    async def work() -> Any:
        async with open_letters(settings(nats_url=server)) as letters:
            return await letters.show(number)

    found = run(work, json=json)
    if json:
        print_json(found)
    else:
        out.print(found, markup=False)


@dlq_app.command("redrive")
def dlq_redrive(
    numbers: Annotated[list[int], typer.Argument(min=1, help="Letters to handle again.")],
    server: Server = None,
    json: Json = False,
) -> None:
    """Handle messages again, as if they had just been delivered; handled letters disappear."""
    from lucid_events.service.letters import open_letters

    async def work() -> list[tuple[int, Any]]:
        async with open_letters(settings(nats_url=server)) as letters:
            return [(number, await letters.redrive(number)) for number in numbers]

    done = run(work, json=json)
    stayed = 0
    for number, outcome in done:
        kind = type(outcome).__name__.lower()
        stayed += kind in ("retry", "park")
        if json:
            print_json({"number": number, "outcome": kind, "reason": getattr(outcome, "reason", "")})
        else:
            out.print(f"{number}: {kind} {getattr(outcome, 'reason', '')}", markup=False)
    if stayed:
        raise typer.Exit(6)


@dlq_app.command("drop")
def dlq_drop(number: Sequence, server: Server = None, json: Json = False) -> None:
    """Forget a letter for good; the message it points to stays where it is."""
    from lucid_events.service.letters import open_letters

    async def work() -> Any:
        async with open_letters(settings(nats_url=server)) as letters:
            return await letters.drop(number)

    dropped = run(work, json=json)
    if json:
        print_json(dropped)
    else:
        out.print(f"dropped {number}: {dropped.pointer.subject} ({dropped.pointer.code})", markup=False)
