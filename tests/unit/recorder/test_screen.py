"""The command lines of a screen, and what is understood of an encoder's reports."""

import signal

import pytest

from lucid_events.config import ScreenSettings
from lucid_events.domain.values import Frames
from lucid_events.errors import ConfigError
from lucid_events.recorder.sources.screen import ScreenSource, candidates, command, find_ffmpeg


def _source() -> ScreenSource:
    return ScreenSource("ffmpeg", ScreenSettings(), "libx264")


def test_the_command_is_that_of_the_settings() -> None:
    """Display, size, rates and codecs of the settings are in the words, and fragments go to the pipe."""
    words = " ".join(command("ffmpeg", ScreenSettings(), "libx264", audio=True))
    for part in (
        "-f x11grab -framerate 30 -video_size 1920x1080 -i :10",
        "-c:v libx264 -b:v 2000k -maxrate 2000k -bufsize 4000k -g 30 -preset veryfast",
        "-c:a libopus -b:a 128k",
        "-movflags frag_keyframe+empty_moov+default_base_moof",
        "-progress pipe:2",
    ):
        assert part in words
    assert words.endswith("pipe:1")
    assert " -an " in " ".join(command("ffmpeg", ScreenSettings(), "libx264", audio=False))


def test_encoders_are_tried_in_the_order_of_the_setting() -> None:
    """`auto` is hardware first, where that is wanted; a list is taken as it is."""
    assert candidates(ScreenSettings())[0].startswith("h264_")
    assert candidates(ScreenSettings())[-2:] == ("libx264", "libopenh264")
    assert candidates(ScreenSettings(video_codec="h264_v4l2m2m, libx264")) == ("h264_v4l2m2m", "libx264")


def test_reports_are_counted_and_complaints_kept() -> None:
    """Frames are read from reports cut anywhere; what is no report stays in standard error."""
    source = _source()
    said = b"frame=12\nfps=30\ndrop_frames=1\nprogress=continue\n[x11grab] lost the display\nframe=4"
    kept = b"".join(source._heard(said[at : at + 7]) for at in range(0, len(said), 7))
    assert source.frames == Frames(delivered=12, dropped=1)
    assert kept == b"[x11grab] lost the display\n"
    source._heard(b"2\nprogress=end\n")
    assert source.frames == Frames(delivered=42, dropped=1)


def test_frames_never_go_back() -> None:
    """A report that counts less than one before it changes nothing: a chunk can't have lost frames."""
    source = _source()
    source._heard(b"frame=10\nframe=3\n")
    assert source.frames == Frames(delivered=10, dropped=0)


def test_an_encoder_that_is_not_there_is_named() -> None:
    """A path that leads nowhere is an error that names the variable."""
    with pytest.raises(ConfigError, match="LUCID_FFMPEG_PATH=/nowhere/ffmpeg"):
        find_ffmpeg(ScreenSettings(ffmpeg_path="/nowhere/ffmpeg"))


def test_a_screen_can_be_stopped_before_it_began() -> None:
    """Signals to an encoder that does not run go nowhere."""
    _source()._signal(signal.SIGCONT)
