"""Files, pipes and programs as sources."""

import asyncio
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import uvloop

from lucid_events.domain import commands as cmd
from lucid_events.domain.transitions import State
from lucid_events.errors import ConfigError
from lucid_events.recorder import CommandSource, FileSource, PipeSource, Source, open_source
from tests.unit.recorder.rig import PATIENCE_S, Service, eventually, finished


async def everything(source: Source) -> bytes:
    """Read to the end."""
    parts = []
    async with asyncio.timeout(PATIENCE_S):
        while block := await source.read():
            parts.append(block)
    return b"".join(parts)


async def line(source: Source) -> bytes:
    """Read to the end of a line."""
    got = b""
    async with asyncio.timeout(PATIENCE_S):
        while not got.endswith(b"\n"):
            got += await source.read()
    return got


def python(code: str) -> list[str]:
    """Return the command line that runs `code`."""
    return [sys.executable, "-c", code]


def test_a_file_is_read_from_any_offset(tmp_path: Path) -> None:
    """A file resumes at the offset asked for, and refuses one behind its end."""
    path = tmp_path / "clip.bin"
    path.write_bytes(bytes(range(200)))

    async def scenario() -> None:
        source = open_source(str(path))
        assert isinstance(source, FileSource)
        assert source.resumable
        await source.seek(150)
        assert await everything(source) == bytes(range(150, 200))
        with pytest.raises(ConfigError, match="not the same file"):
            await source.seek(201)
        await source.close()

    asyncio.run(scenario())


def test_a_file_that_is_cut_while_it_is_read_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a file loses before it is read can't be recorded: the log says so, and only then."""
    path = tmp_path / "file"

    async def scenario(upto: int) -> bytes:
        path.write_bytes(b"x" * 1000)
        source = FileSource(os.open(path, os.O_RDONLY), name="file", block_bytes=400)
        first = await source.read()
        os.truncate(path, upto)
        rest = await everything(source)
        await source.close()
        return first + rest

    assert asyncio.run(scenario(100)) == b"x" * 400
    assert [record.getMessage() for record in caplog.records] == ["the file was cut while it was read"]
    caplog.clear()
    assert asyncio.run(scenario(1000)) == b"x" * 1000
    made_up = open_source("/proc/self/status")
    assert b"Name:" in asyncio.run(everything(made_up))
    assert not caplog.records


def test_standard_input_that_can_not_be_read_is_no_source() -> None:
    """A descriptor opened for writing only is refused before anything starts."""
    kept = os.dup(0)
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 0)
        with pytest.raises(ConfigError, match="writing only"):
            open_source("-")
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def test_a_missing_file_is_named() -> None:
    """A path that can't be read is an error before anything starts."""
    with pytest.raises(ConfigError, match="nowhere"):
        open_source("nowhere/at/all")


def test_a_cancelled_read_of_a_pipe_loses_nothing() -> None:
    """A read that is given up while it waits leaves the next byte to the next read."""

    async def scenario() -> None:
        out, into = os.pipe()
        source = PipeSource(out, name="pipe")
        for _ in range(3):
            reading = asyncio.create_task(source.read())
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        os.write(into, b"abc")
        assert await source.read() == b"abc"
        os.close(into)
        assert await source.read() == b""
        await source.close()

    asyncio.run(scenario())


def test_a_named_pipe_waits_for_its_writer_without_holding_the_loop(tmp_path: Path) -> None:
    """A named pipe opens before anybody writes to it; that nobody has come yet is not its end."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    opener = ThreadPoolExecutor(1)
    opening = opener.submit(open_source, str(path))
    try:
        source = opening.result(PATIENCE_S)
    except TimeoutError:
        os.close(os.open(path, os.O_WRONLY))  # lets the thread go
        raise
    finally:
        opener.shutdown()

    async def scenario() -> None:
        reading = asyncio.create_task(source.read())
        for _ in range(3):
            await asyncio.sleep(0)
        assert not reading.done()
        into = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        os.write(into, b"abc")
        async with asyncio.timeout(PATIENCE_S):
            assert await reading == b"abc"
        os.close(into)
        assert await everything(source) == b""
        await source.close()

    asyncio.run(scenario())


def test_waiting_leaves_a_shared_descriptor_as_it_is() -> None:
    """What standard input shares with a shell, and a terminal with our own output, still blocks."""

    async def scenario() -> None:
        out, into = os.pipe()
        source = PipeSource(out, name="shared", owned=False)
        reading = asyncio.create_task(source.read())
        for _ in range(3):
            await asyncio.sleep(0)
        assert os.get_blocking(out)
        os.write(into, b"abc")
        assert await reading == b"abc"
        assert os.get_blocking(out)
        os.close(into)
        os.close(out)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


@pytest.mark.parametrize(
    ("code", "expected"), [("exit(0)", 0), ("exit(7)", 7), ("os.kill(os.getpid(), 9)", 137)]
)
def test_a_program_reports_how_it_ended(code: str, expected: int) -> None:
    """Output, error output and exit status all arrive; a signal counts as 128 + its number."""

    async def scenario() -> None:
        source = CommandSource(
            python(
                f"import os,sys; print('out', flush=True); print('err', file=sys.stderr, flush=True); {code}"
            )
        )
        await source.start()
        assert await everything(source) == b"out\n"
        assert source.exit_code == expected
        assert source.stderr == b"err\n"
        await source.close()

    asyncio.run(scenario())


def test_a_program_that_does_not_exist_is_named() -> None:
    """What can't be run is a setting to fix."""

    async def scenario() -> None:
        source = CommandSource(["no-such-program-here"])
        with pytest.raises(ConfigError, match="no-such-program-here"):
            await source.start()
        await source.close()

    asyncio.run(scenario())


