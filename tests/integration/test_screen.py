"""A real display, a moving picture on it, and what is recorded of them: decoded after playing it back."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import imageio_ffmpeg
import pytest

from tests.end_to_end.http import Http
from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import until

SIZE = "640x480"
END_S = 60.0
CHUNK = 64 * 1024


@pytest.fixture
def display() -> Iterator[str]:
    """Give a virtual display with a clock that moves every second."""
    if shutil.which("Xvfb") is None or shutil.which("xclock") is None:
        pytest.skip("Xvfb or xclock is missing: a screen was NOT recorded; apt-get install xvfb x11-apps")
    read, write = os.pipe()
    words = ["Xvfb", "-displayfd", str(write), "-screen", "0", f"{SIZE}x24", "-nolisten", "tcp"]
    server = subprocess.Popen(words, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as told:
        name = f":{told.readline().strip()}"
    painter = subprocess.Popen(["xclock", "-update", "1"], env={**os.environ, "DISPLAY": name})
    yield name
    for process in (painter, server):
        process.terminate()
        process.wait(END_S)


@pytest.fixture
def http(display: str, tmp_path: Path) -> Iterator[Http]:
    """Give a recorder that records that display."""
    with Pipeline(tmp_path / "pipeline") as pipeline:
        made = Http(pipeline, env=_settings(display))
        yield made
        made.close()


def _settings(display: str) -> dict[str, str]:
    return {
        "LUCID_FFMPEG_PATH": imageio_ffmpeg.get_ffmpeg_exe(),
        "LUCID_XRDP_DISPLAY": display,
        "LUCID_RESOLUTION": SIZE,
        "LUCID_FPS": "10",
        "LUCID_VIDEO_CODEC": "no_such_encoder,libx264",
    }


def test_a_screen_is_recorded_and_plays(http: Http, tmp_path: Path) -> None:
    """The first encoder that works is used, its frames are counted, and what is played back decodes."""
    _start(http, "screen")
    told = http.recordings.get("/recordings/screen").json()
    assert (told["content_type"], "libx264" in told["source"]) == ("video/mp4", True)
    _until_grown(http, "screen", 2)
    chunks = http.stop("screen")["chunk_metadata"]
    assert all(one["quality_score"] > 0.5 for one in chunks)
    history = http.pipelines.get("/pipelines/screen/history", params={"limit": 1000}).json()["events"]
    frames = [one["data"]["frames"] for one in history if one["type"] == "chunk.sealed.v1"]
    assert sum(one["delivered"] for one in frames) > 5
    assert _frames(http.media("screen"), tmp_path) >= 10


def test_a_paused_screen_is_not_recorded(http: Http, tmp_path: Path) -> None:
    """Nothing grows while a screen is paused; after it the same file goes on and still decodes."""
    _start(http, "paused")
    _until_grown(http, "paused", 1)
    assert http.pipelines.post("/pipelines/paused/pause").json()["state"] == "paused"
    before = _captured(http, "paused")
    paused = http.pipelines.get("/pipelines/paused/status").json()
    assert paused["sealed_offset"] == before == _captured(http, "paused")
    assert http.pipelines.post("/pipelines/paused/resume").json()["state"] == "active"
    until(lambda: _captured(http, "paused") > before, within_s=END_S, what="the recording goes on")
    http.stop("paused")
    assert _frames(http.media("paused"), tmp_path) >= 5


def test_a_killed_recording_plays_to_its_last_fragment(http: Http, tmp_path: Path) -> None:
    """After kill -9 of the recorder and its encoder, what was captured is salvaged and decodes."""
    _start(http, "killed")
    _until_grown(http, "killed", 2)
    http.process.kill9()
    http.start()
    until(lambda: http.state("killed") == "error", within_s=END_S, what="the recorder is given up")
    until(lambda: _all_ready(http, "killed"), within_s=END_S, what="what it left is stored")
    assert _frames(http.media("killed"), tmp_path) >= 5


def test_a_stopped_service_ends_its_screen_in_order(http: Http, tmp_path: Path) -> None:
    """SIGTERM ends the encoder with its last fragment and the session with its manifest, in time."""
    _start(http, "ended")
    _until_grown(http, "ended", 1)
    assert http.process.stop() == 0
    http.start()
    assert http.state("ended") == "stopped"
    assert _frames(http.media("ended"), tmp_path) >= 5


def test_a_display_that_is_not_there_is_said_so(http: Http, pipelines_without: Callable[[str], Http]) -> None:
    """No display is 422 with what the encoder says of it, and no session is left behind."""
    other = pipelines_without(":9876")
    answer = other.recordings.post("/recordings/start", json={"session_id": "none", "source": "screen"})
    assert answer.status_code == 422
    assert ":9876" in answer.json()["error"]["message"]
    assert other.recordings.get("/recordings/none").status_code == 404


@pytest.fixture
def pipelines_without(tmp_path: Path) -> Iterator[Callable[[str], Http]]:
    """Make services on a pipeline of their own, with another display."""
    made: list[Http] = []
    with Pipeline(tmp_path / "other") as pipeline:

        def make(display: str) -> Http:
            made.append(Http(pipeline, env=_settings(display)))
            return made[-1]

        yield make
        for http in made:
            http.close()


def _start(http: Http, sid: str) -> None:
    body = {
        "session_id": sid,
        "source": "screen",
        "settings": {"chunk_bytes": CHUNK, "chunk_seconds": 1.0},
    }
    answer = http.recordings.post("/recordings/start", json=body)
    assert answer.status_code == 201, answer.text


def _until_grown(http: Http, sid: str, chunks: int) -> None:
    def grown() -> bool:
        return int(http.recordings.get(f"/recordings/{sid}").json()["chunks_created"]) >= chunks

    until(grown, within_s=END_S, what=f"{chunks} chunks are recorded")


def _captured(http: Http, sid: str) -> int:
    return int(http.pipelines.get(f"/pipelines/{sid}/status").json()["accepted_offset"])


def _all_ready(http: Http, sid: str) -> bool:
    status = http.pipelines.get(f"/pipelines/{sid}/status").json()
    return bool(status["chunks"] == status["chunks_ready"] > 0)


def _frames(video: bytes, tmp_path: Path) -> int:
    path = tmp_path / "video.mp4"
    path.write_bytes(video)
    words = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-i", str(path), "-f", "null", "-"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=END_S, check=False)
    counts = re.findall(r"frame=\s*(\d+)", done.stderr)
    assert done.returncode == 0, done.stderr
    assert counts, done.stderr
    return int(counts[-1])
