"""`lucid audit checkpoint|checkpoints`: witness the log now, and check everything that was witnessed."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from lucid_events.cli.output import counted, err, moment, out, print_json
from lucid_events.cli.running import Json, Server, run, settings
from lucid_events.errors import ConfigError

if TYPE_CHECKING:
    from lucid_events.service.checkpoints import CheckpointsReport, Listed

PLACE: Final = re.compile(r"([0-9]{1,15}):([0-9]{1,15})", re.ASCII)
DOES_NOT_HOLD = 7
"""Exit status of evidence that does not hold, as of an IntegrityError."""


def register(audit: typer.Typer) -> None:
    """Add the commands to `audit`."""
    audit.command()(checkpoint)
    audit.command()(checkpoints)


def checkpoint(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Keep it in a file, for --since-checkpoint.")
    ] = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Make a checkpoint of the whole log now: one signed root over every message in it.

    Keep it where nobody who runs this pipeline can write. Without anything new, it is the last one.
    """
    from lucid_events.service.adapters import open_adapters
    from lucid_events.service.checkpoints import keep_checkpoint
    from lucid_events.service.witnessing import Made, witness

    configured = settings(nats_url=server)

    async def work() -> Made:
        async with open_adapters(configured, name="lucid-witness") as adapters:
            made = await witness(adapters).checkpoint()
            if output is not None:
                await keep_checkpoint(adapters, made.place, output)
            return made

    made = run(work, json=json)
    found = made.checkpoint
    if json:
        shown: dict[str, Any] = {
            "number": found.number,
            "place": made.place,
            "made": made.made,
            "time": found.time,
            "log": found.log,
            "sequence": found.sequence,
            "size": found.size,
            "root": found.root,
            "digest": found.digest,
            "missing": found.missing,
        }
        print_json(shown)
        return
    new = "" if made.made else " (nothing was appended since it was made)"
    out.print(
        f"checkpoint {found.number}: {found.size} messages up to {found.sequence}, root {found.root}{new}",
        markup=False,
    )
    if not made.made and configured.evidence.signing_seed:
        err.print("signed is what is made from now on: the last one stays as it was made")
    for hole in found.missing:
        err.print(f"the log lacks messages {hole.first} to {hole.last}: verify it", markup=False)


def checkpoints(
    kept: Annotated[
        Path | None,
        typer.Option("--since-checkpoint", help="A checkpoint kept elsewhere: it has to be among them."),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", help="Public keys that are believed, instead of LUCID_SIGNING_KEYS."),
    ] = None,
    require_signature: Annotated[
        bool, typer.Option("--require-signature", help="A checkpoint that is not signed does not hold.")
    ] = False,
    cut_back: Annotated[
        list[str] | None,
        typer.Option(
            "--cut-back",
            metavar="INCARNATION:SEQUENCE",
            help="That incarnation began with the log cut back to there, as by a restore; more than once.",
        ),
    ] = None,
    stream: Annotated[
        str, typer.Option("--stream", help="Read checkpoints from this stream: the name of a mirror.")
    ] = "",
    server: Server = None,
    json: Json = False,
) -> None:
    """List the checkpoints, and check each against the one before it and against the log as it is now.

    Checkpoints of earlier incarnations are compared with it as well. The exit status is 7 when something
    differs: a session removed, messages changed, lost or moved, a checkpoint forged or taken back.
    """
    from lucid_events.service.adapters import open_adapters
    from lucid_events.service.checkpoints import load_checkpoint, verify_checkpoints
    from lucid_events.service.keys import load_keys

    async def work() -> "CheckpointsReport":
        made = settings(nats_url=server)
        named = keys or (Path(made.evidence.signing_keys) if made.evidence.signing_keys else None)
        remembered = load_checkpoint(kept) if kept is not None else None
        places = cut_back_places(cut_back or [])
        async with open_adapters(made, name="lucid-audit") as adapters:
            return await verify_checkpoints(
                adapters,
                keys=load_keys(named) if named else None,
                require_signature=require_signature,
                remembered=remembered,
                cut_back=places,
                stream=stream,
                told=print_json if json else _show,
            )

    report = run(work, json=json)
    if json:
        print_json(report)
    else:
        for difference in report.differences:
            out.print(f"  {difference}", markup=False)
        for remark in report.remarks:
            out.print(f"  remark: {remark.reason}", markup=False)
        holds = "everything holds" if report.checkpoints else "nothing was compared"
        if not report.holds:
            holds = f"DOES NOT HOLD, {counted(report.found, 'difference')}"
        err.print(
            f"{counted(report.checkpoints, 'checkpoint')} up to {report.sequence}, "
            f"{report.unsigned} unsigned, {counted(report.uncovered, 'message')} behind the last: {holds}",
            markup=False,
        )
    if not report.holds:
        raise typer.Exit(DOES_NOT_HOLD)


def cut_back_places(given: list[str]) -> dict[int, int]:
    """Return the places of `--cut-back`: incarnation -> sequence.

    Raises:
        ConfigError: one is not two numbers, or an incarnation is named twice.
    """
    found: dict[int, int] = {}
    for place in given:
        match = PLACE.fullmatch(place)
        if match is None:
            raise ConfigError(
                f"--cut-back {place}: give INCARNATION:SEQUENCE, such as 2:1500 if incarnation 2 began there"
            )
        if int(match[1]) in found:
            raise ConfigError(f"--cut-back {place}: incarnation {match[1]} is named twice")
        found[int(match[1])] = int(match[2])
    return found


def _show(one: "Listed") -> None:
    out.print(
        f"{one.number:>6}  {moment(one.time)}  {one.size:>9} messages up to {one.sequence}  "
        f"{one.root[:16]}…  "
        f"{f'signed by {one.key}' if one.key else 'unsigned'}  {'holds' if one.holds else 'DOES NOT HOLD'}",
        markup=False,
    )
