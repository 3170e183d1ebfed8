"""`lucid audit export`, and `lucid audit verify` of a file: recordings that prove themselves elsewhere."""

from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from lucid_events.cli.exits import exit_code
from lucid_events.cli.output import counted, err, out, print_json, size
from lucid_events.cli.retention import erased_in_words
from lucid_events.cli.running import Json, Server, SessionArgument, fail, run, settings
from lucid_events.domain.ids import SESSION_ID, session_id
from lucid_events.errors import ConfigError, IntegrityError, LucidError

if TYPE_CHECKING:
    from lucid_events.evidence.bundle import Excerpt


SIGNATURES = {
    "signed": "signed by {key}",
    "unlisted": "signed, by whom no list of keys says",
    "unknown_key": "signed by an unknown key {key}",
    "key_not_valid": "signed by {key} outside of its time",
    "wrong": "its signature is wrong",
    "unsigned": "unsigned",
    "no_manifest": "no manifest",
}
"""What is said of a signature, by verdict."""


def register(audit: typer.Typer) -> None:
    """Add the commands to `audit`."""
    audit.command()(export)


def export(
    sid: SessionArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, such as bundle.tar.")],
    first: Annotated[
        int | None, typer.Option("--from", min=0, help="First chunk to include; the history is whole.")
    ] = None,
    last: Annotated[int | None, typer.Option("--to", min=0, help="Last chunk to include.")] = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Write a session to a file that proves itself: history, chunks, manifest, proofs.

    The history says who took it away, once in five minutes. The file appears under its name when it is
    whole. Check it with `lucid audit verify FILE`, or with any program written from docs/bundle-format.md.
    """
    from lucid_events.service import connect
    from lucid_events.service.exporting import Exported, export_for

    async def work() -> Exported:
        session = session_id(sid)
        async with connect(settings(nats_url=server), name="lucid-export") as client:
            with _progress() as bar:
                task = bar.add_task(sid, total=None)
                return await export_for(
                    client,
                    session,
                    output,
                    first=first,
                    last=last,
                    progress=lambda done: bar.advance(task, done),
                )

    done = run(work, json=json)
    if json:
        print_json(done)
        return
    about = done.description
    out.print(
        f"{done.path}: {about.session} as of version {about.version}, {_chunks(about.chunks)}, "
        f"{size(done.size)}, SHA-256 {done.sha256}",
        markup=False,
    )
    if done.erasure is not None:
        err.print(f"its history, without bytes: {erased_in_words(done.erasure)}", markup=False)
    if about.manifest is None:
        err.print("the session was never stopped: no manifest says that this is all of it")


def files_among(arguments: Iterable[str], *, whole: bool) -> list[Path]:
    """Return those arguments of `verify` that name files: they are bundles, the others sessions.

    Raises:
        ConfigError: some are files and others are not, or `whole`, an option for the log, was used.
    """
    named = list(arguments)
    files = [Path(argument) for argument in named if Path(argument).is_file()]
    for argument in named:
        if SESSION_ID.fullmatch(argument) is None and not Path(argument).is_file():
            raise ConfigError(f"{argument}: there is no such file, and it is no session id")
    if files and len(files) != len(named):
        others = [argument for argument in named if not Path(argument).is_file()]
        raise ConfigError(
            f"{files[0]} is a file and {others[0]} is none: verify bundles and sessions one after the other"
        )
    if files and whole:
        raise ConfigError(
            f"{files[0]} is a bundle, which is checked whole: --all, --since and --sample are not for it"
        )
    return files


def verify_files(
    files: list[Path],
    *,
    keys: Path | None,
    require_signature: bool,
    allow_strays: bool = False,
    kept: Path | None,
    json: bool,
) -> None:
    """Check bundles without a server and without settings; each is told of, whatever the others are.

    The exit status is 7 when one does not hold, else that of the first that could not be read.
    """
    from lucid_events.service.bundles import BundleReport, verify_bundle
    from lucid_events.service.checkpoints import load_checkpoint
    from lucid_events.service.keys import load_keys

    async def work() -> list[BundleReport | LucidError]:
        trusted = load_keys(keys) if keys else None
        checkpoint = load_checkpoint(kept) if kept else None
        reports: list[BundleReport | LucidError] = []
        with _progress() as bar:
            for file in files:
                task = bar.add_task(file.name, total=file.stat().st_size)
                try:
                    report = verify_bundle(
                        file,
                        keys=trusted,
                        require_signature=require_signature,
                        allow_strays=allow_strays,
                        checkpoint=checkpoint,
                        progress=partial(bar.advance, task),
                    )
                except (ConfigError, IntegrityError) as exc:
                    reports.append(exc)
                else:
                    reports.append(report)
        return reports

    statuses = []
    for report in run(work, json=json):
        if isinstance(report, LucidError):
            with suppress(typer.Exit):
                fail(report, json=json)
            statuses.append(exit_code(report))
            continue
        if json:
            print_json(report)
            continue
        signature = SIGNATURES[report.signature.verdict].format(key=report.signature.key)
        out.print(
            f"{report.path}: holds: session {report.session} ({report.state or 'no state'}) as of version "
            f"{report.version}, {counted(report.events, 'event')}, {_chunks(report.chunks)}, "
            f"{size(report.raw_bytes)}, {signature}",
            markup=False,
        )
        if report.erasure is not None:
            out.print(f"  {erased_in_words(report.erasure)}", markup=False)
        if report.unproven:
            unproven = counted(report.unproven, "chunk")
            out.print(f"  remark: no manifest covers {unproven}", markup=False)
        if kept and report.checkpoint is None:
            out.print("  remark: the checkpoint has no message of this session", markup=False)
        elif kept:
            out.print(f"  checkpoint {report.checkpoint} has seen it", markup=False)
        for remark in report.remarks:
            out.print(f"  remark: {remark}", markup=False)
    if statuses:
        damaged = exit_code(IntegrityError(""))
        raise typer.Exit(damaged if damaged in statuses else statuses[0])


def _chunks(excerpt: "Excerpt") -> str:
    if not excerpt.included:
        return f"none of {counted(excerpt.ready, 'chunk')}"
    if excerpt.included == excerpt.ready:
        return f"all {counted(excerpt.ready, 'chunk')}"
    return f"an excerpt: chunks {excerpt.first} to {excerpt.last}, {excerpt.included} of {excerpt.ready}"


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=err,
        disable=not err.is_terminal,
        transient=True,
    )
