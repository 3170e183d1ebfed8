"""`lucid record`: a file, a pipe, a program or a terminal into a session, until all of it is stored."""

import asyncio
import errno
import logging
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, Any

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

from lucid_events.cli.cut_off import Fate, explain, resume_command, tell_interrupted
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
from lucid_events.errors import ConfigError, LucidError
from lucid_events.recorder import CommandSource, RecorderOptions, Source, TerminalSource, Totals, open_source

SERVER_WAIT_S = 30.0
"""How long a server that is away at the start is waited for, while nothing has been read. Half gives up on
one that looks through a large store as it starts, twice keeps waiting whoever mistyped its address."""
ATTACH_BEATS = 4
"""Beat intervals beyond a lease to wait for another recorder to be gone: two it is listened for, and time
to salvage what it left. Half gives up just before."""
LAST_LINES = 20
"""Lines of a failed command's standard error that are shown; half may miss the cause of a traceback."""

_log = logging.getLogger(__name__)


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
        noting = _Noting(acked_file) if acked_file else None
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
        recording: Recording | None = None

        def stop() -> bool:
            if recording is None or not recording.opened:
                return False  # nothing was read, so there is nothing to end in order
            recording.stop()
            return True

        def again(acked: int) -> str:
            return resume_command(ctx.params, opened, acked=acked, command=is_command)

        def interrupted() -> None:
            late = f"not everything was stored within {made.shutdown_s:g} s ({SHUTDOWN}); "
            fate = Fate.of(sid, recording, opened)
            with suppress(OSError):  # nobody may be there to hear it
                tell_interrupted(fate, again(fate.acked), late=late if stopper.late else "", json=json)

        stopping = "stopping: what was read is being stored; again ends at once, what is durable stays so"
        stopper = StopOnSignal(stop, "" if tty or json else stopping, within_s=made.shutdown_s)
        kept: Spool | None = None
        try:
            with ExitStack() as listening:
                listening.enter_context(stopper)
                if made.spool:
                    most = made.spool_max_mib * 1024 * 1024
                    kept = await Spool.opened(Path(made.spool), session, max_bytes=most)
                async with connect(made, name="lucid-recorder", wait_s=SERVER_WAIT_S) as client:
                    adapters = client.adapters
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
                        on_acked=_both(noting, shown.acked) if noting else shown.acked,
                    )
                    try:
                        async with telling_why(recording, adapters):
                            with shown:
                                totals = await recording.run()
                    except asyncio.CancelledError:
                        interrupted()  # before the connection is closed, which may take a while
                        raise
                    listening.close()  # it is over: nothing is left to be ended in order
                    return totals, opened
        except asyncio.CancelledError:
            if recording is None:
                interrupted()
            raise
        except LucidError as exc:
            explain(exc, Fate.of(sid, recording, opened), again)
            raise
        except BrokenPipeError as exc:
            broken = LucidError("a pipe of the recording broke off")
            explain(broken, Fate.of(sid, recording, opened), again)
            raise broken from exc
        finally:
            if kept:
                kept.close()  # the recording has, unless it was never begun

    totals, recorded = run(work, json=json, reader_may_leave=False)
    # What we asked to end ends as it may, and so does what lost its terminal.
    asked = totals.reason == "stop" or (isinstance(recorded, TerminalSource) and recorded.hung_up)
    status = totals.exit_code if totals.exit_code and not asked else 0
    try:
        _report(SessionId(sid), totals, json)
        if status and stderr_file is None and isinstance(recorded, CommandSource):
            _show_last_words(recorded)
        if totals.gaps:
            err.print(f"missing: {totals.gap_bytes} bytes in {totals.gaps} declared gaps")
    except OSError as exc:
        # The status is that of the recording, which is over and proven, not that of its report.
        forget_reader()
        why = "nobody reads the totals" if isinstance(exc, BrokenPipeError) else f"no totals ({exc.strerror})"
        with suppress(OSError):
            err.print(f"{why} of {sid}: it is {totals.state}, up to byte {totals.end_offset}")
    raise typer.Exit(7 if totals.failed_chunks or totals.gaps else status)


def open_words(
    words: list[str], *, tty: bool, command: bool, input_too: bool = False, stderr_file: Path | None = None
) -> Source:
    """Return the source that the words after SID name.

    Raises:
        ConfigError: they name none, a file that can't be read, a program that can't be run, or options
            that don't go with it; found here, it leaves no session behind that waits for a recorder.
    """
    if input_too and not tty:
        raise ConfigError("--input records what is typed into a terminal: it goes with --tty")
    if stderr_file:
        if not command or tty:
            raise ConfigError(
                "--stderr-file is for a command: lucid record SID --stderr-file FILE -- COMMAND …"
            )
        _try_to_append(stderr_file)
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


def _try_to_append(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644))
    except OSError as exc:
        raise ConfigError(f"can't write {path}: {exc.strerror}") from exc


class _Noting:
    """Notes each offset up to which all is durable at the end of a file, synced.

    A file that can't be written any more ends no recording: it says too little then, never too much.
    """

    def __init__(self, path: Path) -> None:
        _try_to_append(path)
        self._path, self._torn, self._told = path, False, False
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def __call__(self, offset: int) -> None:
        # A part of a line must not grow together with the next one: that would be a larger number.
        line = b"%s%d\n" % (b"\n" if self._torn else b"", offset)
        try:
            self._torn = os.write(self._descriptor, line) < len(line)
            if self._torn:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._descriptor)
        except OSError as exc:
            if not self._told:
                _log.warning("--acked-file is not written", extra={"offset": offset, "reason": str(exc)})
            self._told = True
        else:
            self._told = False


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
        with suppress(OSError):  # the terminal may be gone
            self._bar.stop()


def _report(sid: SessionId, totals: Totals, json: bool) -> None:
    if json:
        print_json(totals)
        return
    spooled = totals.end_offset - totals.start_offset - totals.bytes - totals.gap_bytes
    rows = [
        ("bytes", f"{totals.bytes:,} ({size(totals.bytes)})"),
        *([("from the spool", f"{spooled:,} ({size(spooled)})")] if spooled > 0 else []),
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
