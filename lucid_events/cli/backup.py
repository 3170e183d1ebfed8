"""`lucid backup`: the whole pipeline into a folder, a folder checked, and back onto an empty server."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lucid_events.cli.audit import DOES_NOT_HOLD, Told, everything, parse_sample, progress
from lucid_events.cli.output import err, out, print_json, size
from lucid_events.cli.running import Json, Server, run, settings
from lucid_events.errors import ConfigError

if TYPE_CHECKING:
    from lucid_events.service.backing_up import Made
    from lucid_events.service.backup_files import Manifest
    from lucid_events.service.restoring import Restored

backup_app = typer.Typer(
    help="Back up the whole pipeline while it runs, and restore it to an empty server.", no_args_is_help=True
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the backup.")]
Digest = Annotated[
    str, typer.Option("--digest", help="SHA-256 of the manifest, kept elsewhere since it was made.")
]


@backup_app.command()
def create(folder: Folder, server: Server = None, json: Json = False) -> None:
    """Write every stream of the pipeline to a new folder; recordings go on meanwhile.

    The folder appears under its name when it is whole and on the disk. Keep the digest it prints
    somewhere else: with it, nobody can change the backup unnoticed.
    """
    from lucid_events.service.adapters import open_adapters
    from lucid_events.service.backing_up import Made, create_backup

    async def work() -> Made:
        async with open_adapters(settings(nats_url=server), name="lucid-backup") as adapters:
            with progress() as bar:
                task = bar.add_task("backup", total=None)
                return await create_backup(adapters, folder, progress=lambda done: bar.advance(task, done))

    made = run(work, json=json)
    if json:
        print_json(_made(made))
        return
    out.print(f"{made.path}: {_shown(made.manifest)}", markup=False)
    out.print(f"manifest SHA-256 {made.sha256}")
    _warn(made.manifest)


@backup_app.command()
def verify(folder: Folder, digest: Digest = "", json: Json = False) -> None:
    """Hold every file of a backup against its manifest; no server, no settings.

    The exit status is 7 when a file is not what it was. That a backup can be restored is shown by
    restoring it.
    """
    from lucid_events.service.backing_up import Made
    from lucid_events.service.backup_files import check_files, read_manifest

    async def work() -> Made:
        manifest, found = read_manifest(folder, digest=digest)
        with progress() as bar:
            task = bar.add_task("verify", total=manifest.size)
            check_files(folder, manifest, progress=lambda done: bar.advance(task, done))
        return Made(path=str(folder), sha256=found, manifest=manifest)

    checked = run(work, json=json)
    if json:
        print_json(_made(checked))
        return
    out.print(f"{checked.path}: whole, {_shown(checked.manifest)}", markup=False)
    _warn(checked.manifest)


@backup_app.command()
def restore(
    folder: Folder,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="New folder for `lucid up`, instead of a server that runs."),
    ] = None,
    digest: Digest = "",
    sample: Annotated[
        str, typer.Option("--sample", help="Share of the chunks that are verified at the end, such as 1%.")
    ] = "100%",
    allow_strays: Annotated[
        bool,
        typer.Option("--allow-strays", help="Messages that are no events are remarks, not differences."),
    ] = False,
    server: Server = None,
    json: Json = False,
) -> None:
    """Restore a backup to a server without a pipeline, and verify every session there.

    The log comes back as a new incarnation, the views are built from it. Signatures are held against
    LUCID_SIGNING_KEYS. Interrupted, it is run again:
    until then nothing starts on that server. The exit status is 3 when the server is not empty, and 7
    when the backup is damaged or a session does not hold.
    """
    from lucid_events.compression.measuring import Measurer
    from lucid_events.service.auditing import VERIFY_WORKERS, open_auditor
    from lucid_events.service.keys import trusted_keys
    from lucid_events.service.restoring import restore_backup, restore_target

    async def work() -> bool:
        if data is not None and server is not None:
            raise ConfigError("--data starts a server of its own, --server names one that runs: use one")
        made, drawn = settings(nats_url=server), parse_sample(sample, None)
        trusted = trusted_keys(made.evidence)
        async with restore_target(made, data) as adapters:
            with progress() as bar:
                task = bar.add_task("restore", total=None)
                done = await restore_backup(
                    adapters,
                    folder,
                    data=data,
                    digest=digest,
                    progress=lambda count: bar.advance(task, count),
                )
            _tell(done, json=json)
            with progress() as bar:
                task = bar.add_task("verify", total=None)
                async with Measurer(workers=VERIFY_WORKERS) as measurer:
                    auditor = await open_auditor(
                        adapters,
                        measurer,
                        keys=trusted,
                        sample=drawn,
                        allow_strays=allow_strays,
                        progress=lambda count: bar.advance(task, count),
                    )
                    told = Told(json, drawn)
                    erased = frozenset(done.manifest.erased)
                    await everything(
                        auditor,
                        told,
                        whole=True,
                        since=None,
                        bar=bar,
                        erased=erased,
                        allow_strays=allow_strays,
                    )
            return told.end()

    if not run(work, json=json):
        raise typer.Exit(DOES_NOT_HOLD)


def _tell(done: "Restored", *, json: bool) -> None:
    if json:
        facts = {name: getattr(done, name) for name in ("incarnation", "sequence", "removed", "views")}
        print_json({"restored": {"id": done.manifest.id, **facts}})
        return
    for name in done.removed:
        err.print(f"removed {name}, left by a restore that was interrupted")
    out.print(
        f"restored backup {done.manifest.id}: the log up to {done.sequence}, incarnation {done.incarnation}"
    )
    if done.views:
        err.print(f"the views could not be built, workers fill them as far as they can: {done.views}")


def _made(made: "Made") -> dict[str, object]:
    return {"path": made.path, "sha256": made.sha256, "manifest": made.manifest}


def _shown(manifest: "Manifest") -> str:
    return (
        f"the log up to {manifest.log.sequence} (incarnation {manifest.log.incarnation}), "
        f"{manifest.chunks} chunks, {len(manifest.parts)} streams, {size(manifest.size)}"
    )


def _warn(manifest: "Manifest") -> None:
    for sid in manifest.erased:
        err.print(f"{sid} was being erased meanwhile: objects of it may not be in the backup")
    for bucket in manifest.missing_buckets:
        err.print(f"chunks are in bucket {bucket}, which is not there: they are not in the backup")
    if (more := manifest.missing_buckets_count - len(manifest.missing_buckets)) > 0:
        err.print(f"and in {more} more buckets that are not there")
