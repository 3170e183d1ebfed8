"""Settings: where they come from, what is refused, and that everything wrong is told at once."""

from pathlib import Path
from typing import Any

import pytest

from lucid_events import config
from lucid_events.config.stages import BUILT, DEPENDS_ON, NOT_BUILT, graph_problems
from lucid_events.errors import ConfigError

BOTH: tuple[config.Service, ...] = ("pipeline", "recorder")


def problems(environ: dict[str, str], **options: Any) -> list[str]:
    """What is wrong with these settings."""
    with pytest.raises(ConfigError) as refused:
        config.load_settings(environ, **options)
    found = refused.value.fields["problems"]
    assert isinstance(found, list)
    return found


def test_nothing_set_is_the_defaults() -> None:
    """Without any source every setting is its default, and nothing is wrong, for one service and for both."""
    assert config.load_settings({}) == config.Settings()
    assert config.load_settings({}, services=BOTH) == config.Settings()


def test_the_defaults_are_those_of_the_services_before() -> None:
    """Names and defaults that deployments rest on stay as they were."""
    expected = {
        "PORT": None,
        "PIPELINE_PORT": 8083,
        "RECORDER_PORT": 8084,
        "HOST": "127.0.0.1",
        "DEBUG": False,
        "LOG_LEVEL": "INFO",
        "MAX_CONCURRENT_SESSIONS": 100,
        "LUCID_CHUNK_SIZE_MB": 10,
        "LUCID_COMPRESSION_LEVEL": None,
        "LUCID_COMPRESSION": "gzip",
        "LUCID_FFMPEG_PATH": "",
        "LUCID_XRDP_DISPLAY": ":10",
        "LUCID_VIDEO_CODEC": "auto",
        "LUCID_AUDIO_CODEC": "libopus",
        "LUCID_BITRATE": "2000k",
        "LUCID_FPS": 30,
        "LUCID_RESOLUTION": "1920x1080",
        "LUCID_HARDWARE_ACCELERATION": True,
        "LUCID_PREFIX": "lucid",
        "METRICS_ENABLED": True,
        "HEALTH_CHECK_INTERVAL": 30,
        "CORS_ORIGINS": (),
    }
    found = {field.env: field.default for field in config.fields()}
    assert {name: found[name] for name in expected} == expected
    rows = {
        "RECORDER": (2, 1000, 60, 3),
        "CHUNK": (3, 800, 45, 3),
        "COMPRESSOR": (4, 500, 30, 3),
        "ENCRYPTOR": (4, 500, 30, 3),
        "MERKLE": (2, 300, 20, 3),
        "STORAGE": (2, 100, 60, 3),
    }
    for stage, row in rows.items():
        names = [f"{stage}_{knob}" for knob in ("WORKERS", "BUFFER_SIZE", "TIMEOUT", "RETRY_COUNT")]
        assert tuple(found[name] for name in names) == row
        assert found[f"{stage}_MAX_MEMORY_MB"] == 64


def test_no_two_settings_share_a_name() -> None:
    """A variable and a key of the file stand for one setting each."""
    names = [name for field in config.fields() for name in (field.env, field.also) if name]
    assert len(set(names)) == len(names)
    paths = [field.name for field in config.fields()]
    assert len(set(paths)) == len(paths)


def test_later_sources_win(tmp_path: Path) -> None:
    """Flags are above the environment, which is above the file, which is above the defaults."""
    file = tmp_path / "lucid.toml"
    file.write_text(
        "prefix = 'file'\ncodec = 'lz4'\n[http]\nhost = '::1'\n[stages.compression]\nworkers = 7\n"
    )
    made = config.load_settings(
        {"LUCID_PREFIX": "env", "COMPRESSOR_WORKERS": "6"}, file=file, flags={"stages.compression.workers": 5}
    )
    assert (made.codec, made.http.host, made.prefix) == ("lz4", "::1", "env")
    assert made.stages.compression.workers == 5
    assert made.stages.storage == config.Settings().stages.storage


def test_an_empty_variable_and_a_flag_of_none_are_not_given() -> None:
    """A variable set to nothing, as shells and compose files do it, leaves the default."""
    assert config.load_settings({"PORT": "", "LUCID_FPS": ""}, flags={"http.host": None}) == config.Settings()


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    """Each problem names the variable, the value, where it came from, and what is allowed."""
    file = tmp_path / "lucid.toml"
    file.write_text("chunk_mib = 400\nnonsense = 1\n[screen]\nfps = 0\n")
    found = problems(
        {"COMPRESSOR_WORKERS": "0", "DEBUG": "perhaps", "LUCID_RESOLUTION": "1x1", "LUCID_COMPRESSION": "br"},
        file=file,
        flags={"prefix": "a.b"},
    )
    expected = [
        f"nonsense: no such setting in {file}",
        f"chunk_mib=400 from {file}: Expected `float` <= 100.0 (allowed: >= 1, <= 100)",
        f"screen.fps=0 from {file}: Expected `int` >= 1 (allowed: >= 1, <= 120)",
        "COMPRESSOR_WORKERS='0' from the environment: Expected `int` >= 1 (allowed: >= 1, <= 256)",
    ]
    for line in expected:
        assert line in found
    assert any(line.startswith("DEBUG='perhaps' from the environment") for line in found)
    assert any(line.startswith("--prefix='a.b' from the command line") for line in found)
    resolution = next(line for line in found if line.startswith("LUCID_RESOLUTION=1x1: "))
    assert "320x240" in resolution
    assert resolution.endswith("(LUCID_RESOLUTION from the environment)")
    assert any("LUCID_COMPRESSION" in line and "gzip, zstd, lz4, store, auto" in line for line in found)