def test_much_error_output_neither_blocks_nor_grows(tmp_path: Path) -> None:
    """Standard error is drained: its end is kept, all of it goes to a file, nothing is held up."""

    async def scenario() -> None:
        copy = tmp_path / "stderr"
        code = "import sys; sys.stderr.write('e' * 1000000); sys.stderr.write('last'); print('done')"
        source = CommandSource(python(code), stderr_file=copy)
        await source.start()
        assert await everything(source) == b"done\n"
        assert source.stderr.endswith(b"elast")
        assert len(source.stderr) == 64 * 1024
        assert copy.stat().st_size == 1_000_004
        await source.close()

    asyncio.run(scenario())


def test_a_program_ends_its_output_on_interrupt() -> None:
    """What a program writes when it is asked to stop is still part of the recording."""

    async def scenario() -> None:
        code = (
            "import signal,sys,time\n"
            "def end(*_):\n print('trailer', flush=True); sys.exit(0)\n"
            "signal.signal(signal.SIGINT, end)\n"
            "print('ready', flush=True)\n"
            "while True: signal.pause()\n"
        )
        source = CommandSource(python(code))
        await source.start()
        assert await line(source) == b"ready\n"
        await source.stop()
        assert await everything(source) == b"trailer\n"
        assert source.exit_code == 0
        await source.close()

    asyncio.run(scenario())


def test_a_program_that_ignores_signals_is_killed_with_its_children() -> None:
    """The steps of a stop end in a kill of the whole group, and the loop turns meanwhile."""

    async def scenario() -> None:
        code = (
            "import signal,subprocess,sys\n"
            "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
            "print(child.pid, flush=True)\n"
            "while True: signal.pause()\n"
        )
        source = CommandSource(python(code), stop_steps=((signal.SIGINT, 0.1), (signal.SIGTERM, 0.1)))
        await source.start()
        grandchild = int(await line(source))
        began = time.monotonic()
        await source.stop()
        turned = 0

        async def turn() -> None:
            nonlocal turned
            while True:
                turned += 1
                await asyncio.sleep(0.01)

        turning = asyncio.create_task(turn())
        assert await everything(source) == b""
        turning.cancel()
        assert source.exit_code == 137
        assert time.monotonic() - began < PATIENCE_S
        assert turned > 5
        await eventually(lambda: not _runs(grandchild))
        await source.close()

    asyncio.run(scenario())


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").split()[2] != "Z"
    except OSError:
        return False


def test_a_program_is_held_back_by_a_pause_and_loses_nothing() -> None:
    """While the session is paused the pipe is left unread; after resume every byte is there, in order."""

    async def scenario() -> None:
        async with Service().running() as service:
            code = "import sys\nfor i in range(400000): sys.stdout.write(f'{i:07d}\\n')"
            recording = service.recording(CommandSource(python(code)), chunk_bytes=1024 * 1024)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: recording.state is State.ACTIVE)
            await service.ask(cmd.Pause())
            await service.until(State.PAUSED)
            paused_at = recording.acked_upto
            await service.ask(cmd.Mark(label="still"))
            assert recording.acked_upto == paused_at
            await service.ask(cmd.Resume())
            totals = await running
            assert totals.exit_code == 0
            assert service.played() == b"".join(b"%07d\n" % i for i in range(400_000))

    asyncio.run(scenario())


def test_the_exit_status_is_in_the_history() -> None:
    """A program's exit status is in the detach and in the totals; a failing one is still recorded."""

    async def scenario() -> None:
        async with Service().running() as service:
            totals = await finished(service.recording(CommandSource(python("print('x'); exit(3)"))))
            assert totals.exit_code == 3
            assert service.played() == b"x\n"
            codes = [getattr(e, "exit_code", None) for e in await service.events()]
            assert 3 in codes

    asyncio.run(scenario())


def test_a_directory_is_refused_before_anything_starts(tmp_path: Path) -> None:
    """A directory can be opened and not read, so it is named as what it is at once."""
    with pytest.raises(ConfigError, match="is a directory"):
        open_source(str(tmp_path))


def test_a_closed_standard_input_is_no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptor 0 belongs to something else when standard input was closed."""
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ConfigError, match="standard input is closed"):
        open_source("-")


def test_a_copy_of_standard_error_that_can_not_be_written_never_stops_the_program(tmp_path: Path) -> None:
    """A wrong file is refused at the start; one that fills up later only ends the copy."""

    async def scenario() -> None:
        with pytest.raises(ConfigError, match="can't write"):
            await CommandSource(["true"], stderr_file=tmp_path / "no" / "err").start()
        much = "import sys; sys.stderr.write('x' * 1_000_000); sys.stderr.flush(); print('done')"
        source = CommandSource(python(much), stderr_file=Path("/dev/full"))
        await source.start()
        assert await everything(source) == b"done\n"
        await source.close()

    asyncio.run(scenario())
