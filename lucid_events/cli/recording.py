"""`lucid record`: a file, a pipe, a program or a terminal into a session, until all of it is stored."""

import asyncio
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.progress import (
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from typer.core import TyperCommand

from lucid_events.cli.cut_off import fate_of, resume_command, tell_interrupted
from lucid_events.cli.output import err, print_json, size, table
from lucid_events.cli.running import (
    ChunkBytes,
    Json,
    PayloadDays,
    Server,
    SessionArgument,
    forget_reader,
    run,
    settings,
)
from lucid_events.cli.stalling import telling_why
from lucid_events.cli.stopping import SHUTDOWN, StopOnSignal
from lucid_events.domain.commands import Create
from lucid_events.domain.ids import SessionId, session_id
from lucid_events.domain.values import RetentionAsked, SettingsAsked
from lucid_events.errors import CommandRejected, ConfigError, LucidError
from lucid_events.recorder import CommandSource, RecorderOptions, Source, TerminalSource, Totals, open_source

ATTACH_BEATS = 4
"""Beat intervals beyond a lease to wait for another recorder to be gone: two it is listened for, and time
to salvage what it left. Half gives up just before."""
LAST_LINES = 20
"""Lines of a failed command's standard error that are shown; half may miss the cause of a traceback."""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(cls=AfterDashes)(record)


class AfterDashes(TyperCommand):
    """Keeps whether the words came behind `--`, which the parser drops: then they are a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Note the dashes, then parse as usual."""
        ctx.meta["lucid.command"] = "--" in args
        return super().parse_args(ctx, args)


def record(
    ctx: typer.Context,
    sid: SessionArgument,
    source: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE | -- COMMAND ...]", help="A file, - for standard input, or a command."),
    ] = None,
    tty: Annotated[
        bool, typer.Option("--tty", help="Record a terminal (the command, or your shell).")
    ] = False,
    input_too: Annotated[
        bool, typer.Option("--input", help="With --tty: record what is typed, too.")
    ] = False,
    owner: Annotated[str, typer.Option(help="Owner, when the session is created.")] = "",
    label: Annotated[str, typer.Option(help="Label, when the session is created.")] = "",
    chunk_bytes: ChunkBytes = None,
    payload_days: PayloadDays = None,
    codec: Annotated[str | None, typer.Option(help="Codec, when the session is created.")] = None,
    level: Annotated[int | None, typer.Option(help="Level, when the session is created.")] = None,
    takeover: Annotated[bool, typer.Option(help="Replace a recorder that is still alive.")] = False,
    recover: Annotated[bool, typer.Option(help="Bring a stopped or failed session back first.")] = False,
    append: Annotated[
        bool, typer.Option(help="Let a source that can't be read again go on behind what is recorded.")
    ] = False,
    spool: Annotated[str | None, typer.Option(help="Directory for bytes the server can't take.")] = None,
    stderr_file: Annotated[
        Path | None, typer.Option(help="Append the command's standard error here.")
    ] = None,
    acked_file: Annotated[
        Path | None, typer.Option(help="Write each offset up to which all is durable here, synced.")
    ] = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Record to the end of input, stop the session, and wait until every byte is proven stored.

    The session is created and started when it does not exist. The exit status is 0 only when every
    byte is in a ready chunk; a command's own status is reported, and becomes ours when it ended by
    itself with another one than 0.
    """
    words = source or []
    is_command = bool(ctx.meta.get("lucid.command"))

    async def work() -> tuple[Totals, Source]:
        from lucid_events.recorder import Recording, Spool
        from lucid_events.service import connect

        session = session_id(sid)
        made = settings(nats_url=server, spool=spool)
        opened = open_words(words, tty=tty, command=is_command, input_too=input_too, stderr_file=stderr_file)
        create = Create(
            owner=owner,
            label=label,
            settings=SettingsAsked(
                chunk_bytes=chunk_bytes,
                codec=codec,
                level=level,
                retention=RetentionAsked(payload_days=payload_days),
            ),
        )
        options = RecorderOptions(
            recorder=f"{socket.gethostname()}:{os.getpid()}",
            takeover=takeover,
            recover=recover,
            append=append,
            # Who goes on after a kill waits until the service has given the one before up.
            attach_timeout_s=made.lease_s + ATTACH_BEATS * made.beat_interval_s,
            window_bytes=made.window_mib * 1024 * 1024,
            flush_interval_s=made.flush_interval_s,
            beat_interval_s=made.beat_interval_s,
            spool_after_s=made.spool_after_s,
        )
        shown = _Shown(sid, enabled=not tty and not json)
        async with connect(made, name="lucid-recorder") as client:
            adapters = client.adapters
            kept = (
                await Spool.opened(Path(made.spool), session, max_bytes=made.spool_max_mib * 1024 * 1024)
                if made.spool
                else None
            )
            recording = Recording(
                session,
                opened,
                commands=client.commands,
                capture=adapters.capture,
                live=adapters.live,
                clock=adapters.clock,
                subjects=adapters.subjects,
                history=adapters.store,
                create=create,
                options=options,
                spool=kept,
                on_acked=_both(_noting(acked_file), shown.acked),
            )
            stopping = "stopping: what was read is being stored; again ends at once, what is durable stays so"
            stopper = StopOnSignal(recording.stop, "" if tty or json else stopping, within_s=made.shutdown_s)
            try:
                async with telling_why(recording, adapters):
                    with shown, stopper:
                        return await recording.run(), opened
            except CommandRejected as exc:
                allowed = exc.fields.get("allowed") or ()
                if recover or "recover" not in map(str, cast("Iterable[object]", allowed)):
                    raise
                again = resume_command(ctx.params, opened, acked=1, command=is_command)
                raise CommandRejected(f"{exc.message}; to go on with it: {again}", **exc.fields) from exc
            except (asyncio.CancelledError, BrokenPipeError) as exc:
                acked = recording.acked_upto
                fate = fate_of(sid, acked=acked, taken=recording.taken_upto, spooled=kept is not None)
                again = resume_command(ctx.params, opened, acked=acked, command=is_command)
                if isinstance(exc, BrokenPipeError):
                    raise LucidError(
                        f"a pipe of the recording broke off; {fate}. Go on with: {again}"
                    ) from exc
                if stopper.late:
                    fate = f"not everything was stored within {made.shutdown_s:g} s ({SHUTDOWN}); {fate}"
                tell_interrupted(fate, acked, again, json=json)
                raise

    totals, recorded = run(work, json=json, reader_may_leave=False)
    try:
        _report(SessionId(sid), totals, json)
    except BrokenPipeError:
        # The status is that of the recording, which is over and proven, not that of its report.
        forget_reader()
        err.print(f"nobody reads the totals of {sid}: it is {totals.state}, up to byte {totals.end_offset}")
    # What we asked to end ends as it may.
    status = totals.exit_code if totals.exit_code and totals.reason != "stop" else 0
    if status and stderr_file is None and isinstance(recorded, CommandSource):
        _show_last_words(recorded)
    if totals.failed_chunks:
        raise typer.Exit(7)
    if totals.gaps:
        err.print(f"missing: {totals.gap_bytes} bytes in {totals.gaps} declared gaps")
        raise typer.Exit(7)
    if status:
        raise typer.Exit(status)


def open_words(
    words: list[str], *, tty: bool, command: bool, input_too: bool = False, stderr_file: Path | None = None
) -> Source:
    """Return the source that the words after SID name.

    Raises:
        ConfigError: they name none, a file that can't be read, or a program that can't be run; found
            here, it leaves no session behind that waits for a recorder.
    """
    if words and (tty or command) and shutil.which(words[0]) is None:
        raise ConfigError(f"{words[0]!r} can't be run: there is no such program, or it is not executable")
    if tty:
        user_in = sys.stdin.fileno() if sys.stdin and not sys.stdin.closed else None
        user_out = sys.stdout.fileno() if sys.stdout.isatty() else None
        return TerminalSource(words, user_in=user_in, user_out=user_out, record_input=input_too)
    if command:
        if not words:
            raise ConfigError("there is no command after --: lucid record SID -- ffmpeg …")
        return CommandSource(words, stderr_file=stderr_file)
    if len(words) > 1:
        raise ConfigError(f"one file is recorded, not {len(words)}: for a command use -- {shlex.join(words)}")
    return open_source(words[0] if words else "-")


def _show_last_words(source: CommandSource) -> None:
    """Show how a command that failed explained itself: nothing else tells it."""
    lines = source.stderr.decode(errors="replace").splitlines()[-LAST_LINES:]
    if lines:
        err.print(f"the last it wrote to standard error ({source.name}):", markup=False)
        err.print("\n".join(lines), markup=False)


def _noting(path: Path | None) -> Callable[[int], None]:
    if path is None:
        return lambda offset: None
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as exc:
        raise ConfigError(f"can't write {path}: {exc.strerror}") from exc

    def note(offset: int) -> None:
        try:
            os.write(descriptor, b"%d\n" % offset)
            os.fsync(descriptor)
        except OSError as exc:
            raise ConfigError(f"can't write {path}: {exc.strerror}") from exc

    return note


def _both(first: Callable[[int], None], second: Callable[[int], None]) -> Callable[[int], None]:
    def told(offset: int) -> None:
        first(offset)
        second(offset)

    return told


class _Shown:
    """A line on the terminal: how far the recording is durable, and how fast it grows."""

    def __init__(self, sid: str, *, enabled: bool) -> None:
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeElapsedColumn(),
            console=err,
            disable=not enabled or not err.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(f"{sid}: durable", total=None)

    def acked(self, offset: int) -> None:
        self._bar.update(self._task, completed=offset)

    def __enter__(self) -> None:
        self._bar.start()

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _report(sid: SessionId, totals: Totals, json: bool) -> None:
    if json:
        print_json(totals)
        return
    rows = [
        ("bytes", f"{totals.bytes:,} ({size(totals.bytes)})"),
        ("chunks", totals.chunks),
        ("stored", f"{size(totals.stored_bytes)}, ratio {totals.ratio:.2f}"),
        ("gaps", totals.gaps),
        ("seconds", f"{totals.seconds:.2f}"),
        ("throughput", f"{size(totals.bytes / max(totals.seconds, 1e-9))}/s"),
        ("state", totals.state),
    ]
    if totals.exit_code is not None:
        rows.append(("exit code", totals.exit_code))
    made = table(f"recorded {sid}", ("", ""), [(name, str(value)) for name, value in rows])
    made.show_header = False
    err.print(made)
    err.print(f"sha256 {totals.sha256}")  # beside a name in a table it would break on 80 columns
