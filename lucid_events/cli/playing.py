"""`lucid play`: the recording as it was captured, verified chunk by chunk."""

import asyncio
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import aclosing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from lucid_events.cli.output import err, size
from lucid_events.cli.running import Server, SessionArgument, run, settings
from lucid_events.domain.ids import session_id
from lucid_events.durable_files import sync_folder
from lucid_events.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(play)


def play(
    sid: SessionArgument,
    output: Annotated[str, typer.Option("--output", "-o", help="File; - is standard output.")] = "-",
    start: Annotated[
        str,
        typer.Option(
            "--from",
            help="Where to begin: a byte offset (1048576), or a time into it (90s, 1:30) or in UTC: then "
            "with the chunk that holds it.",
        ),
    ] = "0",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the session has ended.")
    ] = False,
    server: Server = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the totals as JSON, on standard error.")
    ] = False,
) -> None:
    """Write a recording to a file or to standard output; every chunk is verified first.

    Bytes that are missing are named on standard error, and the exit status is 7. A beginning behind
    the end is an error, unless the session goes on and is followed.
    """
    from lucid_events.playback import Missing, check_start, offset_at
    from lucid_events.service import connect

    async def work() -> tuple[int, list[Missing]]:
        session = session_id(sid)
        written, missing = 0, []
        async with connect(settings(nats_url=server)) as client:
            contents = await client.player.contents(session)
            begin = parse_start(start, contents.started_at)
            offset = begin if isinstance(begin, int) else offset_at(contents, begin, follow=follow)
            check_start(contents, offset, follow=follow)  # before an output file is begun
            total = contents.end - offset
            with _opened(output) as file, _progress(output) as bar:
                task = bar.add_task(sid, total=None if follow else max(0, total))
                async with aclosing(client.play(session, start=offset, follow=follow)) as parts:
                    async for part in parts:
                        if isinstance(part, Missing):
                            missing.append(part)
                            continue
                        with _writing(output):
                            await asyncio.to_thread(file.write, part.data)
                            if follow:
                                file.flush()
                        written += len(part.data)
                        bar.advance(task, len(part.data))
                with _writing(output):
                    file.flush()
        return written, missing

    written, missing = run(work, json=json)
    if json:
        err.print_json(
            data={
                "session_id": sid,
                "bytes": written,
                "missing": [{"start": m.start, "end": m.end, "reason": m.reason} for m in missing],
            },
            indent=None,
        )
    for hole in missing if not json else ():
        err.print(
            f"missing: bytes {hole.start} to {hole.end} ({size(hole.end - hole.start)}): {hole.reason}",
            markup=False,
        )
    if missing:
        raise typer.Exit(7)


def write_out(output: str, data: Any) -> None:
    """Write `data` to the file `output`, or to standard output when it is `-`."""
    with _opened(output) as file, _writing(output):
        file.write(data)
        file.flush()


@contextmanager
def _writing(output: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise  # the reader has enough: `run` knows
    except OSError as exc:
        name = "standard output" if output == "-" else output
        raise ConfigError(f"can't write {name}: {exc.strerror}") from exc


def parse_start(text: str, started_at: datetime | None) -> int | datetime:
    """Return a byte offset, or the instant that `text` names in a recording that began at `started_at`.

    Raises:
        ConfigError: none of the forms, or there is no beginning to count from.
    """
    if text.isdigit():
        return int(text)
    seconds = re.fullmatch(r"(\d+(?:\.\d+)?)s", text)
    clock = re.fullmatch(r"(?:(\d+):)?(\d+):(\d\d(?:\.\d+)?)", text)
    if seconds or clock:
        if started_at is None:
            raise ConfigError(f"--from {text}: no recorder has attached to this session yet")
        into = float(seconds[1]) if seconds else 0.0
        if clock:
            into = int(clock[1] or 0) * 3600 + int(clock[2]) * 60 + float(clock[3])
        return started_at + timedelta(seconds=into)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"--from {text!r} is no place in a recording: use a byte offset (1048576), "
            "a time into it (90s, 1:30) or a UTC time (2026-01-31T12:00:00)"
        ) from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


class _opened:  # noqa: N801 - used as a function
    """A binary file for output; a new regular file appears under its name only when it is whole.

    Pipes and devices are written to as they are. Left early, the part written stays under
    `<name>.part`, so an older file is never half overwritten; one that could not be written goes, because
    it takes the room that is lacking.
    """

    def __init__(self, output: str) -> None:
        self._path = None if output == "-" else Path(output)
        self._part: Path | None = None

    def __enter__(self) -> BinaryIO:
        if self._path is None:
            if sys.stdout.isatty():
                raise ConfigError("a recording is bytes, not text: use -o FILE, or a pipe")
            self._file: BinaryIO = sys.stdout.buffer
            return self._file
        try:
            if self._path.exists() and not stat.S_ISREG(self._path.stat().st_mode):
                self._file = self._path.open("wb")
            else:
                self._part = self._path.with_name(f"{self._path.name}.part")
                self._file = self._part.open("wb")
        except OSError as exc:
            raise ConfigError(f"can't write {self._path}: {exc.strerror}") from exc
        return self._file

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._path is None:
            return
        try:
            if kind is None:
                with _writing(str(self._path)):
                    self._finish(self._path)
        except ConfigError as exc:
            error = exc
            raise
        finally:
            with suppress(OSError):
                self._file.close()  # flushes; what is wrong with that has been said already
            if self._part is not None and isinstance(error, ConfigError):
                with suppress(OSError):
                    self._part.unlink(missing_ok=True)

    def _finish(self, path: Path) -> None:
        if self._part is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()
        if self._part is not None:
            self._part.replace(path)
            sync_folder(path.parent)


def _progress(output: str) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=err,
        disable=output == "-" or not err.is_terminal,
        transient=True,
    )