def test_a_wrong_option_is_named_as_it_was_given() -> None:
    """An option that is called otherwise than its setting is named by its own name."""
    (line,) = problems({}, flags={"sweep_grace_s": -1.0}, options={"sweep_grace_s": "--grace"})
    assert line.startswith("--grace=-1.0 from the command line: ")


@pytest.mark.parametrize("text", ["always", "500ms", "10s", "2m", "1h"])
def test_sync_is_always_or_an_interval(text: str) -> None:
    """What the embedded server's configuration takes is taken."""
    assert config.load_settings({"LUCID_SYNC": text}).sync == text


@pytest.mark.parametrize("text", ["never", "0s", "2", "-1m", "2m }", "always\nmax_payload: 1", "1.5m"])
def test_anything_else_for_sync_is_refused(text: str) -> None:
    """It goes into the server's configuration as it stands: what is more than an interval is refused."""
    (line,) = problems({"LUCID_SYNC": text})
    assert line.startswith("LUCID_SYNC=")
    assert "allowed: always, or an interval" in line


@pytest.mark.parametrize("text", ["[http", "\x00", "prefix = \xff"])
def test_a_broken_file_is_named(text: str, tmp_path: Path) -> None:
    """A file that is not TOML, or is not there, is a problem like the others."""
    file = tmp_path / "lucid.toml"
    file.write_bytes(text.encode("latin-1"))
    assert any(str(file) in line for line in problems({}, file=file))
    assert problems({}, file=tmp_path / "none.toml")


def test_an_older_name_is_still_read() -> None:
    """`CHUNK_SIZE_MB` and `COMPRESSION_LEVEL` work; both names with different values are refused."""
    made = config.load_settings({"CHUNK_SIZE_MB": "5", "COMPRESSION_LEVEL": "9"})
    assert (made.chunk_mib, made.level) == (5, 9)
    assert config.load_settings({"CHUNK_SIZE_MB": "5", "LUCID_CHUNK_SIZE_MB": "5"}).chunk_mib == 5
    found = problems({"CHUNK_SIZE_MB": "5", "LUCID_CHUNK_SIZE_MB": "6"})
    assert len(found) == 1
    assert "CHUNK_SIZE_MB=5" in found[0]


