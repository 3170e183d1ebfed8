"""Audit bundles: made by the command, judged by us and by a checker that shares no code with us."""

import ast
import asyncio
import base64
import gzip
import io
import json
import random
import shutil
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from lucid_events.config import Settings
from lucid_events.domain.ids import SessionId
from lucid_events.domain.values import MIB
from lucid_events.errors import IntegrityError
from lucid_events.service.adapters import open_adapters
from lucid_events.service.bundles import verify_bundle
from lucid_events.service.exporting import export
from tests.end_to_end.bundles import (
    CHECKER,
    CHUNK_BYTES,
    CHUNKS,
    Recorded,
    ours,
    packed,
    recording,
    refused,
    unpacked,
)
from tests.end_to_end.processes import ROOT

CHECK_S = 60.0


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """Record one session for the tests of this file."""
    with recording(tmp_path_factory.mktemp("bundles")) as found:
        yield found


# what holds


def test_a_bundle_holds_without_a_server_or_settings(recorded: Recorded, tmp_path: Path) -> None:
    """The command and the independent checker accept a bundle in an empty place, with only the file."""
    place = tmp_path / "bundle.tar"
    place.write_bytes(recorded.whole)
    command = [str(Path(sys.executable).parent / "lucid"), "audit", "verify", str(place), "--json"]
    env = {"PATH": "/usr/bin:/bin", "NATS_URL": "nats://127.0.0.1:1", "LUCID_CHUNK_SIZE_MB": "wrong"}
    done = subprocess.run(command, capture_output=True, env=env, cwd=tmp_path, timeout=CHECK_S, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["session"] == "s1"
    assert said["chunks"] == {"first": 0, "last": CHUNKS - 1, "included": CHUNKS, "ready": CHUNKS}
    assert said["raw_bytes"] == len(recorded.source)
    assert (said["signature"]["verdict"], said["signature"]["key"]) == ("unlisted", recorded.key)
    checker = [sys.executable, str(ROOT / "examples" / "check_bundle.py"), str(place), recorded.key]
    other = subprocess.run(checker, capture_output=True, cwd=tmp_path, timeout=CHECK_S, check=False)
    assert other.returncode == 0, other.stderr
    assert f"signed by {recorded.key}".encode() in other.stdout


def test_an_excerpt_holds_and_says_that_it_is_one(recorded: Recorded) -> None:
    """Chunks 2 to 4 are proven to be under the signed root, and nobody is told that they are everything."""
    report = ours(recorded.excerpt, recorded.folder, keys=recorded.trusted(), require_signature=True)
    assert (report.chunks.first, report.chunks.last, report.chunks.included, report.chunks.ready) == (
        2,
        4,
        3,
        7,
    )
    assert (report.signature.verdict, report.unproven) == ("signed", 0)
    CHECKER.check_bundle(io.BytesIO(recorded.excerpt), recorded.key)
    members = unpacked(recorded.excerpt)
    assert [name for name in members if name.startswith("chunks/")] == [
        "chunks/00000002.gz",
        "chunks/00000003",
        "chunks/00000004.gz",
    ]


def test_any_tar_program_and_gzip_restore_the_recording(recorded: Recorded) -> None:
    """What the README of a bundle says works: unpack, check the sums, restore, join."""
    with tarfile.open(fileobj=io.BytesIO(recorded.whole)) as tar:
        names = tar.getnames()
        files = {name: (tar.extractfile(name) or io.BytesIO()).read() for name in names}
    assert names == sorted(names, key=names.index)
    raw = [
        gzip.decompress(files[name]) if name.endswith(".gz") else files[name]
        for name in names
        if name.startswith("chunks/")
    ]
    assert b"".join(raw) == recorded.source
    place = recorded.folder / "unpacked"
    place.mkdir()
    subprocess.run(["tar", "xf", str(recorded.folder / "whole.tar"), "-C", str(place)], check=True)
    subprocess.run(["sha256sum", "-c", "--strict", "--quiet", "SHA256SUMS"], cwd=place, check=True)


def test_equal_contents_are_equal_bytes(recorded: Recorded) -> None:
    """A second export, and a bundle put together again member by member, are the same file."""
    again = recorded.folder / "again.tar"
    recorded.pipeline.cli("audit", "export", "s1", "-o", str(again))
    assert again.read_bytes() == recorded.whole == packed(unpacked(recorded.whole))


def test_headers_and_bodies_are_exact(recorded: Recorded) -> None:
    """Each line of the history digests to what the server's event digests to."""
    shown = recorded.pipeline.cli("replay", "s1", "--json").stdout.splitlines()
    lines = unpacked(recorded.whole)["events.jsonl"].splitlines()
    assert len(shown) == len(lines)
    for event, line in zip(map(json.loads, shown), map(json.loads, lines), strict=True):
        assert event["sequence"] == line["sequence"]
        made = CHECKER.event_digest(line["subject"], line["headers"], line["body"].encode())
        assert made == event["digest"]


def test_a_session_that_was_never_stopped_can_be_exported(recorded: Recorded) -> None:
    """Without a manifest the bundle has none, and nothing that would need one; it says so."""
    recorded.pipeline.cli("create", "open")
    place = recorded.folder / "open.tar"
    said = recorded.pipeline.cli("audit", "export", "open", "-o", str(place))
    assert "never stopped" in said.stderr
    report = ours(place.read_bytes(), recorded.folder)
    assert (report.chunks.included, report.signature.verdict) == (0, "no_manifest")
    CHECKER.check_bundle(io.BytesIO(place.read_bytes()), None)
    assert list(unpacked(place.read_bytes())) == ["README.md", "events.jsonl", "bundle.json"]


def test_what_was_erased_stands_as_hashes(recorded: Recorded) -> None:
    """A destroyed session's bundle holds its history, signed manifest included, and no chunk."""
    pipeline = recorded.pipeline
    pipeline.cli("create", "gone", "--chunk-bytes", str(CHUNK_BYTES))
    pipeline.cli("record", "gone", str(recorded.folder / "source"))
    pipeline.cli("cleanup", "gone")
    pipeline.cli("status", "gone")
    place = recorded.folder / "gone.tar"
    pipeline.cli("audit", "export", "gone", "-o", str(place))
    report = ours(place.read_bytes(), recorded.folder, keys=recorded.trusted(), require_signature=True)
    assert (report.chunks.included, report.chunks.ready) == (0, CHUNKS)
    CHECKER.check_bundle(io.BytesIO(place.read_bytes()), recorded.key)
    refusal = pipeline.cli("audit", "export", "gone", "--from", "1", "-o", str(place), check=False)
    assert refusal.returncode == 2
    assert "none has bytes" in refusal.stderr


def test_strays_are_kept_as_they_are(recorded: Recorded, tmp_path: Path) -> None:
    """Messages that are no events, text and bytes, are in the bundle, which holds where they are allowed."""
    recorded.pipeline.cli("create", "strays")
    asyncio.run(_publish(recorded.pipeline.url, "lucid.evt.strays.noise", b"text", b"\xff\x00bytes"))
    place = tmp_path / "strays.tar"
    recorded.pipeline.cli("audit", "export", "strays", "-o", str(place))
    with pytest.raises(IntegrityError, match="foreign_message"):
        ours(place.read_bytes(), recorded.folder)
    report = ours(place.read_bytes(), recorded.folder, allow_strays=True)
    assert (report.strays, len(report.remarks)) == (2, 2)
    bodies = [json.loads(line) for line in unpacked(place.read_bytes())["events.jsonl"].splitlines()]
    assert bodies[1]["body"] == "text"
    assert base64.b64decode(bodies[2]["body_base64"]) == b"\xff\x00bytes"
    CHECKER.check_bundle(io.BytesIO(place.read_bytes()), None)


def test_the_largest_message_there_can_be_is_read_again(recorded: Recorded, tmp_path: Path) -> None:
    """A payload near the server's limit, of characters that take six bytes: what is written is read."""
    recorded.pipeline.cli("create", "large")
    body = b"\x01" * (2 * MIB - 1024)
    asyncio.run(_publish(recorded.pipeline.url, "lucid.evt.large.noise", body))
    place = tmp_path / "large.tar"
    recorded.pipeline.cli("audit", "export", "large", "-o", str(place))
    assert place.stat().st_size > 6 * len(body)
    assert ours(place.read_bytes(), recorded.folder, allow_strays=True).strays == 1
    CHECKER.check_bundle(io.BytesIO(place.read_bytes()), None)


@pytest.mark.parametrize("codec", ["gzip", "zstd", "lz4", "store"])
def test_chunks_of_every_codec_pass_both(recorded: Recorded, tmp_path: Path, codec: str) -> None:
    """What a codec stores is restored by us and by its own tool; a changed byte of it is refused by both."""
    if codec in ("zstd", "lz4") and shutil.which(codec) is None:
        pytest.skip(f"the program {codec}, which the independent checker runs, is not installed")
    place, source = tmp_path / "b.tar", tmp_path / "source"
    source.write_bytes(b"compresses well, " * (3 * CHUNK_BYTES // 17))
    recorded.pipeline.cli("create", codec, "--chunk-bytes", str(CHUNK_BYTES), "--codec", codec)
    recorded.pipeline.cli("record", codec, str(source))
    recorded.pipeline.cli("audit", "export", codec, "-o", str(place))
    report = ours(place.read_bytes(), recorded.folder, keys=recorded.trusted(), require_signature=True)
    assert (report.chunks.included, report.raw_bytes) == (3, source.stat().st_size)
    CHECKER.check_bundle(io.BytesIO(place.read_bytes()), recorded.key)
    members = unpacked(place.read_bytes())
    chunks = [name for name in members if name.startswith("chunks/")]
    assert chunks == [f"chunks/{n:08d}{CHECKER.SUFFIX[codec]}" for n in range(3)]
    stored = members[chunks[1]]
    changed = packed({**members, chunks[1]: stored[:-9] + bytes([stored[-9] ^ 1]) + stored[-8:]})
    assert "chunk 1: the stored bytes are not what event" in refused(changed, recorded.folder)


def test_a_damaged_history_is_exported_as_it_stands(recorded: Recorded, tmp_path: Path) -> None:
    """An event that nobody can read is in the bundle, and whoever verifies it is told where."""
    recorded.pipeline.cli("create", "damaged")
    names = ("ce-id", "ce-time", "Lucid-Causation", "Lucid-Prev")
    forged = dict.fromkeys(names, "x") | {"ce-specversion": "1.0", "ce-type": "session.eaten.v9"}
    forged["ce-subject"] = "damaged"
    asyncio.run(_publish(recorded.pipeline.url, "lucid.evt.damaged.session.eaten", b"{}", headers=forged))
    place = tmp_path / "damaged.tar"
    asyncio.run(_export(recorded.pipeline.url, SessionId("damaged"), place))
    assert "events.jsonl, line 2: event_unreadable: " in refused(place.read_bytes(), recorded.folder)


def test_a_chunk_that_is_gone_stops_an_export(recorded: Recorded, tmp_path: Path) -> None:
    """A bundle is not made without a chunk it should have; the others can be exported by themselves."""
    recorded.pipeline.cli("create", "holed", "--chunk-bytes", str(CHUNK_BYTES))
    recorded.pipeline.cli("record", "holed", str(recorded.folder / "source"))
    asyncio.run(_delete_object(recorded.pipeline.url, "holed/00000003"))
    place = tmp_path / "holed.tar"
    done = recorded.pipeline.cli("audit", "export", "holed", "-o", str(place), check=False)
    assert done.returncode == 7
    assert "chunk 3 of holed can't be exported" in done.stderr
    assert not list(tmp_path.iterdir())
    recorded.pipeline.cli("audit", "export", "holed", "--from", "4", "-o", str(place))
    assert ours(place.read_bytes(), recorded.folder).chunks.first == 4


def test_memory_is_that_of_a_few_pieces(recorded: Recorded, tmp_path: Path) -> None:
    """Forty chunks of a megabyte are exported and verified with the memory of a few pieces of one."""
    big, place = tmp_path / "big", tmp_path / "big.tar"
    big.write_bytes(random.Random(11).randbytes(40 * MIB))
    recorded.pipeline.cli("create", "big", "--chunk-bytes", str(MIB))
    recorded.pipeline.cli("record", "big", str(big))
    tracemalloc.start()
    try:
        asyncio.run(_export(recorded.pipeline.url, SessionId("big"), place))
        exported = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        report = verify_bundle(place)
        verified = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (report.chunks.included, report.raw_bytes) == (40, 40 * MIB)
    assert place.stat().st_size > 40 * MIB
    assert exported < 20 * MIB, "what the imports take is part of it"
    assert verified < 12 * MIB


async def _publish(url: str, subject: str, *bodies: bytes, headers: dict[str, str] | None = None) -> None:
    async with open_adapters(Settings(nats_url=url), name="test") as adapters:
        for body in bodies:
            await adapters.connection.publish_acked(subject, body, headers=headers)


async def _delete_object(url: str, prefix: str) -> None:
    async with open_adapters(Settings(nats_url=url), name="test") as adapters:
        names = [found.name async for found in adapters.chunks.names(prefix)]
        assert len(names) == 1
        assert await adapters.chunks.delete(names[0])


async def _export(url: str, session: SessionId, place: Path) -> None:
    async with open_adapters(Settings(nats_url=url), name="test") as adapters:
        await export(adapters, session, place)


# what the command refuses


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("nobody",), 3, "there is no session nobody"),
        (("s1", "--from", "7"), 2, "those with bytes are 0–6"),
        (("s1", "--from", "4", "--to", "2"), 2, "the first chunk comes behind the last"),
        (("s 1",), 4, "is not valid"),
    ],
)
def test_an_export_that_can_not_be_made_leaves_no_file(
    recorded: Recorded, tmp_path: Path, args: tuple[str, ...], code: int, words: str
) -> None:
    """A refusal says why and what there is, and neither a file nor a part of one stays behind."""
    done = recorded.pipeline.cli("audit", "export", *args, "-o", str(tmp_path / "b.tar"), check=False)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_file_is_replaced_only_by_a_whole_one(recorded: Recorded, tmp_path: Path) -> None:
    """A failed export leaves the older bundle as it is."""
    place = tmp_path / "b.tar"
    place.write_bytes(b"older")
    assert recorded.pipeline.cli("audit", "export", "nobody", "-o", str(place), check=False).returncode == 3
    assert place.read_bytes() == b"older"
    recorded.pipeline.cli("audit", "export", "s1", "-o", str(place))
    assert place.read_bytes() == recorded.whole


def test_bundles_and_sessions_are_not_mixed(recorded: Recorded) -> None:
    """Files and sessions in one command, and options that are for the log, are refused before any work."""
    place = str(recorded.folder / "whole.tar")
    for args in ((place, "s1"), (place, "--sample", "1%"), (place, "--all")):
        done = recorded.pipeline.cli("audit", "verify", *args, check=False)
        assert done.returncode == 2, done.stderr


# the independent checker


def test_the_second_checker_is_independent() -> None:
    """It has at most two hundred lines, and imports the standard library and one library for Ed25519."""
    text = (ROOT / "examples" / "check_bundle.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"nacl"}
