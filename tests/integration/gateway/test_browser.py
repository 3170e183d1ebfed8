"""A recording in the `<video>` element of a real browser, which seeks in it by asking for ranges."""

import http.server
import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest

from tests.end_to_end.http import Http

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MADE_S, SHOWN_S, ENDED_S = 60.0, 90.0, 20.0
SECONDS, SEEK_TO = 20, 15
HAS_PICTURE = 2
"""`HAVE_CURRENT_DATA` of a media element; it seeks (`seekable`) only where its server answers ranges."""
FRAGMENTED = "frag_keyframe+empty_moov+default_base_moof"
"""As a screen is recorded; no index anywhere, so a player has to find its way through the fragments."""

PAGE = """<!doctype html><video muted preload="metadata"></video><script>
const video = document.querySelector("video");
const tell = what => fetch("/found", {method: "POST", body: JSON.stringify(what)});
const range = times => times.length ? [times.start(0), times.end(times.length - 1)] : [];
video.onerror = () => tell({error: `${video.error.code}: ${video.error.message}`});
video.onloadedmetadata = () => { video.currentTime = SEEK_TO; };
video.onseeked = () => tell({
  at: video.currentTime, ready: video.readyState,
  size: [video.videoWidth, video.videoHeight], seekable: range(video.seekable),
});
video.src = "MEDIA";
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    """Give a browser's program."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: install one of {', '.join(BROWSERS)} to see a recording in its <video>")
    return found


@contextmanager
def page(media: str) -> Iterator[tuple[str, "queue.Queue[dict[str, Any]]"]]:
    """Serve a page that shows `media`; gives its address, and what it tells."""
    told: queue.Queue[dict[str, Any]] = queue.Queue()
    text = PAGE.replace("MEDIA", media).replace("SEEK_TO", str(SEEK_TO)).encode()

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/" else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(text if self.path == "/" else b"")

        def do_POST(self) -> None:
            told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/", told
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def showing(browser: str, url: str, profile: Path) -> Iterator[None]:
    """Show a page in the browser for the time of the context."""
    words = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    words += [
        "--no-first-run",
        "--disable-background-networking",
        "--autoplay-policy=no-user-gesture-required",
    ]
    with (profile.parent / "browser.log").open("wb") as log:
        process = subprocess.Popen([*words, f"--user-data-dir={profile}", url], stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(ENDED_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.mark.parametrize("movflags", ["+faststart", FRAGMENTED])
def test_a_browser_seeks_in_a_recording(
    http: Http, sid: str, tmp_path: Path, browser: str, movflags: str
) -> None:
    """Its `<video>` finds the length, goes to the fifteenth second, and has a picture there."""
    ffmpeg, video = imageio_ffmpeg.get_ffmpeg_exe(), tmp_path / "video.mp4"
    source = f"testsrc2=size=640x480:rate=25:duration={SECONDS},noise=c0s=40:allf=t"
    made = [
        *(ffmpeg, "-v", "error", "-f", "lavfi", "-i", source),
        *("-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-pix_fmt", "yuv420p"),
        *("-movflags", movflags, str(video)),
    ]
    subprocess.run(made, check=True, timeout=MADE_S)
    start = {"session_id": sid, "content_type": "video/mp4", "settings": {"chunk_bytes": 1024 * 1024}}
    assert http.recordings.post("/recordings/start", json=start).status_code == 201
    assert http.recordings.post(f"/chunks/{sid}/process", content=video.read_bytes()).status_code == 200
    http.stop(sid)
    with (
        page(f"{http.recordings.base_url}/recordings/{sid}/media") as (url, told),
        showing(browser, url, tmp_path / "profile"),
    ):
        found = told.get(timeout=SHOWN_S)
    assert found.get("error") is None
    assert found["seekable"] == [0, SECONDS]
    assert (found["at"], found["size"]) == (SEEK_TO, [640, 480])
    assert found["ready"] >= HAS_PICTURE
