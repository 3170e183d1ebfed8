import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucid_events.compression import codecs
from lucid_events.compression.probe import MIN_RATIO, WINDOW_BYTES, WINDOWS, choose, sample_ratio
from lucid_events.errors import ConfigError
from tests.unit.compression.samples import MIB, noise, text


@pytest.mark.parametrize("setting", ["gzip", "zstd", "lz4", "auto"])
def test_incompressible_bytes_are_stored(setting: str) -> None:
    """Noise of any length is stored as it is, whichever codec was asked for."""
    for size in (0, 1, 100, 5000, 3 * MIB):
        assert choose(setting, None, noise(size)) == ("store", None)


@pytest.mark.parametrize(
    ("setting", "level", "chosen"),
    [
        ("gzip", None, ("gzip", 6)),
        ("gzip", 9, ("gzip", 9)),
        ("zstd", None, ("zstd", 3)),
        ("lz4", None, ("lz4", 0)),
        ("auto", None, ("zstd", 3)),
        ("auto", 7, ("zstd", 7)),
        ("store", None, ("store", None)),
    ],
)
def test_compressible_bytes_get_what_was_asked_for(
    setting: str, level: int | None, chosen: tuple[str, int | None]
) -> None:
    """Text is compressed with the codec and level of the setting; `auto` is zstd."""
    for size in (500, 3 * MIB):
        assert choose(setting, level, memoryview(text(size))) == chosen


@pytest.mark.parametrize("where", range(0, 101, 5))
def test_a_quarter_of_text_is_found_wherever_it_is(where: int) -> None:
    """Text that makes up a quarter of a chunk is enough to compress it, at any place in it."""
    other, words = noise(1536 * 1024), text(512 * 1024)
    start = where * len(other) // 100
    assert choose("gzip", None, other[:start] + words + other[start:])[0] == "gzip"


@given(size=st.integers(0, 300_000), part=st.floats(0, 1))
def test_the_sample_reads_a_bounded_part(size: int, part: float) -> None:
    """Any length, also one around the sample's own, gives a ratio, and the same one twice."""
    edge = WINDOWS * WINDOW_BYTES
    for length in (size, edge - 1, edge, edge + 1, edge + WINDOWS):
        words = int(length * part)
        chunk = text(words) + noise(length - words)
        assert sample_ratio(chunk) == sample_ratio(memoryview(chunk)) > 0


def test_windows_do_not_move_in_step_with_a_period() -> None:
    """A chunk whose period is the distance of the windows is not judged by one phase of it.

    A header of text at the start of every frame would be all that evenly spaced windows see.
    """
    stride = 4 * MIB // WINDOWS
    header = text(WINDOW_BYTES)
    chunk = b"".join(header + noise(stride - WINDOW_BYTES, seed) for seed in range(WINDOWS))
    assert sample_ratio(chunk) < MIN_RATIO


def test_unknown_settings_and_levels_are_errors() -> None:
    """Also bytes that would be stored anyway don't hide a wrong setting."""
    for setting, level in (("brotli", None), ("gzip", 0), ("auto", 23), ("store", 1)):
        with pytest.raises(ConfigError):
            choose(setting, level, b"")


def test_the_probe_costs_a_fraction_of_what_it_saves() -> None:
    """Probing takes less than a tenth of compressing the same noise, the work it is there to avoid.

    Measured at one hundredth and below; the best of several runs is taken, so load does not matter.
    """
    raw = noise(4 * MIB)

    def best(runs: int, compressing: bool) -> float:
        times: list[float] = []
        for _ in range(runs):
            start = time.perf_counter()
            if compressing:
                codecs.compress("gzip", None, raw)
            else:
                sample_ratio(raw)
            times.append(time.perf_counter() - start)
        return min(times)

    assert best(9, compressing=False) * 10 < best(3, compressing=True)
    assert sample_ratio(raw) < MIN_RATIO