@pytest.mark.parametrize(
    ("environ", "services", "said"),
    [
        ({"PORT": "9000"}, BOTH, "set PIPELINE_PORT and RECORDER_PORT"),
        ({"PORT": "9000", "PIPELINE_PORT": "9001"}, ("pipeline",), "unset one"),
        ({"PIPELINE_PORT": "9000", "RECORDER_PORT": "9000"}, BOTH, "must differ"),
        ({"SERVICE_NAME": "x"}, BOTH, "two services can't share a name"),
        ({"HOST": "0.0.0.0"}, ("pipeline",), "LUCID_INSECURE=1"),  # noqa: S104 - what is refused here
        ({"HOST": "example.org"}, ("pipeline",), "LUCID_ACCESS_FILE"),
        ({"LUCID_ACCESS_FILE": "/none/access.json"}, ("pipeline",), "there is no such file"),
        ({"LUCID_TLS_KEY": "k.pem"}, ("pipeline",), "a key without LUCID_TLS_CERT"),
        ({"LUCID_TLS_CLIENT_CA": "ca.pem"}, (), "need LUCID_TLS_CERT"),
        ({"LUCID_TRUSTED_PROXIES": "10.0.0.0/8,proxy"}, (), "'proxy' is neither an address"),
        ({"LUCID_CHUNK_OUTPUT_PATH": "/dev/null/x"}, ("recorder",), "no directory that can be written to"),
        ({"MAX_CONCURRENT_SESSIONS": "1001"}, (), "<= 1000"),
        ({"LUCID_RETENTION_PAYLOAD_DAYS": "91"}, (), "LUCID_RETENTION_METADATA_DAYS=90: less than"),
        (
            {"LUCID_RETENTION_MIN_DAYS": "9", "LUCID_RETENTION_MAX_DAYS": "8"},
            (),
            "LUCID_RETENTION_MAX_DAYS=8",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(
    environ: dict[str, str], services: tuple[config.Service, ...], said: str
) -> None:
    """What is fit alone and wrong together, or wrong for the services of this process, is told."""
    assert any(said in line for line in problems(environ, services=services))


def test_the_port_of_a_service_alone() -> None:
    """PORT is the port of the one service of a process; with two each has its own."""
    made = config.load_settings({"PORT": "9000"}, services=("recorder",)).http
    assert made.port_of("recorder", alone=True) == 9000
    assert config.HttpSettings().port_of("recorder", alone=True) == 8084
    assert made.port_of("pipeline", alone=False) == 8083
    assert (made.name_of("pipeline"), made.name_of("recorder")) == (
        "lucid-pipeline-manager",
        "lucid-session-recorder",
    )


def test_listening_on_everything_takes_a_decision() -> None:
    """Beyond loopback either somebody is asked who they are, or an explicit switch says not."""
    for allowed in (
        config.HttpSettings(host="0.0.0.0", insecure=True),  # noqa: S104 - on purpose
        config.HttpSettings(host="0.0.0.0", access_file="a"),  # noqa: S104 - on purpose
        config.HttpSettings(host="localhost"),
        config.HttpSettings(host="::1"),
    ):
        config.refuse_exposed(allowed.host, allowed)
    with pytest.raises(ConfigError):
        config.refuse_exposed("192.0.2.1", config.HttpSettings())


def test_secrets_are_masked_everywhere() -> None:
    """A seed or a password is in no problem and in no answer of `/config`."""
    secret = "SUAHJVMCGY34DGZFSJ2Y7WCYXQTUBIRD"
    made = config.load_settings(
        {"NATS_NKEY_SEED": secret, "NATS_URL": f"nats://ann:{secret}@a:1, nats://b:2"}
    )
    shown = config.masked(made)
    assert secret not in str(shown)
    assert shown["nats_url"] == f"nats://{config.MASK}@a:1,nats://b:2"
    assert shown["nats_nkey_seed"] == config.MASK
    assert shown["http"]["port"] is None  # type: ignore[index]  # a group is an object
    named = " ".join(problems({}, flags={"nats_nkey_seed": 17}))
    assert "17" not in named
    assert config.MASK in named


def test_stages_that_exist_run() -> None:
    """All built stages are on by default, and a process may leave the storing to others."""
    assert config.Settings().stage_names == BUILT
    assert config.Settings().stores_chunks
    taking_in = config.load_settings({"LUCID_STAGES": "recording"})
    assert not taking_in.stores_chunks


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ("recording,cooking", "unknown stage 'cooking'"),
        (",".join((*BUILT, "encryption")), "encryption is not built"),
        ("chunk_generation,compression,merkle_building,storage", "depends on recording"),
        ("recording,chunk_generation,merkle_building,storage", "depends on encryption or compression"),
        ("recording,chunk_generation", "no chunk would become ready"),
    ],
)
def test_stages_that_can_not_run_are_refused(stages: str, said: str) -> None:
    """An unknown stage, one that is not built, one without what it needs: each is told by name."""
    assert any(
        said in line and line.startswith("LUCID_STAGES=") for line in problems({"LUCID_STAGES": stages})
    )


def test_dependencies_are_checked_as_a_graph() -> None:
    """A cycle is told once, with its way round; a dependency nobody knows is told too."""
    ring = {"a": (("b",),), "b": (("c",),), "c": (("a",),), "d": ()}
    assert graph_problems(("a", "b", "c", "d"), ring) == ["stages wait for each other: a → b → c → a"]
    assert graph_problems(("a",), {"a": (("a",),)}) == ["stages wait for each other: a → a"]
    assert graph_problems(("a",), {"a": (("x",),)}) == ["a depends on the unknown stage x"]
    assert graph_problems((*BUILT, *NOT_BUILT), DEPENDS_ON) == []


def test_a_setting_without_effect_is_reported(tmp_path: Path) -> None:
    """What is set and drives nothing is told with the reason and never with the value of an address."""
    file = tmp_path / "lucid.toml"
    file.write_text("[stages.storage]\nbuffer = 50\n")
    found = config.idle_settings(
        {"ENCRYPTOR_WORKERS": "9", "COMPRESSOR_WORKERS": "2", "REDIS_URL": "redis://:hidden@h"}, file
    )
    assert [line.split(":")[0] for line in found] == [
        "ENCRYPTOR_WORKERS",
        "stages.storage.buffer",
        "REDIS_URL",
    ]
    assert "hidden" not in " ".join(found)
    idle = {field.env for field in config.fields() if field.idle}
    assert all(field.why.startswith("no effect: ") for field in config.fields() if field.idle)
    assert {f"ENCRYPTOR_{knob}" for knob in ("WORKERS", "TIMEOUT")} < idle
    assert not idle & {"COMPRESSOR_TIMEOUT", "MERKLE_BUFFER_SIZE", "STORAGE_MAX_MEMORY_MB", "CHUNK_TIMEOUT"}
