"""Everything an integrator needs, with clients that know nothing of us: nats-py and JavaScript."""

import asyncio
import gzip
import hashlib
import json
import os
import shutil
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import cramjam
import pytest
from nats.errors import Error as NatsError
from nats.js.api import ConsumerConfig

from tests.barrier import settled
from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.plain import ask, connected, history, outcome, refused
from tests.end_to_end.processes import Running, lucid, until

INTEROP = Path(__file__).parents[1] / "interop"
INSTALL_S = 180
CLIENT_S = 60
SHOWN_S = 60.0
"""Bound of what must come through a restart of everything."""
CHUNK = 4096
CHUNKS, SESSIONS = 12, 3


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """Run one pipeline for the tests of this file; each has sessions of its own."""
    with Pipeline(tmp_path_factory.mktemp("plain")) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the JavaScript clients in a folder of their own; the summary names what is not tested."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node.js is missing: the JavaScript clients were NOT tested (the Python half was)")
    folder = tmp_path_factory.mktemp("integrator")
    for name in ("integrator.mjs", "package.json"):
        shutil.copy(INTEROP / name, folder)
    words = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(words, cwd=folder, check=True, timeout=INSTALL_S, stdout=subprocess.DEVNULL)
    return folder / "integrator.mjs"


Javascript = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def javascript(shared: Pipeline, node: Path) -> Javascript:
    """Run one errand of the JavaScript integrator and return what it says."""

    def run(*args: str) -> list[dict[str, Any]]:
        words = ["node", str(node), shared.url, *args]
        done = subprocess.run(words, capture_output=True, text=True, timeout=CLIENT_S, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def record(pipeline: Pipeline, session: str, data: bytes, *args: str) -> None:
    """Record `data` to the end."""
    words = [*lucid(), "record", session, "-", *args]
    env = {**pipeline.env, "NATS_URL": pipeline.url}
    subprocess.run(words, env=env, input=data, stderr=subprocess.DEVNULL, timeout=CLIENT_S, check=True)


def test_commands_and_outcomes_by_nats_py(shared: Pipeline) -> None:
    """A request is answered, a durable command leaves its outcome, accepted or rejected."""

    async def main() -> None:
        async with connected(shared.url) as client:
            made = await ask(client, "py-1", "create", {"owner": "ann"}, headers={"ce-id": "c-1"})
            assert (made["outcome"], made["command_id"], made["state"]) == ("accepted", "c-1", "created")
            refused(await ask(client, "py-1", "pause"), "illegal_transition")
            reply = await client.request("lucid.cmd.py-1.pause", b"", timeout=20)
            assert (reply.headers or {})["Nats-Service-Error-Code"] == "409"
            js = client.jetstream()
            for verb, id in (("create", "q-1"), ("start", "q-2"), ("resume", "q-3")):
                await js.publish(f"lucid.cmdq.py-2.{verb}", b"{}", headers={"Nats-Msg-Id": id})
            assert (await outcome(client, "lucid.out.py-2.q-1"))["state"] == "created"
            assert (await outcome(client, "lucid.out.py-2.q-2"))["state"] == "starting"
            refused(await outcome(client, "lucid.out.py-2.q-3"), "illegal_transition")
            assert [event.headers["Lucid-Causation"] for event in await history(client, "py-2")] == [
                "q-1",
                "q-2",
            ]

    asyncio.run(main())


def test_commands_and_outcomes_by_javascript(javascript: Javascript) -> None:
    """The same from JavaScript: answers, the error code of services, outcomes of durable commands."""
    (made,) = javascript("command", "js-1", "create", "{}")
    assert (made["outcome"], made["state"]) == ("accepted", "created")
    (answer,) = javascript("command", "js-1", "resume", "{}")
    assert (answer["error"]["code"], answer["code"]) == ("illegal_transition", "409")
    (stored,) = javascript("enqueue", "js-2", "create", '{"owner": "zoë"}', "q-1")
    assert (stored["command_id"], stored["state"]) == ("q-1", "created")
    (answer,) = javascript("enqueue", "js-2", "create", '{"ownr": 1}', "q-2")
    assert (answer["error"]["code"], answer["error"]["field"]) == ("contract", "ownr")


def test_an_id_used_for_another_session_suppresses_nothing(shared: Pipeline) -> None:
    """A durable command is not lost because another session's has its message id; a repeat is still one."""

    async def main() -> None:
        async with connected(shared.url) as client:
            js = client.jetstream()
            for session in ("same-id-1", "same-id-2", "same-id-1"):
                async with asyncio.timeout(CLIENT_S):
                    # Within the shortest window there is the server says so: the sender repeats it.
                    while (  # noqa: ASYNC110 # the window wakes nobody
                        await js.publish(f"lucid.cmdq.{session}.create", b"{}", headers={"Nats-Msg-Id": "1"})
                    ).duplicate:
                        await asyncio.sleep(0.02)
                assert (await outcome(client, f"lucid.out.{session}.1"))["state"] == "created"
            for session in ("same-id-1", "same-id-2"):
                assert [event.type for event in await history(client, session)] == ["session.created.v1"]

    asyncio.run(main())


def test_the_service_is_discovered_by_nats_py(shared: Pipeline) -> None:
    """`$SRV.PING`, `INFO` and `STATS` (what `nats micro` asks) find the service, its subjects and counts."""

    async def main() -> None:
        async with connected(shared.url) as client:
            await ask(client, "discovered", "create")
            found = {}
            for verb in ("PING", "INFO.lucid", "STATS.lucid"):
                reply = await client.request(f"$SRV.{verb}", b"", timeout=20)
                found[verb] = json.loads(reply.data)
            assert {answer["name"] for answer in found.values()} == {"lucid"}
            assert len({answer["id"] for answer in found.values()}) == 1
            subjects = {e["name"]: e["subject"] for e in found["INFO.lucid"]["endpoints"]}
            assert subjects == {"command": "lucid.cmd.>", "beat": "lucid.beat.*.*"}
            (counts,) = [e for e in found["STATS.lucid"]["endpoints"] if e["name"] == "command"]
            assert counts["num_requests"] >= 1

    asyncio.run(main())


def test_the_service_is_discovered_by_javascript(javascript: Javascript) -> None:
    """A JavaScript client finds the service and the subject that takes commands."""
    (info,) = javascript("discover")
    assert info["name"] == "lucid"
    assert "lucid.cmd.>" in {endpoint["subject"] for endpoint in info["endpoints"]}


@pytest.mark.parametrize("codec", ["gzip", "zstd", "lz4", "store"])
def test_chunks_are_read_with_nats_py_and_common_programs(
    shared: Pipeline, tmp_path: Path, codec: str, rng: Random
) -> None:
    """nats-py's own object store reads a chunk, the digest holds, and `<codec> -d` restores the bytes."""
    data = text(rng)
    record(shared, f"object-{codec}", data, "--codec", codec, "--chunk-bytes", str(len(data)))

    async def main() -> bytes:
        async with connected(shared.url) as client:
            events = await history(client, f"object-{codec}")
            (ready,) = [event.body for event in events if event.type == "chunk.ready.v1"]
            bucket = await client.jetstream().object_store(ready["bucket"])
            result = await bucket.get(ready["object"])
            stored = result.data or b""
            digest = hashlib.sha256(stored).digest()
            assert result.info.digest == f"SHA-256={urlsafe_b64encode(digest).decode()}"
            assert (digest.hex(), len(stored)) == (ready["stored_sha256"], ready["stored_size"])
            assert ready["codec"] == codec
            return stored

    assert restored(codec, asyncio.run(main()), tmp_path) == data


def test_chunks_are_read_with_javascript(
    shared: Pipeline, javascript: Javascript, tmp_path: Path, rng: Random
) -> None:
    """The JavaScript object store accepts our digest, gzip restores the bytes, the view is plain JSON."""
    data = text(rng)
    record(shared, "object-js", data, "--codec", "gzip")
    events = javascript("history", "object-js")
    (ready,) = [event["data"] for event in events if event["type"] == "chunk.ready.v1"]
    (got,) = javascript("fetch", ready["object"], str(tmp_path / "chunk.gz"))
    assert (got["sha256"], got["size"]) == (ready["stored_sha256"], ready["stored_size"])
    assert restored("gzip", (tmp_path / "chunk.gz").read_bytes(), tmp_path) == data
    (view,) = javascript("status", "object-js")
    assert (view["state"], view["raw_bytes"]) == ("stopped", len(data))


def test_a_history_is_read_in_order_by_both(shared: Pipeline, javascript: Javascript) -> None:
    """A pull consumer of nats-py and an ordered consumer of JavaScript read the history our replay prints."""
    record(shared, "both", b"h" * 3 * CHUNK, "--chunk-bytes", str(CHUNK))
    ours = [json.loads(line) for line in shared.cli("replay", "both", "--json").stdout.splitlines()]

    async def main() -> list[tuple[int, str, str]]:
        async with connected(shared.url) as client:
            return [(e.sequence, e.type, e.headers["ce-id"]) for e in await history(client, "both")]

    expected = [(event["sequence"], event["type"], event["id"]) for event in ours]
    assert asyncio.run(main()) == expected
    assert [(e["sequence"], e["type"], e["id"]) for e in javascript("history", "both")] == expected


def test_ready_chunks_are_followed_live(shared: Pipeline) -> None:
    """A plain subscription to the live feed hears of each chunk of every session as it is stored."""

    async def main() -> list[str]:
        async with connected(shared.url) as client:
            feed = await client.subscribe("lucid.live.evt.*.chunk.ready")
            await settled(client)
            await asyncio.to_thread(record, shared, "live", b"l" * 3 * CHUNK, "--chunk-bytes", str(CHUNK))
            heard = [await feed.next_msg(timeout=SHOWN_S) for _ in range(3)]
            assert {message.subject for message in heard} == {"lucid.live.evt.live.chunk.ready"}
            assert all(int((message.headers or {})["Nats-Sequence"]) > 0 for message in heard)
            return sorted((message.headers or {})["ce-id"] for message in heard)

    ids = asyncio.run(main())
    replayed = (json.loads(x) for x in shared.cli("replay", "live", "--json").stdout.splitlines())
    assert ids == sorted(e["id"] for e in replayed if e["type"] == "chunk.ready.v1")


def test_ready_chunks_are_followed_live_by_javascript(shared: Pipeline, node: Path) -> None:
    """The same from JavaScript."""
    following = shared.spawn("live", "3", words=["node", str(node), shared.url])
    following.says("listening")
    record(shared, "live-js", b"l" * 3 * CHUNK, "--chunk-bytes", str(CHUNK))
    assert following.wait() == 0
    heard = [json.loads(line) for line in following.out.splitlines()[1:]]
    assert [(h["session"], h["type"]) for h in heard] == [("live-js", "chunk.ready.v1")] * 3


async def follow(url: str, durable: str, seen: list[tuple[str, int]], enough: asyncio.Event) -> None:
    """Take ready chunks from a durable consumer through whatever happens to the server."""
    async with connected(url) as client:
        js = client.jetstream()
        config = ConsumerConfig(durable_name=durable, filter_subject="lucid.evt.*.chunk.ready", ack_wait=5)
        await js.add_consumer("LUCID_EVENTS", config)
        reading = await js.pull_subscribe_bind(durable, "LUCID_EVENTS")
        while not enough.is_set():
            try:
                for message in await reading.fetch(16, timeout=1):
                    seen.append((message.subject.split(".")[2], json.loads(message.data)["index"]))
                    await message.ack()
            except (NatsError, OSError):
                continue  # nothing there, or nobody there: both pass


@pytest.mark.slow
@pytest.mark.parametrize("client", ["nats-py", "javascript"])
def test_no_ready_chunk_is_missed_through_a_crash(
    pipeline: Pipeline, client: str, request: pytest.FixtureRequest
) -> None:
    """A durable consumer hears of every chunk although server and workers are killed twice meanwhile."""
    following: Running | None = None
    if client == "javascript":
        script = str(request.getfixturevalue("node"))
        following = pipeline.spawn("durable", "integrator-js", words=["node", script, pipeline.url])
        following.says("listening")
    expected = {(f"crash-{number}", index) for number in range(SESSIONS) for index in range(CHUNKS)}

    async def main() -> list[tuple[str, int]]:
        seen: list[tuple[str, int]] = []
        enough = asyncio.Event()
        python = asyncio.create_task(follow(pipeline.url, "integrator-py", seen, enough))
        try:
            await asyncio.to_thread(record_through_crashes, pipeline, lambda: set(seen))
            async with asyncio.timeout(SHOWN_S):
                while not expected <= set(seen):  # noqa: ASYNC110 # a list wakes nobody
                    await asyncio.sleep(0.05)
        finally:
            enough.set()
            await python
        return seen

    seen = asyncio.run(main())
    assert set(seen) == expected
    if following is not None:

        def heard() -> set[tuple[str, int]]:
            lines = [x for x in following.out.splitlines(keepends=True)[1:] if x.endswith("\n")]
            return {(e["session"], e["data"]["index"]) for e in map(json.loads, lines)}

        until(lambda: heard() == expected, within_s=SHOWN_S, what="JavaScript has heard of every chunk")


def record_through_crashes(pipeline: Pipeline, heard: Callable[[], set[tuple[str, int]]]) -> None:
    """Record some sessions block by block; twice, in the middle of it, everything of `lucid up` is killed."""
    writes: list[int] = []
    recordings: list[Running] = []
    for number in range(SESSIONS):
        read, write = os.pipe()
        words = ("record", f"crash-{number}", "-", "--chunk-bytes", str(CHUNK))
        recordings.append(pipeline.spawn(*words, stdin=read))
        os.close(read)
        writes.append(write)
    for block in range(CHUNKS):
        for write in writes:
            os.write(write, bytes([block]) * CHUNK)
        if block in (CHUNKS // 3, 2 * CHUNKS // 3):
            some = SESSIONS * block // 2

            def under_way(least: int = some) -> bool:
                # Of each: a recorder that finds no server when it starts says so and ends.
                return len(heard()) >= least and len({session for session, _ in heard()}) == SESSIONS

            until(under_way, within_s=SHOWN_S, what="chunks of every session are heard of")
            pipeline.restart()
    for write in writes:
        os.close(write)
    assert [recording.wait(within_s=SHOWN_S) for recording in recordings] == [0] * SESSIONS


def text(rng: Random) -> bytes:
    """Return bytes that compress."""
    return b"".join(b"%d GET /item/%d 200\n" % (n, rng.randrange(1000)) for n in range(50_000))


def restored(codec: str, stored: bytes, folder: Path) -> bytes:
    """Return the raw bytes of a chunk, by the codec's own program, or a library not ours without it."""
    if codec == "store":
        return stored
    if shutil.which(codec) is not None:
        path = folder / f"chunk.{codec}"
        path.write_bytes(stored)
        with path.open("rb") as file:
            words = [codec, "-d", "-c"]
            return subprocess.run(words, stdin=file, capture_output=True, check=True, timeout=60).stdout
    if codec == "gzip":
        return gzip.decompress(stored)
    return bytes(getattr(cramjam, codec).decompress(stored))
