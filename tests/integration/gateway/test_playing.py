"""Recordings and chunks as HTTP gives them: whole, by range, conditionally, to a program that seeks."""

import gzip
import hashlib
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import lz4.frame
import pytest
import zstandard

from tests.end_to_end.http import Http, reason

KIB = 1024
CHUNK = 64 * KIB
DECODE_S = 60.0
READERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    "lz4": lz4.frame.decompress,
    "store": bytes,
}
"""What reads stored bytes of each codec, apart from this package."""


@pytest.fixture(scope="module")
def recorded(http: Http) -> tuple[str, bytes]:
    """Give a stopped recording of several chunks and its bytes."""
    data = random.Random(1).randbytes(5 * CHUNK + 777)
    http.active("played", chunk_bytes=CHUNK)
    assert http.pipelines.post("/pipelines/played/chunks", content=data).status_code == 202
    http.stop("played")
    return "played", data


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        (f"bytes={CHUNK - 5}-{CHUNK + 4}", CHUNK - 5, CHUNK + 5),
        (f"bytes={CHUNK}-{4 * CHUNK - 1}", CHUNK, 4 * CHUNK),
        ("bytes=-100", 5 * CHUNK + 677, 5 * CHUNK + 777),
        ("bytes=327000-", 327000, 5 * CHUNK + 777),
        ("bytes=327000-99999999", 327000, 5 * CHUNK + 777),
    ],
)
def test_a_range_is_those_bytes(
    http: Http, recorded: tuple[str, bytes], asked: str, start: int, end: int
) -> None:
    """A range gives exactly its bytes, across chunks, and says which of how many they are."""
    sid, data = recorded
    answer = http.recordings.get(f"/recordings/{sid}/media", headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == data[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(data)}"
    assert answer.headers["content-length"] == str(end - start)


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "items=0-5", "bytes=5-2", "bytes=-", "bytes=a-b"])
def test_what_is_no_single_range_gets_the_whole(http: Http, recorded: tuple[str, bytes], asked: str) -> None:
    """Several ranges, other units and malformed ones are answered with everything, as RFC 9110 permits."""
    sid, data = recorded
    answer = http.recordings.get(f"/recordings/{sid}/media", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, data)


def test_a_range_behind_the_end_is_unsatisfiable(http: Http, recorded: tuple[str, bytes]) -> None:
    """416 tells how many bytes there are."""
    sid, data = recorded
    for path in (f"/recordings/{sid}/media", f"/chunks/{sid}/0"):
        size = len(data) if "media" in path else CHUNK
        answer = http.recordings.get(path, headers={"Range": f"bytes={size}-"})
        assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{size}")
        assert reason(answer) == "unsatisfiable_range"


def test_conditions_are_heeded(http: Http, recorded: tuple[str, bytes]) -> None:
    """`If-None-Match` spares the bytes, `If-Range` gives the range only of the same recording."""
    sid, data = recorded
    path = f"/recordings/{sid}/media"
    head = http.recordings.head(path)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(data)))
    assert head.headers["accept-ranges"] == "bytes"
    tag = head.headers["etag"]
    assert http.recordings.get(path, headers={"If-None-Match": tag}).status_code == 304
    part = {"Range": "bytes=0-9"}
    assert http.recordings.get(path, headers={**part, "If-Range": tag}).status_code == 206
    other = http.recordings.get(path, headers={**part, "If-Range": '"other"'})
    assert (other.status_code, other.content) == (200, data)
    assert http.recordings.head(path, headers=part).headers["content-range"] == f"bytes 0-9/{len(data)}"


def test_chunks_are_listed_and_fetched(http: Http, recorded: tuple[str, bytes]) -> None:
    """Every chunk is in the list with its digests, and comes raw, by range, and as it is stored."""
    sid, data = recorded
    listed = http.recordings.get(f"/chunks/{sid}", params={"limit": 4}).json()
    more = http.recordings.get(f"/chunks/{sid}", params={"limit": 4, "cursor": listed["cursor"]}).json()
    chunks = listed["chunks"] + more["chunks"]
    assert [one["chunk_index"] for one in chunks] == list(range(6))
    assert more["cursor"] is None
    assert listed["chunk_statistics"]["total_chunks"] == 6
    for one in chunks:
        raw = data[one["offset"] : one["offset"] + one["size_bytes"]]
        assert one["chunk_id"] == f"{sid}-chunk-{one['chunk_index']:06d}"
        assert one["sha256"] == hashlib.sha256(raw).hexdigest()
        got = http.recordings.get(f"/chunks/{sid}/{one['chunk_index']}")
        assert got.content == raw
        stored = http.recordings.get(f"/chunks/{sid}/{one['chunk_index']}", params={"stored": "1"})
        assert hashlib.sha256(stored.content).hexdigest() == one["stored_sha256"]
    part = http.recordings.get(f"/chunks/{sid}/1", headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, data[CHUNK + 5 : CHUNK + 10])
    absent = http.recordings.get(f"/chunks/{sid}/6")
    assert (absent.status_code, absent.json()["error"]["code"]) == (404, "LUCID_ERR_3005")


