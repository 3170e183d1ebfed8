"""`lucid dlq list|show|redrive|drop`: messages that were set aside, and what to do with them."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lucid_events.cli.exits import exit_code
from lucid_events.cli.output import err, moment, out, print_json, size, table
from lucid_events.cli.running import Json, Server, run, settings
from lucid_events.errors import LucidError, NotFound

if TYPE_CHECKING:
    from lucid_events.handlers.dead_letters import DeadLetters, Shown

STAYED = 6
"""Exit status when a letter stays where it is: try again later."""

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
def dlq_show(
    number: Sequence,
    body: Annotated[bool, typer.Option("--body", help="Write the message's body alone, as it is.")] = False,
    server: Server = None,
    json: Json = False,
) -> None:
    """Show a letter with the message it points to."""
    from lucid_events.service.letters import open_letters

    async def work() -> Any:
        async with open_letters(settings(nats_url=server)) as letters:
            found = await letters.show(number)
            if body and found.original is None:
                raise NotFound(f"the message of letter {number} is gone: drop the letter", sequence=number)
            return found

    found = run(work, json=json)
    if body:
        sys.stdout.buffer.write(found.original.data)
        sys.stdout.buffer.flush()
    elif json:
        print_json(found)
    else:
        out.print(table("", ("field", "value"), _about(found)))


def _about(found: "Shown") -> Iterator[tuple[str, object]]:
    pointer, original = found.letter.pointer, found.original
    yield "number", str(found.letter.sequence)
    yield "consumer", pointer.consumer
    yield "code", pointer.code
    yield "reason", pointer.reason
    yield "attempts", str(pointer.attempts)
    yield "set aside", pointer.time
    yield "message", f"{pointer.stream} {pointer.sequence}"
    yield "subject", pointer.subject
    if original is None:
        yield "body", "the message is gone: drop the letter"
        return
    yield "stored", original.stored_at
    yield from original.headers.items()
    yield "body", size(len(original.data))


@dlq_app.command("redrive")
def dlq_redrive(
    numbers: Annotated[list[int], typer.Argument(min=1, help="Letters to handle again.")],
    server: Server = None,
    json: Json = False,
) -> None:
    """Handle messages again, as if they had just been delivered; handled letters disappear.

    A letter that can't be redriven is told, and the others are; the exit status is the worst of them.
    """
    from lucid_events.service.letters import open_letters

    async def work() -> int:
        async with open_letters(settings(nats_url=server)) as letters:
            return max([await _redriven(letters, number, json=json) for number in numbers])

    if status := run(work, json=json):
        raise typer.Exit(status)


async def _redriven(letters: "DeadLetters", number: int, *, json: bool) -> int:
    """Redrive one letter and say at once what became of it; returns the exit status."""
    status = 0
    try:
        outcome = await letters.redrive(number)
        kind, reason = type(outcome).__name__.lower(), getattr(outcome, "reason", "")
        status = STAYED if kind in ("retry", "park") else 0
    except LucidError as exc:
        if exc.retry:
            raise  # the server is away: the next letter would fare no better
        kind, reason, status = "refused", exc.message, exit_code(exc)
    if json:
        print_json({"number": number, "outcome": kind, "reason": reason})
    else:
        (err if kind == "refused" else out).print(f"{number}: {kind} {reason}", markup=False)
    return status


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
