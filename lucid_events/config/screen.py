"""Settings of a recording from a screen."""

import re
from typing import Annotated, Final

from lucid_events.config.declaring import Group, setting

SMALLEST: Final = (320, 240)
LARGEST: Final = (7680, 4320)
_resolution = re.compile(r"(\d{1,5})x(\d{1,5})")


class ScreenSettings(Group, frozen=True, kw_only=True):
    """How a screen is captured and encoded."""

    ffmpeg_path: Annotated[str, setting("LUCID_FFMPEG_PATH", "the encoder; unset: found on PATH")] = ""
    display: Annotated[str, setting("LUCID_XRDP_DISPLAY", "X display that is recorded")] = ":10"
    video_codec: Annotated[
        str,
        setting("LUCID_VIDEO_CODEC", "encoders to try, in order; `auto`: hardware first", allowed="a,b,…"),
    ] = "auto"
    audio_codec: Annotated[str, setting("LUCID_AUDIO_CODEC", "encoder of the sound")] = "libopus"
    bitrate: Annotated[
        str, setting("LUCID_BITRATE", "video bit rate", allowed="such as 2000k", pattern="^[1-9][0-9]*[kM]?$")
    ] = "2000k"
    fps: Annotated[int, setting("LUCID_FPS", "frames per second", "1/s", ge=1, le=120)] = 30
    resolution: Annotated[
        str,
        setting("LUCID_RESOLUTION", "size of the picture", "pixels", allowed="320x240 to 7680x4320"),
    ] = "1920x1080"
    hardware_acceleration: Annotated[
        bool, setting("LUCID_HARDWARE_ACCELERATION", "try hardware encoders")
    ] = True

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        width, _, height = self.resolution.partition("x")
        return int(width), int(height)


def screen_problems(screen: ScreenSettings) -> list[str]:
    """Return what is wrong beyond the limits of single fields."""
    found = _resolution.fullmatch(screen.resolution)
    inside = found is not None and all(
        low <= int(side) <= high for side, low, high in zip(found.groups(), SMALLEST, LARGEST, strict=True)
    )
    if inside:
        return []
    return [f"LUCID_RESOLUTION={screen.resolution}: must be WIDTHxHEIGHT (allowed: 320x240 to 7680x4320)"]
