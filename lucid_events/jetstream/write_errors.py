"""What a server whose disk was full says of itself, and when starting it again helps.

A stream that could not be written once takes nothing more until the server is started anew, also
when there is room again; other streams go on. Publishers only see that nobody answers. The server's
monitoring names such streams, and it alone: the log is on the same full disk.
"""

import asyncio
import json
import logging
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from lucid_events.domain.values import MIB

LOOK_S: Final = 5.0
"""Between looks. Half asks for nothing more often, twice leaves recorders waiting after room was made."""
ANSWER_S: Final = 5.0
ROOM_BYTES: Final = 256 * MIB
"""Free bytes with which a server is started again. With half a few recorders fill them within seconds,
and each time every client is cut off; with twice a small disk waits for what nobody can free."""

_log = logging.getLogger(__name__)


async def write_errors(port: int) -> list[str]:
    """Return what the server with that monitoring port says of streams it can't write, one text each.

    Empty, too, when it gives no answer: whether it runs is for others to watch.
    """
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /healthz?details=true HTTP/1.0\r\n\r\n")
                answer = await reader.read()
            finally:
                writer.close()
        found = json.loads(answer.partition(b"\r\n\r\n")[2])
    except (OSError, ValueError, TimeoutError):
        return []
    return [str(one["error"]) for one in found.get("errors") or () if "write error" in one.get("error", "")]


async def restart_once_there_is_room(
    folder: Path,
    port: Callable[[], int],
    restart: Callable[[], Awaitable[None]],
    *,
    look_s: float = LOOK_S,
    room_bytes: int = ROOM_BYTES,
) -> None:
    """Look at the server for ever, and `restart` it when streams can't be written and the disk has room.

    Args:
        folder: on the disk of the server's store.
        port: the monitoring port now; 0 while there is none.
        restart: returns when the server is asked to start again.
    """
    told: list[str] = []
    while True:
        await asyncio.sleep(look_s)
        found = await write_errors(port()) if port() else []
        if found and found != told:
            _log.error("make room: the server can't write its store", extra={"reason": "; ".join(found)})
        told = found
        if found and await asyncio.to_thread(_free, folder) >= room_bytes:
            _log.warning("the disk has room again: the server is started anew", extra={"reason": str(folder)})
            await restart()


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
