"""Settings of what proves a recording: who signs it, who is believed, how often it is looked at."""

from typing import Annotated

from lucid_events.config.declaring import Group, setting


class EvidenceSettings(Group, frozen=True, kw_only=True):
    """Signatures, the scrub that verifies stored chunks in the background, checkpoints of the log."""

    signing_seed: Annotated[
        str,
        setting(
            "LUCID_SIGNING_SEED",
            "seed that manifests are signed with, or a file of mode 0600 that holds it; unset: unsigned",
            secret=True,
        ),
    ] = ""
    signing_keys: Annotated[
        str, setting("LUCID_SIGNING_KEYS", "file of the public keys whose signatures are believed")
    ] = ""
    scrub_interval_s: Annotated[
        float,
        setting(
            "LUCID_SCRUB_INTERVAL",
            "how often stored chunks are verified in the background; 0: never",
            "s",
            ge=0,
            le=31_536_000,
        ),
    ] = 0.0
    scrub_percent: Annotated[
        float,
        setting("LUCID_SCRUB_SAMPLE", "share of all chunks that one scrub looks at", "%", gt=0, le=100),
    ] = 1.0
    checkpoint_interval_s: Annotated[
        float,
        setting(
            "LUCID_CHECKPOINT_INTERVAL",
            "how often a checkpoint of the whole log is made when anything was appended; 0: never",
            "s",
            ge=0,
            le=31_536_000,
        ),
    ] = 0.0
    checkpoint_messages: Annotated[
        int,
        setting(
            "LUCID_CHECKPOINT_EVENTS",
            "events after which a checkpoint is made before its time",
            ge=1,
            le=10**9,
        ),
    ] = 10_000
