"""`jetstream.write_errors`: a server that can't write its store is started anew when that helps."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from lucid_events.jetstream.write_errors import restart_once_there_is_room, write_errors

FULL = b'{"status":"error","errors":[{"type":"STREAM","stream":"S","error":"S write error: no space"}]}'
MENDED_S = 20.0


@asynccontextmanager
async def monitoring(answers: list[bytes]) -> AsyncIterator[int]:
    """Answer like a server's monitoring, the last answer for ever; give the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = answers.pop(0) if len(answers) > 1 else answers[0]
        writer.write(b"HTTP/1.0 503 x\r\nContent-Type: application/json\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def test_streams_that_are_not_written_are_named() -> None:
    """Only write errors count; no answer, or another one, is none."""

    async def main() -> None:
        async with monitoring([FULL, b'{"status":"ok"}', b"not json"]) as port:
            assert await write_errors(port) == ["S write error: no space"]
            assert await write_errors(port) == []
            assert await write_errors(port) == []
        assert await write_errors(port) == []

    asyncio.run(main())


def test_a_server_is_started_anew_when_there_is_room_and_not_before(tmp_path: Path) -> None:
    """With a disk that stays full nothing is restarted; with room, once the server complains."""

    async def restarted(room_bytes: int, looks: int) -> int:
        done: list[int] = []
        enough, asked = asyncio.Event(), 0

        async def restart() -> None:
            done.append(1)
            enough.set()

        def port() -> int:
            nonlocal asked
            asked += 1
            if asked > looks:
                enough.set()
            return there

        async with monitoring([b'{"status":"ok"}', FULL]) as there:
            watch = asyncio.create_task(
                restart_once_there_is_room(tmp_path, port, restart, look_s=0.001, room_bytes=room_bytes)
            )
            async with asyncio.timeout(MENDED_S):
                await enough.wait()
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        return len(done)

    assert asyncio.run(restarted(room_bytes=1 << 62, looks=20)) == 0
    assert asyncio.run(restarted(room_bytes=0, looks=1000)) == 1
