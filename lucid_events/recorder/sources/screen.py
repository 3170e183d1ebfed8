"""A screen as a source: ffmpeg grabs an X display, encodes it, and writes fragments to our pipe.

    X display ──► x11grab ──► encoder ──► fragmented MP4 ──► pipe ──► the recorder
                                └─ progress ──► frames delivered and dropped

Fragmented, so that a recording that was killed plays to its last fragment; plain MP4 has its index at
the end. Which encoder works is found out by using it: a list of what was compiled in says nothing
about the hardware (a Raspberry Pi 5 has no H.264 encoder; the Pi 4 has).
"""

import asyncio
import logging
import re
import shutil
import signal
from collections.abc import Sequence

from lucid_events.config import ScreenSettings
from lucid_events.domain.values import Frames
from lucid_events.errors import ConfigError
from lucid_events.recorder.sources.processes import POLITE
from lucid_events.recorder.sources.programs import CommandSource

CONTENT_TYPE = "video/mp4"
HARDWARE = ("h264_nvenc", "h264_vaapi", "h264_qsv", "h264_v4l2m2m")
SOFTWARE = ("libx264", "libopenh264")
PROBE_FRAMES = 5
PROBE_S = 15.0
"""Longest one try of an encoder may take; a driver that hangs must not hold up the next one."""
FRAGMENT_S = 1
"""Seconds between key frames, so of a fragment: the most that a killed encoder leaves unplayable."""
MAX_LINE_BYTES = 4096

_PROGRESS = re.compile(rb"(frame|drop_frames)=\s*(\d{1,12})")
_REPORT = re.compile(rb"(?:fps|bitrate|total_size|out_time\w*|dup_frames|speed|progress|stream_\w+)=.*")
"""The other lines of a report of progress."""
_log = logging.getLogger(__name__)


class ScreenSource(CommandSource):
    """Records one display with one encoder that is known to work.

    A pause stops the encoder where it is, so nothing of the screen is recorded meanwhile, and the
    picture goes on in the same file.

    Attributes:
        encoder: the one in use.
        frames: delivered and dropped so far, as ffmpeg counts them about once a second.
    """

    def __init__(self, ffmpeg: str, settings: ScreenSettings, encoder: str, *, audio: bool = False) -> None:
        super().__init__(
            command(ffmpeg, settings, encoder, audio=audio),
            content_type=CONTENT_TYPE,
            name=f"screen {settings.display} {settings.resolution}@{settings.fps} {encoder}",
            stop_steps=POLITE,
        )
        self.encoder = encoder
        self.frames = Frames(delivered=0, dropped=0)
        self._line = b""

    async def pause(self) -> None:
        """Stop the encoder where it is."""
        self._signal(signal.SIGSTOP)

    async def resume(self) -> None:
        """Let the encoder go on."""
        self._signal(signal.SIGCONT)

    async def stop(self) -> None:
        """Ask the encoder to finish its last fragment, more firmly as time passes."""
        self._signal(signal.SIGCONT)  # what is stopped hears nothing
        await super().stop()

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.running:
            self._child.signal(number)

    def _heard(self, block: bytes) -> bytes:
        """Count frames; what is no report of progress is kept."""
        *lines, self._line = (self._line + block).split(b"\n")
        self._line = self._line[-MAX_LINE_BYTES:]
        kept = []
        for line in lines:
            if found := _PROGRESS.fullmatch(line.strip()):
                self._count(found.group(1), found.group(2))
            elif not _REPORT.fullmatch(line.strip()):
                kept.append(line + b"\n")
        return b"".join(kept)

    def _count(self, what: bytes, number: bytes) -> None:
        delivered, dropped = self.frames.delivered, self.frames.dropped
        if what == b"frame":
            delivered = max(delivered, int(number))
        else:
            dropped = max(dropped, int(number))
        self.frames = Frames(delivered=delivered, dropped=dropped)


