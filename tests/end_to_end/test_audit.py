"""`lucid audit verify` and `lucid keys` as an auditor uses them, and what a viewer leaves behind."""

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lucid_events.domain.values import MIB
from lucid_events.jetstream.blobs import JetStreamBlobStore
from lucid_events.jetstream.bucket import Bucket
from lucid_events.jetstream.connection import connect
from lucid_events.jetstream.options import NatsOptions
from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import until

CHUNK = 40_000
DATA = bytes(range(256)) * 800
CHUNKS = -(-len(DATA) // CHUNK)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """Run a pipeline that signs, with two recordings in it."""
    folder = tmp_path_factory.mktemp("audit")
    seed, keys = folder / "seed", folder / "keys.json"
    env = {"LUCID_SIGNING_SEED": str(seed), "LUCID_SIGNING_KEYS": str(keys)}
    pipeline = Pipeline(folder, env)
    pipeline.port = 1  # no server is needed for keys
    pipeline.cli("keys", "generate", "--note", "first")
    pipeline.port = 0
    (folder / "bytes").write_bytes(DATA)
    with pipeline:
        for session in ("one", "two"):
            record(pipeline, session)
        yield pipeline


def record(pipeline: Pipeline, session: str) -> None:
    """Record `DATA` as `session`."""
    pipeline.cli("record", session, str(pipeline.folder / "bytes"), "--chunk-bytes", str(CHUNK))


def said(pipeline: Pipeline, *args: str, code: int = 0) -> list[dict[str, Any]]:
    """Return the objects that a command prints with --json, which has to end with `code`."""
    done = pipeline.cli(*args, "--json", check=False)
    assert done.returncode == code, (args, done.stdout, done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


async def delete(url: str, name: str) -> None:
    """Take an object's metadata away."""
    async with connect(NatsOptions(servers=(url,))) as connection:
        bucket = Bucket(connection, "lucid-chunks")
        entry = await bucket.entry(name)
        await connection.api(f"STREAM.MSG.DELETE.{bucket.stream}", {"seq": entry.sequence})


def test_a_recording_is_verified(shared: Pipeline) -> None:
    """A good session says so in a line, and in JSON says what was checked and who signed it."""
    (key,) = said(shared, "keys", "show")[0]["keys"]
    done = shared.cli("audit", "verify", "one", "--require-signature")
    assert done.stdout.startswith("one: holds (stopped, ")
    assert f"{CHUNKS} of {CHUNKS} chunks" in done.stdout
    assert f"signed by {key['key']}" in done.stdout
    (report,) = said(shared, "audit", "verify", "one", "--require-signature")
    assert (report["holds"], report["chunks"], report["raw_bytes"]) == (True, CHUNKS, len(DATA))
    assert report["signature"] == {"verdict": "signed", "key": key["key"], "manifest": 1}


def test_all_sessions_are_those_of_the_log(shared: Pipeline) -> None:
    """--all goes by the log, --since by when something happened last, and nothing is left out."""
    assert {one["session"] for one in said(shared, "audit", "verify", "--all")} >= {"one", "two"}
    for never in ("2100-01-01", "2999-01-01"):
        assert said(shared, "audit", "verify", "--since", never) == []
    assert len(said(shared, "audit", "verify", "--since", "2020-01-01")) >= 2


def test_a_sample_is_drawn_by_its_seed(shared: Pipeline) -> None:
    """The same seed looks at the same chunks, a part of them; the seed is told, so it can be repeated."""

    def looked(seed: str) -> int:
        (report,) = said(shared, "audit", "verify", "one", "--sample", "50%", "--seed", seed)
        assert report["ready"] == CHUNKS
        return int(report["chunks"])

    seeds = [str(number) for number in range(8)]
    first = [looked(seed) for seed in seeds]
    assert [looked(seed) for seed in seeds[:2]] == first[:2]
    assert len(set(first)) > 1
    assert 0 < sum(first) < CHUNKS * len(seeds)
    done = shared.cli("audit", "verify", "one", "--sample", "1%")
    assert "--seed " in done.stderr


def test_what_was_lost_is_named_and_ends_with_seven(shared: Pipeline) -> None:
    """A chunk that is gone: status 7, and the line says which object of which chunk; others still hold."""
    record(shared, "lossy")
    ready = [e["data"] for e in said(shared, "replay", "lossy") if e["type"] == "chunk.ready.v1"]
    asyncio.run(delete(shared.url, ready[2]["object"]))
    done = shared.cli("audit", "verify", "lossy", "one", check=False)
    assert done.returncode == 7
    assert "lossy: DOES NOT HOLD, 1 difference (" in done.stdout
    assert f"object_missing: session lossy, chunk {ready[2]['index']}, object lucid-chunks/" in done.stdout
    assert "one: holds" in done.stdout
    reports = {one["session"]: one for one in said(shared, "audit", "verify", "--all", code=7)}
    assert not reports["lossy"]["holds"]
    assert reports["one"]["holds"]


def test_a_session_that_is_recorded_holds_so_far(shared: Pipeline) -> None:
    """Verifying while chunks come in finds nothing wrong: what is there at that moment is whole."""
    reading, writing = os.pipe()
    recorder = shared.spawn("record", "live", "-", "--chunk-bytes", "5000", stdin=reading)
    os.close(reading)
    with open(writing, "wb") as feed:
        for turn in range(5):
            feed.write(os.urandom(20_000))
            feed.flush()
            enough = 4 * turn + 3  # the rest of a turn may wait for the next one
            until(lambda: ready(shared, "live") >= enough, within_s=30.0, what="chunks are ready")  # noqa: B023 - called at once
            (report,) = said(shared, "audit", "verify", "live", "--require-signature")
            assert report["holds"], report
            assert report["chunks"] == report["ready"] >= enough
            assert "no manifest" in report["remarks"][0]["reason"]
    assert recorder.wait() == 0
    (report,) = said(shared, "audit", "verify", "live", "--require-signature")
    assert (report["holds"], report["raw_bytes"], report["signature"]["verdict"]) == (True, 100_000, "signed")


def ready(pipeline: Pipeline, session: str) -> int:
    """Return how many chunks of a session are ready, as its history says."""
    done = pipeline.cli("replay", session, "--json", check=False)
    return done.stdout.count('"chunk.ready.v1"')


@pytest.mark.slow
def test_memory_does_not_depend_on_the_size_of_a_chunk(shared: Pipeline, tmp_path: Path) -> None:
    """Chunks of 64 MiB that do not compress are verified in less than 200 MiB, the interpreter included."""
    with (tmp_path / "noise").open("wb") as file:
        for _ in range(128):
            file.write(os.urandom(MIB))
    shared.cli("record", "large", str(tmp_path / "noise"), "--chunk-bytes", str(64 * MIB), within_s=100)
    verifying = shared.spawn("audit", "verify", "large", "--json")
    peaks = [0]

    def ended() -> bool:
        with suppress(OSError, StopIteration):  # it ended between the question and the answer
            peaks.append(verifying.peak_bytes)
        return verifying.code is not None

    until(ended, within_s=60.0, what="it is verified")
    report = json.loads(verifying.out)
    assert (report["holds"], report["raw_bytes"]) == (True, 128 * MIB)
    assert 0 < max(peaks) < 200 * MIB
    shared.cli("cleanup", "large")


def test_an_object_that_no_history_knows_is_named(shared: Pipeline) -> None:
    """A copy of a chunk under another name is a remark of --all, with its name; nothing else is."""
    ready = [e["data"] for e in said(shared, "replay", "one") if e["type"] == "chunk.ready.v1"]
    name = f"{ready[0]['object'][:-1]}-copy"
    asyncio.run(copy(shared.url, ready[0]["object"], name))
    done = shared.cli("audit", "verify", "--all", "--json", check=False)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    logs = [one["log"] for one in told if "log" in one]
    assert [remark["object"] for log in logs for remark in log["remarks"]] == [f"lucid-chunks/{name}"]
    asyncio.run(delete(shared.url, name))


async def copy(url: str, name: str, other: str) -> None:
    """Put an object again under another name."""
    async with connect(NatsOptions(servers=(url,))) as connection:
        store = JetStreamBlobStore(connection, "lucid-chunks")
        await store.put(other, await store.get(name), metadata={})


def test_an_erased_session_still_holds(shared: Pipeline) -> None:
    """Erasing the bytes on purpose leaves a history that verifies, and says how many chunks are gone."""
    record(shared, "erased")
    shared.cli("cleanup", "erased")
    shared.cli("status", "erased", "--watch")
    (report,) = said(shared, "audit", "verify", "erased", "--require-signature")
    assert (report["holds"], report["chunks"], report["erased"], report["left"]) == (True, 0, CHUNKS, 0)
    assert report["state"] == "destroyed"


def test_what_an_erasure_left_is_named_and_ends_with_seven(shared: Pipeline) -> None:
    """An object of a destroyed session is found by verifying that session alone, and told once by --all."""
    record(shared, "left")
    ready = [e["data"] for e in said(shared, "replay", "left") if e["type"] == "chunk.ready.v1"]
    shared.cli("cleanup", "left")
    shared.cli("status", "left", "--watch")
    (report,) = said(shared, "audit", "verify", "left")
    assert (report["state"], report["left"]) == ("destroyed", 0)
    asyncio.run(put(shared.url, ready[1]["object"]))
    done = shared.cli("audit", "verify", "left", check=False)
    assert done.returncode == 7
    place = f"chunk {ready[1]['index']}, object lucid-chunks/{ready[1]['object']}"
    assert f"  object_left: session left, {place}: " in done.stdout
    everything = shared.cli("audit", "verify", "--all", check=False)
    assert (everything.returncode, everything.stdout.count(ready[1]["object"])) == (7, 1)
    asyncio.run(delete(shared.url, ready[1]["object"]))
    assert said(shared, "audit", "verify", "left")[0]["holds"]


async def put(url: str, name: str) -> None:
    """Put an object under a name."""
    async with connect(NatsOptions(servers=(url,))) as connection:
        await JetStreamBlobStore(connection, "lucid-chunks").put(name, b"left", metadata={})


def test_a_bundle_of_an_open_session_is_not_signed(shared: Pipeline, tmp_path: Path) -> None:
    """Without a manifest a bundle may be of anything: it holds, but not where a signature is required."""
    shared.cli("create", "open")
    place = str(tmp_path / "open.tar")
    shared.cli("audit", "export", "open", "-o", place)
    keys = shared.env["LUCID_SIGNING_KEYS"]
    assert "no manifest" in shared.cli("audit", "verify", place, "--keys", keys).stdout
    refused = shared.cli("audit", "verify", place, "--keys", keys, "--require-signature", check=False)
    assert refused.returncode == 7
    assert "unsigned: created, and has no manifest" in refused.stderr
    (tmp_path / "cut.tar").write_bytes(Path(place).read_bytes()[:-1])
    both = shared.cli("audit", "verify", str(tmp_path / "cut.tar"), place, check=False)
    assert (both.returncode, "open.tar: holds" in both.stdout) == (7, True)
    assert "cut.tar: byte " in both.stderr
    assert said(shared, "audit", "verify", "open", "--require-signature")[0]["holds"]


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ((), 2),
        (("one", "--all"), 2),
        (("--since", "yesterday"), 2),
        (("--since", "17"), 2),
        (("one", "--sample", "0%"), 2),
        (("one", "--sample", "200%"), 2),
        (("one", "--keys", "nowhere.json"), 2),
        (("no such session",), 2),
        (("nothing",), 3),
    ],
)
def test_what_can_not_be_asked_is_refused(shared: Pipeline, args: tuple[str, ...], code: int) -> None:
    """A question that makes no sense ends with its own status and an error in one line."""
    done = shared.cli("audit", "verify", *args, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error (")


def test_a_rotated_key_is_taken_up_and_the_old_one_stays_good(shared: Pipeline, tmp_path: Path) -> None:
    """After a rotation new recordings are signed by the new key; what the old one signed still holds."""
    before = said(shared, "keys", "show")[0]["signing"]
    (rotated,) = said(shared, "keys", "rotate", "--note", "second")
    assert rotated["retired"] == before
    record(shared, "later")
    reports = said(shared, "audit", "verify", "one", "later", "--require-signature")
    assert [one["signature"]["key"] for one in reports] == [before, rotated["key"]]
    assert all(one["holds"] for one in reports)
    listed = {one["key"]: one for one in said(shared, "keys", "show")[0]["keys"]}
    assert (listed[before]["retired"], listed[rotated["key"]]["retired"]) == (True, False)

    seed = Path(shared.env["LUCID_SIGNING_SEED"])
    assert "signs" in shared.cli("keys", "show").stdout
    assert seed.read_text().strip() not in shared.cli("keys", "show").stdout
    again = shared.cli("keys", "generate", check=False)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    shutil.copy(seed, tmp_path / "open")
    (tmp_path / "open").chmod(0o644)
    loose = shared.cli("keys", "show", "--seed", str(tmp_path / "open"), check=False)
    assert loose.returncode == 2
    assert "chmod 600" in loose.stderr


def test_whoever_plays_a_recording_is_in_its_history(shared: Pipeline) -> None:
    """Playing writes `session.viewed` with who and from where, before the bytes, once in five minutes."""
    record(shared, "seen")
    for start in ("100", "200"):
        shared.cli("play", "seen", "-o", "/dev/null", "--from", start, env={"LUCID_ACTOR": "ann"})
    shared.cli("play", "seen", "-o", "/dev/null", env={"LUCID_ACTOR": "ben"})
    viewed = [e for e in said(shared, "replay", "seen") if e["type"] == "session.viewed.v1"]
    assert [(e["actor"], e["data"]["start"]) for e in viewed] == [
        ("unverified:ann", 100),
        ("unverified:ben", 0),
    ]
    assert said(shared, "audit", "verify", "seen", "--require-signature")[0]["holds"]
