"""Terminals: real pseudo-terminals, real programs, and asciicast files that play."""

import asyncio
import errno
import json
import os
import pty
import signal
import sys
import termios
from collections.abc import Callable

import pytest

from lucid_events.domain import commands as cmd
from lucid_events.domain.transitions import State
from lucid_events.errors import ConfigError
from lucid_events.recorder import TerminalSource
from lucid_events.recorder.sources import descriptors
from lucid_events.recorder.sources.asciicast import Cast
from lucid_events.recorder.sources.terminals import BUFFER_BYTES
from tests.unit.recorder.rig import PATIENCE_S, Service, eventually, finished

ENV = {"PATH": os.environ["PATH"], "TERM": "xterm", "SHELL": "/bin/sh", "LC_ALL": "C.UTF-8"}


class Ticks:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def recorded(source: TerminalSource) -> tuple[dict[str, object], list[list[object]]]:
    """Run to the end; return header and events."""
    await source.start()
    parts = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            while block := await source.read():
                parts.append(block)
    finally:
        await source.close()
    return parsed(b"".join(parts))


def parsed(data: bytes) -> tuple[dict[str, object], list[list[object]]]:
    """Return header and events of a file."""
    lines = data.decode().splitlines()
    return json.loads(lines[0]), [json.loads(line) for line in lines[1:]]


def output(events: list[list[object]], kind: str = "o") -> str:
    """Return the text of one kind of event."""
    return "".join(str(text) for _, k, text in events if k == kind)


def test_a_window_that_is_gone_ends_no_recording() -> None:
    """When what the user sees can't be shown any more, the program goes on and is recorded to its end."""

    async def scenario() -> None:
        read, write = os.pipe()
        os.close(read)
        source = TerminalSource(["sh", "-c", "echo one; echo two"], user_out=write, env=ENV)
        try:
            _, events = await recorded(source)
        finally:
            os.close(write)
        assert output(events) == "one\r\ntwo\r\n"

    asyncio.run(scenario())


def test_a_command_becomes_an_asciicast() -> None:
    """The header names size and command, every line is an event, times never go back, the text is whole."""

    async def scenario() -> None:
        source = TerminalSource(
            ["sh", "-c", "stty size; printf 'h\\303\\251llo'; exit 4"], columns=90, rows=33, env=ENV
        )
        header, events = await recorded(source)
        assert (header["version"], header["width"], header["height"]) == (2, 90, 33)
        assert header["env"] == {"SHELL": "/bin/sh", "TERM": "xterm"}
        assert output(events) == "33 90\r\nhéllo"
        times = [float(str(event[0])) for event in events]
        assert times == sorted(times)
        assert source.exit_code == 4

    asyncio.run(scenario())


def test_it_is_a_controlling_terminal() -> None:
    """The program can open /dev/tty, so passwords are asked for and Ctrl-C reaches it."""

    async def scenario() -> None:
        _, events = await recorded(TerminalSource(["sh", "-c", "echo mine > /dev/tty"], env=ENV))
        assert output(events) == "mine\r\n"

    asyncio.run(scenario())


def test_split_characters_are_put_together() -> None:
    """A character whose bytes arrive apart is one character; bytes that are none become U+FFFD."""
    cast = Cast(Ticks())
    assert cast.data("o", b"\xe2\x82") == b""
    assert json.loads(cast.data("o", b"\xac!"))[2] == "€!"
    assert json.loads(cast.data("o", b"a\xffb"))[2] == "a\ufffdb"
    assert cast.data("o", b"\xe2") == b""
    assert json.loads(cast.data("o", b"", final=True))[2] == "\ufffd"


def test_pauses_leave_neither_text_nor_time() -> None:
    """What is written during a pause is not recorded, and playback time goes on where it stood."""
    ticks = Ticks()
    cast = Cast(ticks)
    ticks.now += 2
    assert json.loads(cast.data("o", b"one"))[:2] == [2.0, "o"]
    cast.pause()
    ticks.now += 1000
    assert cast.data("o", b"secret \xe2\x82") == b""
    assert cast.resize(10, 10) == b""
    cast.resume()
    ticks.now += 1
    # The rest of a character begun in the pause belongs to the pause's text, complete as it is.
    assert json.loads(cast.data("o", b"\xactwo")) == [3.0, "o", "€two"]