@pytest.mark.parametrize("codec", ["gzip", "zstd", "lz4", "store"])
def test_stored_bytes_are_a_plain_file(http: Http, sid: str, codec: str) -> None:
    """`?stored=1` of a chunk is a file of its codec, which `Lucid-Codec` names, to HEAD too."""
    http.active(sid, codec=codec)
    http.pipelines.post(f"/pipelines/{sid}/chunks", content=b"again and " * 1000)
    http.stop(sid)
    path, asked = f"/chunks/{sid}/0", {"stored": "true"}
    stored, head = http.recordings.get(path, params=asked), http.recordings.head(path, params=asked)
    for name in ("lucid-codec", "lucid-sha256", "etag", "content-length"):
        assert head.headers[name] == stored.headers[name]
    assert stored.headers["lucid-codec"] == codec
    assert READERS[codec](stored.content) == b"again and " * 1000


def test_a_recording_in_progress_plays_to_what_is_stored(http: Http, sid: str) -> None:
    """While it records, media is the ready chunks so far, under a tag that changes as it grows."""
    http.active(sid)
    first = http.pipelines.post(f"/pipelines/{sid}/chunks", params={"wait": "ready"}, content=b"one")
    assert (first.status_code, first.json()["status"]) == (200, "ready")
    http.pipelines.post(f"/pipelines/{sid}/chunks", content=b"two")
    before = http.recordings.get(f"/recordings/{sid}/media")
    assert before.content == b"one"
    http.stop(sid)
    after = http.recordings.get(f"/recordings/{sid}/media")
    assert after.content == b"onetwo"
    assert after.headers["etag"] != before.headers["etag"]


def test_looking_is_in_the_history(http: Http, sid: str) -> None:
    """Bytes handed out over HTTP leave `session.viewed` behind; asking for the size does not."""
    http.active(sid)
    http.pipelines.post(f"/pipelines/{sid}/chunks", content=b"secret")
    http.stop(sid)
    http.recordings.head(f"/recordings/{sid}/media")
    assert "session.viewed" not in http.pipelines.get(f"/pipelines/{sid}/history").text
    http.recordings.get(f"/recordings/{sid}/media", headers={"Lucid-Actor": "ann"})
    assert '"session.viewed.v1"' in http.pipelines.get(f"/pipelines/{sid}/history").text


def test_a_player_seeks_over_http(http: Http, sid: str, tmp_path: Path) -> None:
    """A player opens the recording by its address and seeks in it; the picture it finds decodes."""
    ffmpeg, video = imageio_ffmpeg.get_ffmpeg_exe(), tmp_path / "video.mp4"
    made = [
        *(ffmpeg, "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=320x240:rate=10:duration=20"),
        *("-c:v", "libx264", "-preset", "ultrafast", "-g", "10", "-pix_fmt", "yuv420p"),
        *("-movflags", "+faststart", str(video)),
    ]
    subprocess.run(made, check=True, timeout=DECODE_S)
    start = {"session_id": sid, "content_type": "video/mp4", "settings": {"chunk_bytes": CHUNK}}
    assert http.recordings.post("/recordings/start", json=start).status_code == 201
    http.recordings.post(f"/chunks/{sid}/process", content=video.read_bytes())
    http.stop(sid)
    url = f"{http.recordings.base_url}/recordings/{sid}/media"
    assert http.recordings.head(f"/recordings/{sid}/media").headers["content-type"] == "video/mp4"
    seek = [ffmpeg, "-v", "error", "-ss", "15", "-i", url, "-frames:v", "10", "-f", "framemd5", "-"]
    got = subprocess.run(seek, capture_output=True, text=True, timeout=DECODE_S, check=True)
    local = [ffmpeg, "-v", "error", "-ss", "15", "-i", str(video), "-frames:v", "10", "-f", "framemd5", "-"]
    wanted = subprocess.run(local, capture_output=True, text=True, timeout=DECODE_S, check=True)
    assert got.stdout == wanted.stdout
    assert got.stdout.count("\n0,") == 10
