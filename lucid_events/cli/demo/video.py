"""A real video for the demo: ffmpeg, a display when there is one, fragmented MP4 to a pipe."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from lucid_events.errors import ConfigError

FRAME_RATE = 30
SIZE = "1280x720"
BITRATE = "4M"
"""At 4 Mb/s ten seconds are 5 MB: more than three chunks of 1 MiB."""
PROBE_TIMEOUT_S = 20.0
DECODE_TIMEOUT_S = 120.0


def find_ffmpeg() -> str:
    """Return ffmpeg's path: the one of the `imageio-ffmpeg` wheel, else from PATH.

    Raises:
        ConfigError: there is none.
    """
    try:
        import imageio_ffmpeg
    except ImportError:
        found = shutil.which("ffmpeg")
        if found is None:
            raise ConfigError("no ffmpeg: pip install imageio-ffmpeg, or install ffmpeg") from None
        return found
    return str(imageio_ffmpeg.get_ffmpeg_exe())


def record_command(ffmpeg: str, *, seconds: float, copy: Path, screen: str | None) -> list[str]:
    """Return the command that writes a video to standard output, and the same bytes to `copy`.

    `screen` is an X display to grab; without one the picture is ffmpeg's moving test pattern, in
    real time. The copy is made by `tee`, outside the recorder, so that what is played back can be
    compared with what the source produced.
    """
    if screen:
        source = ["-f", "x11grab", "-framerate", str(FRAME_RATE), "-video_size", SIZE, "-i", screen]
    else:
        source = ["-re", "-f", "lavfi", "-i", f"testsrc2=size={SIZE}:rate={FRAME_RATE}"]
    # Constant bitrate, so that a still screen fills chunks too. Fragments: a killed recording
    # plays to its last one, where a plain MP4 has its index at the end.
    encode = [
        *("-t", str(seconds), "-an", "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"),
        *("-b:v", BITRATE, "-minrate", BITRATE, "-maxrate", BITRATE, "-bufsize", BITRATE),
        *("-x264-params", "nal-hrd=cbr:force-cfr=1", "-g", str(FRAME_RATE)),
        *("-f", "mp4", "-movflags", "frag_keyframe+empty_moov+default_base_moof", "pipe:1"),
    ]
    words = [ffmpeg, "-hide_banner", "-loglevel", "error", "-nostdin", *source, *encode]
    return ["sh", "-c", '"$@" | tee -- "$0"', str(copy), *words]


def count_frames(ffmpeg: str, video: Path) -> int:
    """Decode the whole video and return how many frames came out.

    Raises:
        ConfigError: ffmpeg can't decode it.
    """
    words = [ffmpeg, "-hide_banner", "-nostdin", "-xerror", "-i", str(video), "-f", "null", "-"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=DECODE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as exc:
        raise ConfigError(f"decoding {video.name} did not end within {DECODE_TIMEOUT_S:g} s") from exc
    counts = re.findall(r"frame=\s*(\d+)", done.stderr)
    if done.returncode or not counts:
        raise ConfigError(f"the played-back video does not decode: {done.stderr.strip()[-300:]}")
    return int(counts[-1])


class Screen:
    """A virtual X display with something moving on it, where Xvfb is installed."""

    def __init__(self, display: str, processes: list[subprocess.Popen[bytes]]) -> None:
        self.display, self._processes = display, processes

    @classmethod
    def open(cls, ffmpeg: str) -> "Screen | None":
        """Start Xvfb on a free display with a moving picture; None where that can't be had."""
        if shutil.which("Xvfb") is None or not _grabs(ffmpeg):
            return None
        read, write = os.pipe()
        server = subprocess.Popen(
            ["Xvfb", "-displayfd", str(write), "-screen", "0", f"{SIZE}x24", "-nolisten", "tcp"],
            pass_fds=[write],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(write)
        with os.fdopen(read) as told:
            number = told.readline().strip()
        if not number:
            server.wait()
            return None
        display = f":{number}"
        painter = shutil.which("xclock") or shutil.which("xeyes")
        processes = [server]
        if painter:
            words = [painter, "-update", "1"] if painter.endswith("xclock") else [painter]
            processes.append(subprocess.Popen(words, env={**os.environ, "DISPLAY": display}))
        return cls(display, processes)

    def close(self) -> None:
        """End what was started."""
        for process in reversed(self._processes):
            process.terminate()
            process.wait()


def _grabs(ffmpeg: str) -> bool:
    words = [ffmpeg, "-hide_banner", "-devices"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False)
    return "x11grab" in done.stdout