def test_a_paused_session_does_not_record_its_terminal() -> None:
    """While the session is paused the program goes on unrecorded; afterwards it is recorded again."""

    async def scenario() -> None:
        async with Service().running() as service:
            typed, into = os.pipe()
            source = TerminalSource(["cat"], user_in=typed, env=ENV)
            recording = service.recording(source, chunk_bytes=1024)
            running = asyncio.create_task(finished(recording))
            os.write(into, b"before\n")
            await eventually(lambda: source.shown_bytes >= 2 * len("before\r\n"))
            await service.ask(cmd.Pause())
            await service.until(State.PAUSED)
            await eventually(lambda: source._cast is not None and source._cast._paused_at is not None)
            os.write(into, b"hidden\n")
            await eventually(lambda: source._master is not None and _quiet(source))
            await service.ask(cmd.Resume())
            await eventually(lambda: source._cast is not None and source._cast._paused_at is None)
            os.write(into, b"after\n")
            os.close(into)
            await running
            os.close(typed)
            _, events = parsed(service.played())
            text = output(events)
            assert "before" in text
            assert "after" in text
            assert "hidden" not in text

    asyncio.run(scenario())


def _quiet(source: TerminalSource) -> bool:
    """The program has echoed the hidden line twice (terminal and cat): 16 bytes decoded while paused."""
    return source.shown_bytes >= 2 * len("before\r\n") + 2 * len("hidden\r\n")


def test_window_changes_are_recorded_and_seen_by_the_program() -> None:
    """A resize is an `r` event, and the program under the terminal sees the new size."""

    async def scenario() -> None:
        typed, into = os.pipe()
        source = TerminalSource(["sh", "-c", "echo up; read x; stty size"], user_in=typed, env=ENV)
        await source.start()
        parts = [await source.read()]
        while b"up" not in b"".join(parts):
            parts.append(await source.read())
        source.resize(101, 42)
        os.write(into, b"go\n")
        async with asyncio.timeout(PATIENCE_S):
            while block := await source.read():
                parts.append(block)
        await source.close()
        os.close(typed)
        os.close(into)
        _, events = parsed(b"".join(parts))
        assert output(events, "r") == "101x42"
        assert "42 101" in output(events)

    asyncio.run(scenario())


@pytest.mark.parametrize("record_input", [False, True])
def test_input_is_recorded_only_when_asked(record_input: bool) -> None:
    """What is typed is an `i` event only when the recorder was told so."""

    async def scenario() -> None:
        typed, into = os.pipe()
        os.write(into, b"typed\n")
        os.close(into)
        source = TerminalSource(["cat"], user_in=typed, record_input=record_input, env=ENV)
        _, events = await recorded(source)
        os.close(typed)
        assert output(events, "i") == ("typed\n" if record_input else "")
        assert "typed" in output(events)

    asyncio.run(scenario())


