"""All settings of the package: one frozen struct, built once in `main` and passed down."""

from typing import Annotated

from lucid_events.config.declaring import Field, Group, fields_of, setting
from lucid_events.config.evidence import EvidenceSettings
from lucid_events.config.http import HttpSettings
from lucid_events.config.retention import RetentionSettings
from lucid_events.config.screen import ScreenSettings
from lucid_events.config.stages import BUILT, STORING, StagesSettings
from lucid_events.domain.values import MIB, SessionSettings


class Settings(Group, frozen=True, kw_only=True):
    """Everything that can be set, with its limits; `http`, `retention`, `screen` and `stages` are groups."""

    nats_url: Annotated[
        str,
        setting("NATS_URL", "server to use; empty means the embedded one for `up` and loopback elsewhere"),
    ] = ""
    nats_creds: Annotated[str, setting("NATS_CREDS", "credentials file (JWT and seed)")] = ""
    nats_nkey_seed: Annotated[
        str, setting("NATS_NKEY_SEED", "nkey seed, or a file that holds it", secret=True)
    ] = ""
    nats_context: Annotated[str, setting("NATS_CONTEXT", "name of a context of the `nats` tool")] = ""
    nats_ca: Annotated[
        str,
        setting("NATS_CA", "certificates of the authorities that vouch for the server; unset: the system's"),
    ] = ""
    nats_cert: Annotated[str, setting("NATS_CERT", "our own certificate, where the server asks for one")] = ""
    nats_key: Annotated[str, setting("NATS_KEY", "file with the key of `NATS_CERT`")] = ""
    nats_inbox_prefix: Annotated[
        str, setting("NATS_INBOX_PREFIX", "where answers arrive; a role may hear its own alone (roles.conf)")
    ] = ""
    nats_js_api_prefix: Annotated[
        str,
        setting("NATS_JS_API_PREFIX", "JetStream API of another account or domain; unset: `$JS.API`"),
    ] = ""
    prefix: Annotated[
        str, setting("LUCID_PREFIX", "first token of every subject", pattern="^[A-Za-z0-9_-]{1,100}$")
    ] = "lucid"
    data: Annotated[str, setting("LUCID_DATA", "directory of the embedded server's store")] = ""
    actor: Annotated[str, setting("LUCID_ACTOR", "who asks; stored unverified without an identity")] = ""
    chunk_mib: Annotated[
        float,
        setting(
            "LUCID_CHUNK_SIZE_MB", "raw size a chunk is cut at", "MiB", also="CHUNK_SIZE_MB", ge=1, le=100
        ),
    ] = 10
    chunk_seconds: Annotated[
        float,
        setting(
            "LUCID_CHUNK_SECONDS", "a chunk is cut after this long even when small", "s", gt=0, le=86_400
        ),
    ] = 300
    codec: Annotated[
        str, setting("LUCID_COMPRESSION", "how chunks are compressed", allowed="gzip, zstd, lz4, store, auto")
    ] = "gzip"
    level: Annotated[
        int | None,
        setting(
            "LUCID_COMPRESSION_LEVEL",
            "unset is the codec's default",
            also="COMPRESSION_LEVEL",
            allowed="the codec's own range",
        ),
    ] = None
    max_sessions: Annotated[
        int,
        setting("MAX_CONCURRENT_SESSIONS", "open sessions beyond which `create` is refused", ge=1, le=1000),
    ] = 100
    stage_names: Annotated[
        tuple[str, ...],
        setting("LUCID_STAGES", "stages this process runs", allowed=f"{', '.join(BUILT)}"),
    ] = BUILT
    capture_max_mib: Annotated[
        int,
        setting(
            "LUCID_CAPTURE_MAX_MB",
            "raw bytes that may wait for storage; full pushes back",
            "MiB",
            ge=1,
            le=10**7,
        ),
    ] = 8192
    flush_interval_s: Annotated[
        float, setting("LUCID_FLUSH_INTERVAL", "longest a captured byte waits to be sent", "s", gt=0, le=60)
    ] = 1.0
    beat_interval_s: Annotated[
        float, setting("LUCID_BEAT_INTERVAL", "how often a recorder says it is alive", "s", gt=0, le=60)
    ] = 5.0
    lease_s: Annotated[
        float,
        setting("LUCID_LEASE", "a recorder silent this long is looked at, then given up", "s", gt=0, le=3600),
    ] = 30.0
    start_timeout_s: Annotated[
        float,
        setting(
            "LUCID_START_TIMEOUT", "starting or active without a recorder becomes error", "s", gt=0, le=86_400
        ),
    ] = 60.0
    pause_timeout_s: Annotated[
        float,
        setting("LUCID_PAUSE_TIMEOUT", "a pause not drained by then becomes error", "s", gt=0, le=86_400),
    ] = 60.0
    stop_timeout_s: Annotated[
        float,
        setting(
            "LUCID_STOP_TIMEOUT", "a stop without progress for so long becomes error", "s", gt=0, le=86_400
        ),
    ] = 300.0
    cleanup_attempts: Annotated[
        int, setting("LUCID_CLEANUP_ATTEMPTS", "erasing tries before a person has to look", ge=1, le=100)
    ] = 5
    window_mib: Annotated[
        int,
        setting("LUCID_WINDOW_MB", "raw bytes a recorder may have sent and not acked", "MiB", ge=1, le=1024),
    ] = 16
    spool: Annotated[
        str,
        setting("LUCID_RECORDING_PATH", "directory of the recorder's spool; unset: it blocks its source"),
    ] = ""
    spool_max_mib: Annotated[
        int, setting("LUCID_SPOOL_MAX_MB", "most a recorder may spool", "MiB", ge=1, le=10**7)
    ] = 4096
    spool_after_s: Annotated[
        float, setting("LUCID_SPOOL_AFTER", "how long it blocks before it spools", "s", ge=0, le=3600)
    ] = 5.0
    chunk_output: Annotated[
        str, setting("LUCID_CHUNK_OUTPUT_PATH", "directory that stored chunks are also written to")
    ] = ""
    sweep_grace_s: Annotated[
        float, setting("LUCID_SWEEP_GRACE", "age at which pieces without metadata are orphans", "s", ge=0)
    ] = 3600.0
    shutdown_s: Annotated[
        float,
        setting("LUCID_SHUTDOWN_TIMEOUT", "how long a stop waits for work in flight", "s", gt=0, le=3600),
    ] = 20.0
    disk_floor_mib: Annotated[
        int,
        setting(
            "LUCID_DISK_FLOOR_MB",
            "free space below which `/health/ready` is not, on the disks this process writes to",
            "MiB",
            ge=0,
            le=10**7,
        ),
    ] = 512
    replicas: Annotated[int, setting("LUCID_REPLICAS", "replicas of streams that allow it", ge=1, le=5)] = 1
    sync: Annotated[
        str,
        setting(
            "LUCID_SYNC",
            "embedded server: when it writes to the disk",
            allowed="always, or an interval such as 500ms, 10s, 2m, 1h",
            pattern="^(always|[1-9][0-9]*(ms|s|m|h))$",
        ),
    ] = "always"
    log_level: Annotated[
        str,
        setting(
            "LOG_LEVEL",
            "what is logged, and what is more severe",
            allowed="DEBUG, INFO, WARNING, ERROR",
            pattern="^(DEBUG|INFO|WARNING|ERROR)$",
        ),
    ] = "INFO"
    log_json: Annotated[bool, setting("LUCID_LOG_JSON", "one JSON object a line instead of text")] = False
    debug: Annotated[bool, setting("DEBUG", "log level DEBUG unless LOG_LEVEL is set")] = False
    evidence: EvidenceSettings = EvidenceSettings()
    http: HttpSettings = HttpSettings()
    retention: RetentionSettings = RetentionSettings()
    screen: ScreenSettings = ScreenSettings()
    stages: StagesSettings = StagesSettings()

    @property
    def stores_chunks(self) -> bool:
        """Whether this process takes sealed chunks into the store, or only recordings in."""
        return all(name in self.stage_names for name in STORING)

    @property
    def session_defaults(self) -> SessionSettings:
        """The settings of a session that asks for none."""
        return SessionSettings(
            chunk_bytes=int(self.chunk_mib * MIB),
            chunk_seconds=self.chunk_seconds,
            codec=self.codec,
            level=self.level,
            retention=self.retention.policy,
        )


def fields() -> tuple[Field, ...]:
    """Return every setting, in the order of `Settings`."""
    return tuple(fields_of(Settings))
