import pytest

from lucid_events.domain.codecs import CODECS, SETTINGS, check_codec, check_level, check_setting
from lucid_events.errors import ConfigError


@pytest.mark.parametrize(
    ("setting", "level"), [("gzip", 6), ("zstd", 3), ("lz4", 0), ("auto", 3), ("store", None)]
)
def test_an_unset_level_is_the_default_of_the_codec(setting: str, level: int | None) -> None:
    """Leaving the level out gives each codec its own default."""
    assert check_level(setting, None) == level


@pytest.mark.parametrize(("setting", "low", "high"), [("gzip", 1, 9), ("zstd", 1, 22), ("lz4", 0, 16)])
def test_the_range_of_levels_is_exact(setting: str, low: int, high: int) -> None:
    """Both ends of a codec's range are accepted, one beyond either is an error that says the range."""
    assert [check_level(setting, level) for level in (low, high)] == [low, high]
    for level in (low - 1, high + 1):
        with pytest.raises(ConfigError, match=rf"level {level} for {setting}: must be {low} to {high}"):
            check_level(setting, level)


@pytest.mark.parametrize("level", [True, 6.0, "6"])
def test_a_level_is_an_integer(level: object) -> None:
    """What merely compares like an integer is no level."""
    with pytest.raises(ConfigError, match="must be 1 to 9"):
        check_level("gzip", level)  # type: ignore[arg-type]


def test_store_has_no_level() -> None:
    """A level given to `store` is an error, not ignored."""
    with pytest.raises(ConfigError, match="level 3 for store"):
        check_level("store", 3)


@pytest.mark.parametrize("name", ["", "GZIP", "brotli", "gzip "])
def test_an_unknown_codec_is_an_error(name: str) -> None:
    """An unknown name is refused with the names there are; nothing falls back to a default."""
    for check in (check_codec, check_setting):
        with pytest.raises(ConfigError, match="must be one of gzip, zstd, lz4, store") as caught:
            check(name)
        assert caught.value.fields["value"] == name
    with pytest.raises(ConfigError):
        check_level(name, None)


def test_auto_is_a_setting_and_no_codec() -> None:
    """`auto` may be asked for, but no object is ever written with it."""
    assert check_setting("auto") == "auto"
    assert "auto" in SETTINGS
    with pytest.raises(ConfigError, match="'auto'"):
        check_codec("auto")


def test_suffixes_are_those_of_the_tools() -> None:
    """Exported files carry the suffix that the command line tools expect."""
    suffixes = {codec: facts.suffix for codec, facts in CODECS.items()}
    assert suffixes == {"gzip": ".gz", "zstd": ".zst", "lz4": ".lz4", "store": ""}
