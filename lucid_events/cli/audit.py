"""`lucid audit verify`: whether recordings are what their histories say, and where they are not."""

import secrets
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from lucid_events.cli.audit_bundles import SIGNATURES, files_among, verify_files
from lucid_events.cli.history import parse_bound
from lucid_events.cli.output import counted, err, out, print_json, size
from lucid_events.cli.retention import erased_in_words
from lucid_events.cli.running import Json, Server, run, settings
from lucid_events.domain.ids import session_id
from lucid_events.errors import ConfigError, NotFound

if TYPE_CHECKING:
    from lucid_events.evidence.differences import Difference, Remark
    from lucid_events.service.auditing import Auditor
    from lucid_events.service.verifying import Sample, SessionReport

DOES_NOT_HOLD = 7
"""Exit status of evidence that does not hold, as of an IntegrityError."""

audit_app = typer.Typer(
    help="Prove recordings: verify them, export them, witness the log.", no_args_is_help=True
)


@audit_app.command()
def verify(
    sids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SID]...", help="Sessions to verify, or bundles.", show_default=False),
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Every session of the log, and the log itself.")
    ] = False,
    since: Annotated[
        str | None, typer.Option("--since", help="Every session with an event since this UTC time.")
    ] = None,
    sample: Annotated[
        str,
        typer.Option("--sample", help="Share of the chunks to look at, such as 1%; histories always whole."),
    ] = "100%",
    seed: Annotated[
        str | None,
        typer.Option("--seed", help="What the sample is drawn by; the same seed, the same chunks."),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", help="Public keys that are believed, instead of LUCID_SIGNING_KEYS."),
    ] = None,
    require_signature: Annotated[
        bool, typer.Option("--require-signature", help="What has ended and is not signed does not hold.")
    ] = False,
    allow_strays: Annotated[
        bool,
        typer.Option("--allow-strays", help="Messages that are no events are remarks, not differences."),
    ] = False,
    kept: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="A checkpoint kept elsewhere that a bundle has to fit."),
    ] = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Recompute everything a session says of itself from its stored bytes.

    Links and legality of its history, every manifest, the signature, and of every chunk its object,
    metadata and both digests. A file is a bundle, checked without a server and without settings.
    The exit status is 7 when something differs.
    """
    from lucid_events.service.auditing import auditing
    from lucid_events.service.keys import load_keys

    if files := files_among(sids or (), whole=all_ or since is not None or sample != "100%"):
        return verify_files(
            files,
            keys=keys,
            require_signature=require_signature,
            allow_strays=allow_strays,
            kept=kept,
            json=json,
        )
    if kept is not None:
        raise ConfigError("--checkpoint is for bundles; `lucid audit checkpoints` checks the log against one")

    async def work() -> bool:
        sessions = [session_id(sid) for sid in sids or ()]
        bound = parse_bound(since, "--since")
        if isinstance(bound, int):
            raise ConfigError("--since takes a UTC time, such as 2026-01-31T12:00:00")
        if bool(sessions) + all_ + (bound is not None) != 1:
            raise ConfigError("name sessions to verify, or use --all, or --since TIME: one of them")
        made = settings(nats_url=server)
        named = keys or (Path(made.evidence.signing_keys) if made.evidence.signing_keys else None)
        trusted = load_keys(named) if named else None
        drawn = parse_sample(sample, seed)
        with progress() as bar:
            task = bar.add_task("verify", total=None)
            async with auditing(
                made,
                keys=trusted,
                require_signature=require_signature,
                sample=drawn,
                allow_strays=allow_strays,
                progress=lambda checked: bar.advance(task, checked),
            ) as auditor:
                told = Told(json, drawn)
                if sessions:
                    for session in sessions:
                        check = await auditor.history(session)
                        expected = (bar.tasks[0].total or 0) + check.state.ready_bytes * drawn.fraction
                        bar.update(task, description=session, total=expected)
                        told.session(await auditor.verifier.chunks(check))
                else:
                    await everything(
                        auditor, told, whole=all_, since=bound, bar=bar, allow_strays=allow_strays
                    )
        return told.end()

    if not run(work, json=json):
        raise typer.Exit(DOES_NOT_HOLD)


async def everything(
    auditor: "Auditor",
    told: "Told",
    *,
    whole: bool,
    since: object,
    bar: Progress,
    erased: Collection[str] = (),
    allow_strays: bool = False,
) -> None:
    """Verify every session, or those with an event since a time; `whole` also the log and the buckets.

    The whole includes sessions that a status view knows and the log does not.

    Of sessions in `erased` the log does not know yet that their objects go: missing ones are remarks.
    """
    from datetime import datetime

    from lucid_events.domain.envelope import Stray
    from lucid_events.evidence.differences import Difference, Remark
    from lucid_events.service.auditing import beside, excused, foreign
    from lucid_events.service.inventory import Inventory

    inventory, seen = Inventory(), set[int]()

    def strange(found: Difference) -> None:
        if allow_strays:
            told.log((), (Remark(session=found.session, sequence=found.sequence, reason=found.reason),))
        else:
            told.log((found,), ())

    if whole:
        told.log(await auditor.log(), ())
    async for session in auditor.sessions(since if isinstance(since, datetime) else None):
        if isinstance(session, Stray):
            strange(foreign(session))
            continue
        bar.update(bar.task_ids[0], description=session)
        try:
            report = await auditor.verify(session)
        except NotFound:
            strange(beside(session))
            continue
        if session in erased:
            report = excused(report)
        inventory.add(report)
        seen.add(hash(session))
        told.session(report)
    if whole:
        async for session in auditor.remembered():
            if hash(session) in seen:
                continue
            try:
                told.session(await auditor.verify(session))
            except NotFound:
                reason = "a status view that is damaged or of another incarnation knows it, the log does not"
                told.log((), (Remark(session=session, reason=reason),))
        async for found in inventory.unknown(auditor.adapters.store, auditor.adapters.chunks):
            if isinstance(found, Difference):
                told.log((found,), ())
            else:
                told.log((), (found,))


def parse_sample(text: str, seed: str | None) -> "Sample":
    """Return the sample that a share (`1%`, `0.01`) and a seed stand for; a seed is made up when needed.

    Raises:
        ConfigError: the share is not above 0 and at most 100 %.
    """
    from lucid_events.service.verifying import Sample

    try:
        fraction = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        fraction = 0.0
    if not 0 < fraction <= 1:
        raise ConfigError(f"--sample {text!r}: use a share of the chunks such as 1%, above 0% and up to 100%")
    return Sample(fraction=fraction, seed=seed if seed is not None else secrets.token_hex(8))


class Told:
    """What has been said so far: one object or one line a session, then the sum of it."""

    def __init__(self, json: bool, sample: "Sample") -> None:
        self._json, self._sample = json, sample
        self._sessions = self._differ = self._chunks = self._raw = self._remarks = 0
        if sample.fraction < 1:
            err.print(f"sample of {sample.fraction:.4%} of the chunks, drawn by --seed {sample.seed}")

    def session(self, report: "SessionReport") -> None:
        """Say what came of one session."""
        self._sessions += 1
        self._differ += not report.holds
        self._chunks += report.chunks
        self._raw += report.raw_bytes
        self._remarks += len(report.remarks)
        if self._json:
            print_json(report)
            return
        signature = SIGNATURES[report.signature.verdict].format(key=report.signature.key)
        facts = (
            f"{report.state or 'no state'}, {report.events} events, {report.chunks} of {report.ready} chunks"
            f", {size(report.raw_bytes)}, {signature}"
        )
        if report.holds:
            out.print(f"{report.session}: holds ({facts})", markup=False)
        else:
            out.print(
                f"{report.session}: DOES NOT HOLD, {counted(report.found, 'difference')} ({facts})",
                markup=False,
            )
        if report.erasure is not None:
            out.print(f"  {erased_in_words(report.erasure)}", markup=False)
        self._lines(report.differences, report.remarks)

    def log(self, differences: "Iterable[Difference]", remarks: "Iterable[Remark]") -> None:
        """Say what was found of the log, or of a bucket, as a whole."""
        found, noted = list(differences), list(remarks)
        self._differ += bool(found)
        self._remarks += len(noted)
        if self._json:
            if found or noted:
                print_json({"log": {"holds": not found, "differences": found, "remarks": noted}})
            return
        self._lines(found, noted)

    def end(self) -> bool:
        """Say the sum, and return whether everything holds."""
        if not self._json and self._sessions != 1:
            err.print(
                f"{counted(self._sessions, 'session')}, {counted(self._chunks, 'chunk')}, {size(self._raw)}: "
                f"{'everything holds' if not self._differ else f'{self._differ} do not hold'}, "
                f"{counted(self._remarks, 'remark')}"
            )
        return not self._differ

    def _lines(self, differences: "Iterable[Difference]", remarks: "Iterable[Remark]") -> None:
        for difference in differences:
            out.print(f"  {difference}", markup=False)
        for remark in remarks:
            out.print(f"  remark: {remark}", markup=False)


def progress() -> Progress:
    """Return the bar that work on many bytes shows on a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=err,
        disable=not err.is_terminal,
        transient=True,
    )
