"""Who listens on a port of this machine, as far as that can be found out, for messages to people."""

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Final

ANSWER_S: Final = 1.0
"""How long a NATS server may take to say hello; it does so at once, others say nothing at all."""

_LISTEN: Final = "0A"
"""State of a listening socket in /proc/net/tcp."""


async def listener(port: int) -> str | None:
    """Return in words who takes connections on loopback's `port`, None when nobody does."""
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError):
        return None
    try:
        hello = b""
        with contextlib.suppress(TimeoutError, OSError, ValueError):
            async with asyncio.timeout(ANSWER_S):
                hello = await reader.readline()
    finally:
        writer.close()
    process = await asyncio.to_thread(_process, port)
    by = f"process {process}" if process else "another process"
    server = _server(hello)
    return f"{by}, a NATS server ({server})" if server else by


def _server(hello: bytes) -> str:
    """Return name and version from a NATS server's INFO, an empty string when it is none."""
    if not hello.startswith(b"INFO "):
        return ""
    try:
        info = json.loads(hello[5:])
        return f"{info['server_name']}, version {info['version']}"
    except (ValueError, KeyError, TypeError):
        return "of unknown version"


def _process(port: int) -> str:
    """Return `PID (name)` of the listener; empty where the system, or its owner, keeps that to itself."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for folder in Path("/proc").glob("[0-9]*/fd") if inodes else ():
        with contextlib.suppress(OSError):
            if any(os.readlink(entry) in inodes for entry in folder.iterdir()):
                return f"{folder.parent.name} ({(folder.parent / 'comm').read_text().strip()})"
    return ""
