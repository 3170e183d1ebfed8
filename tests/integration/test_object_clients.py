"""Objects between us and other clients: nats-py and, when Node.js is there, the JavaScript client."""

import asyncio
import base64
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js.errors import NotFoundError, ObjectNotFoundError
from nats.js.object_store import ObjectStore

from lucid_events.jetstream.blobs import JetStreamBlobStore
from tests.integration.faulty import deployed
from tests.nats_server import NatsServer

NAME = "s1/00000000-0123456789abcdef"
DATA = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(80_000))
"""2.5 MB that do not repeat: five pieces of ours, twenty of nats-py's."""
INTEROP = Path(__file__).parents[1] / "interop"
INSTALL_S = 180
CLIENT_S = 60


async def nats_py(server: NatsServer, bucket: str) -> tuple[Any, ObjectStore]:
    """Return nats-py's own view of the bucket, and its client to close."""
    client = await nats.connect(server.url)
    return client, await client.jetstream().object_store(bucket)


def test_nats_py_reads_what_we_write(shared_server: NatsServer) -> None:
    """The official client reads our objects, accepts their digests, and sees deletions."""

    async def main() -> None:
        async with deployed(shared_server) as (connection, subjects):
            store = JetStreamBlobStore(connection, subjects.chunks_bucket)
            made, _ = await store.put(NAME, DATA, metadata={"codec": "zstd"})
            await store.put("empty", b"", metadata={})
            client, theirs = await nats_py(shared_server, store.bucket)
            try:
                result = await theirs.get(NAME)
                assert result.data == DATA
                digest = base64.urlsafe_b64encode(bytes.fromhex(made.digest)).decode()
                assert result.info.digest == f"SHA-256={digest}"
                assert (result.info.size, result.info.chunks) == (len(DATA), made.pieces)
                assert (await theirs.get("empty")).data == b""
                assert {info.name for info in await theirs.list()} == {NAME, "empty"}
                await store.delete(NAME)
                with pytest.raises((ObjectNotFoundError, NotFoundError)):
                    await theirs.get(NAME)
            finally:
                await client.close()

    asyncio.run(main())


def test_we_read_what_nats_py_writes(shared_server: NatsServer) -> None:
    """Objects of the official client are read whole, by range and as a stream, with its piece size."""

    async def main() -> None:
        async with deployed(shared_server) as (connection, subjects):
            store = JetStreamBlobStore(connection, subjects.chunks_bucket)
            client, theirs = await nats_py(shared_server, store.bucket)
            try:
                await theirs.put(NAME, DATA)
                await theirs.put("empty", b"")
            finally:
                await client.close()
            assert await store.get(NAME) == DATA
            assert await store.get("empty") == b""
            assert await store.get(NAME, start=1_000_000, end=2_000_001) == DATA[1_000_000:2_000_001]
            assert b"".join([part async for part in store.stream(NAME)]) == DATA
            info = await store.info(NAME)
            assert info is not None
            assert (info.size, info.digest) == (len(DATA), hashlib.sha256(DATA).hexdigest())
            assert [found.name async for found in store.names()] == [NAME, "empty"]
            assert await store.delete(NAME) is True

    asyncio.run(main())


@pytest.fixture(scope="module")
def javascript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the JavaScript client in a folder of its own."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node.js is missing: the JavaScript client was NOT tested; install node and npm to do so")
    folder = tmp_path_factory.mktemp("interop")
    for file in INTEROP.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=folder,
        check=True,
        timeout=INSTALL_S,
        stdout=subprocess.DEVNULL,
    )
    return folder


def test_the_javascript_client_reads_and_is_read(shared_server: NatsServer, javascript: Path) -> None:
    """An independent client reads our objects and accepts their digests, and we read its objects."""

    async def main() -> None:
        async with deployed(shared_server) as (connection, subjects):
            store = JetStreamBlobStore(connection, subjects.chunks_bucket)

            async def run(*arguments: str) -> dict[str, Any]:
                process = await asyncio.create_subprocess_exec(
                    "node",
                    str(javascript / "objects.mjs"),
                    shared_server.url,
                    store.bucket,
                    *arguments,
                    stdout=asyncio.subprocess.PIPE,
                )
                async with asyncio.timeout(CLIENT_S):
                    said, _ = await process.communicate()
                assert process.returncode == 0
                return dict(json.loads(said))

            made, _ = await store.put(NAME, DATA, metadata={"codec": "zstd"})
            got = await run("get", NAME)
            assert (got["size"], got["sha256"]) == (len(DATA), made.digest)
            assert got["metadata"] == {"codec": "zstd"}
            await run("put", "from js", "1000000")
            data = bytes(number % 251 for number in range(1_000_000))
            assert await store.get("from js") == data
            assert await store.get("from js", start=500_000, end=500_100) == data[500_000:500_100]
            info = await store.info("from js")
            assert info is not None
            assert info.metadata == {"from": "js"}
            assert await store.delete(NAME)
            assert await run("status", NAME) == {"found": True, "deleted": True}
            assert (await run("list"))["names"] == ["from js"]

    asyncio.run(main())
