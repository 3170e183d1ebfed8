"""The asciicast v2 format: a header line, then one JSON array per line.

    {"version": 2, "width": 80, "height": 24, "timestamp": 1760000000, "env": {...}, ...}
    [seconds, "o", "text the program wrote"]
    [seconds, "i", "text the user typed"]
    [seconds, "r", "COLSxROWS"]

Times exclude pauses, so playback is continuous (https://docs.asciinema.org/manual/asciicast/v2/).
"""

import codecs
from collections.abc import Callable, Mapping

import msgspec

CONTENT_TYPE = "application/x-asciicast"

_encode = msgspec.json.Encoder().encode


def header(
    *,
    columns: int,
    rows: int,
    timestamp: float,
    command: str = "",
    title: str = "",
    env: Mapping[str, str] | None = None,
) -> bytes:
    """Return the first line of a recording."""
    fields: dict[str, object] = {"version": 2, "width": columns, "height": rows, "timestamp": int(timestamp)}
    if command:
        fields["command"] = command
    if title:
        fields["title"] = title
    if env:
        fields["env"] = dict(env)
    return _encode(fields) + b"\n"


class Cast:
    """Turns terminal bytes into event lines; nothing comes out, and no time passes, while paused.

    Args:
        monotonic: seconds from any fixed point, never going back.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._began = monotonic()
        self._paused_at: float | None = None
        decoder = codecs.getincrementaldecoder("utf-8")
        # A character may be split between two reads; bytes that are no UTF-8 become U+FFFD.
        self._decoders = {"o": decoder("replace"), "i": decoder("replace")}

    @property
    def seconds(self) -> float:
        """Playback time now."""
        now = self._monotonic() if self._paused_at is None else self._paused_at
        return now - self._began

    @property
    def paused(self) -> bool:
        """Whether nothing comes out now."""
        return self._paused_at is not None

    def pause(self) -> None:
        """Stop the playback clock."""
        if self._paused_at is None:
            self._paused_at = self._monotonic()

    def resume(self) -> None:
        """Go on as if the pause had not been."""
        if self._paused_at is not None:
            self._began += self._monotonic() - self._paused_at
            self._paused_at = None

    def data(self, kind: str, data: bytes, *, final: bool = False) -> bytes:
        """Return the line for output (`o`) or input (`i`); empty while paused or inside a character."""
        # Decoded while paused too: the rest of a split character must not be taken for the next one.
        text = self._decoders[kind].decode(data, final)
        return self._line(kind, text) if text and self._paused_at is None else b""

    def resize(self, columns: int, rows: int) -> bytes:
        """Return the line for a new window size; empty while paused."""
        return self._line("r", f"{columns}x{rows}") if self._paused_at is None else b""

    def _line(self, kind: str, text: str) -> bytes:
        return _encode([round(self.seconds, 6), kind, text]) + b"\n"