def test_recorded_input_is_held_back_with_the_output() -> None:
    """A recorder that is behind takes no more typing in than its buffer holds, and loses none of it."""
    typing = b"x" * 1000 + b"\n"
    data = typing * (4 * BUFFER_BYTES // len(typing))

    async def scenario() -> None:
        typed, into = os.pipe()
        os.set_blocking(into, False)
        source = TerminalSource(
            ["sh", "-c", "stty -echo; echo up; cat >/dev/null"], user_in=typed, record_input=True, env=ENV
        )
        await source.start()
        parts = [await source.read()]
        while b"up" not in b"".join(parts):
            parts.append(await source.read())
        feeding = asyncio.create_task(descriptors.write_all(into, data))
        await eventually(lambda: feeding.done() or source.buffered_bytes > BUFFER_BYTES)
        async with asyncio.timeout(PATIENCE_S):
            while sum(map(len, parts)) < len(data):
                assert source.buffered_bytes < 2 * BUFFER_BYTES
                parts.append(await source.read())
        await feeding
        os.close(into)
        async with asyncio.timeout(PATIENCE_S):
            while block := await source.read():
                parts.append(block)
        await source.close()
        os.close(typed)
        _, events = parsed(b"".join(parts))
        assert output(events, "i") == data.decode()

    asyncio.run(scenario())


def test_a_pause_lets_a_program_go_on_that_was_held_back() -> None:
    """A program that waits for a recorder that is behind goes on, unrecorded, once the session is paused."""

    async def scenario() -> None:
        source = TerminalSource(["sh", "-c", "while :; do echo word; done"], env=ENV)
        await source.start()
        await eventually(lambda: source.buffered_bytes > BUFFER_BYTES)
        held, shown = source.buffered_bytes, source.shown_bytes
        await source.pause()
        await eventually(lambda: source.shown_bytes > shown + BUFFER_BYTES // 4)
        assert source.buffered_bytes == held
        await source.close()

    asyncio.run(scenario())


def test_the_users_terminal_is_passed_through_and_given_back() -> None:
    """A real terminal is raw meanwhile, shows the program's output, and is as before afterwards."""

    async def scenario() -> None:
        master, slave = pty.openpty()
        before = termios.tcgetattr(slave)
        source = TerminalSource(["sh", "-c", "echo shown; read x"], user_in=slave, user_out=slave, env=ENV)
        await source.start()
        assert termios.tcgetattr(slave)[3] != before[3]
        seen = b""
        async with asyncio.timeout(PATIENCE_S):
            while b"shown" not in seen:
                seen += await asyncio.to_thread(os.read, master, 1000)
            os.write(master, b"\r")
            while await source.read():
                pass
        await source.close()
        assert termios.tcgetattr(slave) == before
        os.close(master)
        os.close(slave)

    asyncio.run(scenario())


def test_a_shell_that_ignores_signals_still_ends() -> None:
    """Stopping hangs up, and ends a program that does not listen."""

    async def scenario() -> None:
        code = (
            "import signal,time; [signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]; "
            "print('u' + 'p', flush=True); time.sleep(600)"
        )
        source = TerminalSource(
            [sys.executable, "-c", code],
            env=ENV,
            stop_steps=((1, 0.1), (15, 0.1)),  # type: ignore[arg-type] # plain numbers do
        )
        await source.start()
        while b"up" not in await source.read():
            pass
        await source.stop()
        async with asyncio.timeout(PATIENCE_S):
            while await source.read():
                pass
        assert source.exit_code == 137
        await source.close()

    asyncio.run(scenario())


def test_a_terminal_is_not_recorded_on() -> None:
    """A session with bytes is refused: two headers in one file would not play."""

    async def scenario() -> None:
        with pytest.raises(ConfigError, match="new session"):
            await TerminalSource(["true"]).seek(10)

    asyncio.run(scenario())


def closed_terminal(
    source_of: Callable[[int], TerminalSource], *, until: bytes
) -> tuple[TerminalSource, str]:
    """Record a program whose user closes the terminal once it has said `until`; return what is recorded."""

    async def scenario() -> tuple[TerminalSource, str]:
        master, slave = pty.openpty()
        source = source_of(slave)
        await source.start()
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(PATIENCE_S):
                while until not in b"".join(parts):
                    parts.append(await source.read())
                os.close(master)
                while block := await source.read():
                    parts.append(block)
        finally:
            await source.close()
            os.close(slave)
        return source, output(parsed(b"".join(parts))[1])

    return asyncio.run(scenario())


HEARS = "trap 'echo heard; exit 9' HUP; echo u''p; while :; do sleep 0.05; done"


def test_a_closed_terminal_hangs_its_program_up() -> None:
    """The program is told as a closed terminal tells it, and its last words are recorded."""
    source, said = closed_terminal(
        lambda user: TerminalSource(["sh", "-c", HEARS], user_in=user, user_out=user, env=ENV), until=b"up"
    )
    assert said.startswith("up\r\n")
    assert said.endswith("heard\r\n")
    assert (source.exit_code, source.hung_up) == (9, True)


def test_who_ignores_a_hang_up_records_on() -> None:
    """Where we were told to outlive the terminal, its program does too; its input has ended."""
    script = "trap 'echo heard; exit 9' HUP; echo u''p; cat; sleep 0.05; echo on"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        source, said = closed_terminal(
            lambda user: TerminalSource(["sh", "-c", script], user_in=user, user_out=user, env=ENV),
            until=b"up",
        )
    finally:
        signal.signal(signal.SIGHUP, before)
    assert said == "up\r\non\r\n"
    assert (source.exit_code, source.hung_up) == (0, False)


def test_a_terminal_that_can_not_be_read_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the program writes is not taken for all of it when reading it fails."""

    async def fail(fd: int, limit: int = 0, *, terminal: bool = False) -> bytes:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    async def scenario() -> None:
        source = TerminalSource(["sleep", "600"], env=ENV)
        monkeypatch.setattr(descriptors, "read_ready", fail)
        await source.start()
        async with asyncio.timeout(PATIENCE_S):
            assert await source.read()  # the header
            with pytest.raises(OSError, match="Cannot allocate memory"):
                await source.read()
        await source.close()

    asyncio.run(scenario())
