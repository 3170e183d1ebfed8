"""Clients of the HTTP services in processes of their own: who pushes bytes, and who asks for the status.

    python -m bench.http_clients push  <JSON of a Load>
    python -m bench.http_clients probe <JSON of a Probe>

They speak HTTP/1.1 themselves, because a client library takes as long for a request as the service does,
and there are two cores for everything. A request is due at a time of the clock and its latency counts from
there: else a client that waits for a slow answer leaves out the requests it did not send meanwhile.
"""

import asyncio
import hashlib
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
import uvloop

ANSWER_S = 70.0
"""Longest wait for an answer; the service gives up on its server after 60 s and says so."""
POOL_BYTES = 4 * 1024 * 1024
"""What sessions take their bytes from, each from places of its own."""


class Load(msgspec.Struct, kw_only=True):
    """Sessions that push `piece_bytes` every `every_s` for `seconds`, spread over the time between two."""

    host: str
    port: int
    sessions: list[str]
    seconds: float
    piece_bytes: int
    every_s: float
    seed: int


class Pushed(msgspec.Struct, kw_only=True):
    """What was pushed: SHA-256 by session, and how long each answer took; what went wrong in words."""

    sha256: dict[str, str] = {}
    bytes: int = 0
    seconds: float = 0.0
    latencies_s: list[float] = []
    errors: list[str] = []


class Probe(msgspec.Struct, kw_only=True):
    """One of `sessions` asked for its status `per_second` times, for `seconds`."""

    host: str
    port: int
    sessions: list[str]
    seconds: float
    per_second: float


class Probed(msgspec.Struct, kw_only=True):
    """How long each answer took."""

    latencies_s: list[float] = []
    errors: list[str] = []


class Connection:
    """One kept-alive connection; requests go one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader, self._writer, self._host = reader, writer, host

    async def ask(
        self, method: str, target: str, body: bytes = b"", kind: str = "application/octet-stream"
    ) -> tuple[int, bytes]:
        """Return the status and the body of the answer."""
        head = f"{method} {target} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(body)}\r\n"
        if body:
            head += f"Content-Type: {kind}\r\n"
        async with asyncio.timeout(ANSWER_S):
            self._writer.write(head.encode() + b"\r\n")
            self._writer.write(body)
            await self._writer.drain()
            lines = (await self._reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            length = next(int(x[15:]) for x in lines if x.lower().startswith(b"content-length:"))
            return int(lines[0].split()[1]), await self._reader.readexactly(length)


@asynccontextmanager
async def connected(host: str, port: int) -> AsyncIterator[Connection]:
    """Give a connection for the time of the context."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield Connection(reader, writer, f"{host}:{port}")
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def pool(seed: int) -> bytes:
    """Return bytes of which a codec saves about half: words between noise."""
    rng = random.Random(seed)
    made = bytearray()
    while len(made) < POOL_BYTES:
        made += rng.randbytes(2048) + b"".join(b"%08d " % rng.randrange(1000) for _ in range(228))
    return bytes(made[:POOL_BYTES])


async def push(load: Load) -> Pushed:
    """Push what `load` says; a session ends at its first error, which is reported."""
    done, data = Pushed(), memoryview(pool(load.seed))
    began = time.monotonic()

    async def one(number: int, session: str) -> None:
        rng = random.Random(load.seed + number)
        digest, offset = hashlib.sha256(), 0
        due = began + load.every_s * number / len(load.sessions)
        try:
            async with connected(load.host, load.port) as connection:
                for _ in range(round(load.seconds / load.every_s)):
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                    at = rng.randrange(len(data) - load.piece_bytes)
                    piece = bytes(data[at : at + load.piece_bytes])
                    status, said = await connection.ask(
                        "POST", f"/chunks/{session}/process?offset={offset}&wait=0", piece
                    )
                    done.latencies_s.append(time.monotonic() - due)
                    if status != 200:
                        done.errors.append(f"{session} at {offset}: {status} {said[:500].decode()}")
                        return
                    digest.update(piece)
                    offset += len(piece)
                    due += load.every_s
        except (OSError, EOFError, TimeoutError) as exc:
            done.errors.append(f"{session} at {offset}: {exc!r}")
        finally:
            done.sha256[session] = digest.hexdigest()
            done.bytes += offset

    await asyncio.gather(*(one(number, session) for number, session in enumerate(load.sessions)))
    done.seconds = time.monotonic() - began
    return done


async def probe(asked: Probe) -> Probed:
    """Ask as `asked` says."""
    done, rng = Probed(), random.Random(1)
    due = time.monotonic()
    end = due + asked.seconds
    async with connected(asked.host, asked.port) as connection:
        while due < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            session = rng.choice(asked.sessions)
            status, said = await connection.ask("GET", f"/pipelines/{session}/status")
            done.latencies_s.append(time.monotonic() - due)
            if status != 200 or b'"active"' not in said:
                done.errors.append(f"{session}: {status} {said[:500].decode()}")
            due += 1 / asked.per_second
    return done


def main() -> None:
    what, asked = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        done = (
            runner.run(push(msgspec.json.decode(asked, type=Load)))
            if what == "push"
            else runner.run(probe(msgspec.json.decode(asked, type=Probe)))
        )
    sys.stdout.buffer.write(msgspec.json.encode(done) + b"\n")


if __name__ == "__main__":
    main()