async def open_screen(settings: ScreenSettings) -> ScreenSource:
    """Return the source for the display of `settings`, with the first encoder of theirs that works.

    Raises:
        ConfigError: there is no ffmpeg, the display can't be grabbed, or no encoder works; each with
            what ffmpeg says of it.
    """
    ffmpeg = find_ffmpeg(settings)
    audio = await _tried(ffmpeg, [*_audio_input(), "-t", "0.2", "-f", "null", "-"]) == ""
    failures = []
    for encoder in candidates(settings):
        words = [*_picture_input(settings), "-frames:v", str(PROBE_FRAMES), *encoding(settings, encoder)]
        why = await _tried(ffmpeg, [*words, "-f", "null", "-"])
        if not why:
            _log.info("encoder chosen", extra={"reason": encoder})
            return ScreenSource(ffmpeg, settings, encoder, audio=audio)
        failures.append(f"{encoder}: {why}")
    raise ConfigError(
        f"the screen {settings.display} can't be recorded (LUCID_XRDP_DISPLAY, LUCID_VIDEO_CODEC): "
        + "; ".join(failures),
        field="source",
    )


def find_ffmpeg(settings: ScreenSettings) -> str:
    """Return the path of ffmpeg: that of the settings, that on PATH, that of the `imageio-ffmpeg` wheel.

    Raises:
        ConfigError: there is none.
    """
    if settings.ffmpeg_path:
        if shutil.which(settings.ffmpeg_path) is None:
            raise ConfigError(f"LUCID_FFMPEG_PATH={settings.ffmpeg_path}: there is no such program")
        return settings.ffmpeg_path
    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigError(
            "no ffmpeg: install it, set LUCID_FFMPEG_PATH, or pip install imageio-ffmpeg"
        ) from None
    return str(imageio_ffmpeg.get_ffmpeg_exe())


def candidates(settings: ScreenSettings) -> Sequence[str]:
    """Return the encoders to try, in order.

    >>> candidates(ScreenSettings(hardware_acceleration=False))
    ('libx264', 'libopenh264')
    """
    if settings.video_codec == "auto":
        return (*HARDWARE, *SOFTWARE) if settings.hardware_acceleration else SOFTWARE
    return tuple(one for text in settings.video_codec.split(",") if (one := text.strip()))


def command(ffmpeg: str, settings: ScreenSettings, encoder: str, *, audio: bool) -> list[str]:
    """Return the words that record the display to standard output, and report frames on standard error."""
    sound = ["-c:a", settings.audio_codec, "-b:a", "128k"] if audio else ["-an"]
    return [
        *(ffmpeg, "-hide_banner", "-loglevel", "warning", "-nostats", "-nostdin"),
        *("-progress", "pipe:2", "-stats_period", "1"),
        *_picture_input(settings),
        *(_audio_input() if audio else ()),
        *encoding(settings, encoder),
        *sound,
        *("-f", "mp4", "-movflags", "frag_keyframe+empty_moov+default_base_moof", "-flush_packets", "1"),
        "pipe:1",
    ]


def encoding(settings: ScreenSettings, encoder: str) -> list[str]:
    """Return the words that encode the picture."""
    rate, buffer = settings.bitrate, _twice(settings.bitrate)
    words = ["-c:v", encoder, "-b:v", rate, "-maxrate", rate, "-bufsize", buffer]
    words += ["-g", str(settings.fps * FRAGMENT_S)]
    if encoder == "libx264":
        words += ["-preset", "veryfast"]
    if encoder == "h264_vaapi":
        return ["-vaapi_device", "/dev/dri/renderD128", "-vf", "format=nv12,hwupload", *words]
    return [*words, "-pix_fmt", "yuv420p"]


def _picture_input(settings: ScreenSettings) -> list[str]:
    return [
        *("-f", "x11grab", "-framerate", str(settings.fps)),
        *("-video_size", settings.resolution, "-i", settings.display),
    ]


def _audio_input() -> list[str]:
    return ["-f", "pulse", "-i", "default"]


def _twice(rate: str) -> str:
    number, unit = re.fullmatch(r"(\d+)(\D*)", rate).groups()  # type: ignore[union-attr]  # checked as a setting
    return f"{2 * int(number)}{unit}"


async def _tried(ffmpeg: str, words: Sequence[str]) -> str:
    """Run ffmpeg to its end; return an empty string when it succeeds, else the last it said."""
    process = await asyncio.create_subprocess_exec(
        *(ffmpeg, "-hide_banner", "-loglevel", "error", "-nostdin", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PROBE_S):
            _, said = await process.communicate()
    except TimeoutError:
        return f"no answer within {PROBE_S:g} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = said.decode(errors="replace").strip().splitlines()
    return "" if process.returncode == 0 else (lines[-1][:200] if lines else f"exit {process.returncode}")
