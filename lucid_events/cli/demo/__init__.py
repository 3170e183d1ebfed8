"""`lucid demo`: three real recordings at once, end to end, each compared byte for byte with its source."""

import asyncio
import sys
import tempfile
import time
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from lucid_events.cli.demo import sources, video
from lucid_events.cli.output import err, out, print_json, size, table
from lucid_events.cli.running import Json, run, settings
from lucid_events.domain import events as ev
from lucid_events.domain.commands import Create, Pause, Resume, Stop
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import SessionId
from lucid_events.domain.values import MIB, SettingsAsked
from lucid_events.recorder import (
    CommandSource,
    RecorderOptions,
    Recording,
    Source,
    TerminalSource,
    Totals,
    open_source,
)
from lucid_events.service import Client, connect, up

VIDEO, TERMINAL, FILE = SessionId("demo-video"), SessionId("demo-terminal"), SessionId("demo-file")
VIDEO_CHUNK_BYTES = MIB
MIN_SECONDS = 10.0
PAUSE_AT_S, RESUME_AT_S, STOP_AT_S = 2.0, 4.0, 11.0
WAIT_S = 60.0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One recording, played back and compared."""

    session: str
    what: str
    bytes: int
    chunks: int
    stored_bytes: int
    codecs: dict[str, int]
    ratio: float
    seconds: float
    bytes_per_s: float
    state: str
    sha256: str
    same: bool
    checks: list[str]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(demo)


def demo(
    seconds: Annotated[float, typer.Option(min=MIN_SECONDS, max=3600, help="Length of the video.")] = 12.0,
    keep: Annotated[Path | None, typer.Option(help="Keep store and files in this directory.")] = None,
    json: Json = False,
) -> None:
    """Record a video, a terminal and a file at the same time on an embedded server; prove the result.

    Plays each back, compares SHA-256 with what the source produced, decodes the video and counts its
    frames. The exit status is 1 when anything differs.
    """

    async def work() -> list[Result]:
        if keep is not None:
            return await _demo(keep, seconds)
        with tempfile.TemporaryDirectory(prefix="lucid-demo-") as folder:
            return await _demo(Path(folder), seconds)

    results = run(work, json=json)
    for result in results if json else ():
        print_json(result)
    if not json:
        _show(results)
    if not all(result.same for result in results):
        raise typer.Exit(1)


async def _demo(folder: Path, seconds: float) -> list[Result]:
    for name in ("source", "played"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    made = msgspec.structs.replace(settings(), data=str(folder / "data"), nats_url="", nats_context="")
    ffmpeg = video.find_ffmpeg()
    screen = await asyncio.to_thread(video.Screen.open, ffmpeg)
    try:
        async with up(made) as service:
            made = msgspec.structs.replace(made, nats_url=service.url)
            err.print(
                f"embedded server at {service.url}; recording {seconds:g} s of video, a terminal, a file …"
            )
            err.print(
                f"the video is {'the screen ' + screen.display if screen else 'a test pattern'}, "
                f"cut at {size(VIDEO_CHUNK_BYTES)}; the file at {size(made.session_defaults.chunk_bytes)}"
            )
            async with connect(made, name="lucid-demo") as client:
                totals = await _record_all(
                    client, folder, ffmpeg, seconds, screen.display if screen else None
                )
                return [await _compare(client, folder, ffmpeg, seconds, one) for one in totals]
    finally:
        if screen is not None:
            await asyncio.to_thread(screen.close)


async def _record_all(
    client: Client, folder: Path, ffmpeg: str, seconds: float, screen: str | None
) -> list[Totals]:
    copies = {sid: folder / "source" / sid for sid in (VIDEO, TERMINAL, FILE)}
    await asyncio.to_thread(sources.make_file, copies[FILE])
    command = video.record_command(ffmpeg, seconds=seconds, copy=copies[VIDEO], screen=screen)
    made: dict[SessionId, tuple[Source, SettingsAsked]] = {
        VIDEO: (
            CommandSource(command, content_type="video/mp4", name="ffmpeg"),
            SettingsAsked(chunk_bytes=VIDEO_CHUNK_BYTES, codec="auto"),
        ),
        TERMINAL: (
            sources.Tapped(TerminalSource(["sh", "-c", sources.SHELL_SCRIPT]), copies[TERMINAL]),
            SettingsAsked(codec="zstd"),
        ),
        FILE: (open_source(str(copies[FILE])), SettingsAsked()),
    }
    async with asyncio.TaskGroup() as tasks:
        recordings = [
            tasks.create_task(_recording(client, sid, source, wanted).run())
            for sid, (source, wanted) in made.items()
        ]
        tasks.create_task(_conduct(client))
    return [task.result() for task in recordings]


def _recording(client: Client, sid: SessionId, source: Source, wanted: SettingsAsked) -> Recording:
    a = client.adapters
    return Recording(
        sid,
        source,
        commands=client.commands,
        capture=a.capture,
        live=a.live,
        clock=a.clock,
        subjects=a.subjects,
        history=a.store,
        create=Create(owner="demo", label=source.name, settings=wanted),
        options=RecorderOptions(recorder=f"demo-{sid}"),
    )


async def _conduct(client: Client) -> None:
    """Pause, resume and stop the terminal while it runs; the others end with their input."""
    began = time.monotonic()

    async def at(seconds: float) -> None:
        await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))

    async with asyncio.timeout(WAIT_S):
        async with client.live.listen(client.subjects.live_history(TERMINAL)) as feed:
            async for message in feed:
                if message.subject.endswith("recorder.attached"):
                    break
    began = time.monotonic()
    await at(PAUSE_AT_S)
    await client.commands.send(TERMINAL, Pause(reason="the demo pauses the terminal"))
    await at(RESUME_AT_S)
    await client.commands.send(TERMINAL, Resume())
    await at(STOP_AT_S)
    await client.commands.send(TERMINAL, Stop(reason="the demo is over"))


async def _compare(client: Client, folder: Path, ffmpeg: str, seconds: float, totals: Totals) -> Result:
    sid = SessionId(totals.session_id)
    source, played = folder / "source" / sid, folder / "played" / sid
    checks: list[tuple[str, bool]] = []
    with played.open("wb") as file:
        async with aclosing(client.player.play(sid)) as parts:
            async for part in parts:
                if hasattr(part, "data"):
                    file.write(part.data)
                else:
                    checks.append((f"bytes {part.start} to {part.end} are missing: {part.reason}", False))
    digests = [await asyncio.to_thread(sources.sha256, path) for path in (source, played)]
    checks.append(("played back byte for byte", digests[0] == digests[1] == totals.sha256))
    contents = await client.player.contents(sid)
    codecs = Counter(chunk.ready.codec for chunk in contents.chunks.values() if chunk.ready)
    checks.append((f"{len(contents.chunks)} chunks ready", sum(codecs.values()) == len(contents.chunks)))
    if sid == VIDEO:
        frames = await asyncio.to_thread(video.count_frames, ffmpeg, played)
        expected = await asyncio.to_thread(video.count_frames, ffmpeg, source)
        enough = frames == expected and frames >= MIN_SECONDS * video.FRAME_RATE
        checks.append((f"{frames} frames decoded of {expected}", enough))
        checks.append(("at least three chunks", len(contents.chunks) >= 3))
    if sid == TERMINAL:
        checks.append(await _paused(client, sid))
    status = await client.status(sid, min_version=contents.version)
    checks.append(
        (f"the view says {status.state}", status.state == "stopped" and status.raw_bytes == totals.bytes)
    )
    return Result(
        session=sid,
        what=status.source,
        bytes=totals.bytes,
        chunks=len(contents.chunks),
        stored_bytes=status.stored_bytes,
        codecs=dict(codecs),
        ratio=status.ratio or 0.0,
        seconds=totals.seconds,
        bytes_per_s=totals.bytes / max(totals.seconds, 1e-9),
        state=str(status.state),
        sha256=digests[1],
        same=all(passed for _, passed in checks),
        checks=[f"{'ok' if passed else 'FAILED'}: {what}" for what, passed in checks],
    )


async def _paused(client: Client, sid: SessionId) -> tuple[str, bool]:
    """Return whether the history tells the pause."""
    kinds = [type(r.event) async for r in client.store.read(sid) if isinstance(r, Recorded)]
    told = ev.SessionPaused in kinds and ev.SessionResumed in kinds
    return "paused and resumed, and the history says so", told


def _show(results: list[Result]) -> None:
    names = ("session", "bytes", "chunks", "codec", "ratio", "seconds", "throughput", "state", "same")
    rows = [
        (
            r.session,
            f"{r.bytes:,}",
            r.chunks,
            ", ".join(f"{name} {count}" for name, count in sorted(r.codecs.items())),
            r.ratio,
            r.seconds,
            f"{size(r.bytes_per_s)}/s",
            r.state,
            "yes" if r.same else "NO",
        )
        for r in results
    ]
    out.print(table("", names, rows))
    for result in results:
        for check in result.checks:
            out.print(f"{result.session}: {check}", markup=False)
    sys.stdout.flush()
