"""Where the analytics are kept: names that its writer and its readers must agree on.

The driver makes these names; they are written out again here because a reader must not load it, and
Faust with it. A test holds them against the driver's own.
"""

import base64
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

PARTITIONS: Final = 4
"""Workers that can share the load. Fixed once there is state: the driver refuses another number."""

CONSUMER: Final = "analytics"
"""Name in the dead letters."""
PREFIX: Final = "faust"
TOPIC: Final = "events"
TABLES: Final = ("sessions", "totals", "windows")

Length = Literal["10s", "1m", "1h"]
LENGTHS: Final[Mapping[str, int]] = MappingProxyType({"10s": 10, "1m": 60, "1h": 3600})
"""Lengths of the windows as people write them, in seconds."""
MAX_LAST: Final = 720
"""Most windows one report tells."""

GONE: Final = "Faust-Null"
"""Header of a changelog entry that says its key is gone."""


def app_id(prefix: str, version: int = 1) -> str:
    """Return the app's id; another version has tables of its own."""
    return f"{prefix}-analytics-v{version}"


def state_stream(prefix: str, version: int = 1) -> str:
    """Return the stream that holds all the analytics know, as the driver names it; needs no Faust."""
    return f"{PREFIX}_{app_id(prefix, version)}_state"


def changelog(prefix: str, table: str, version: int = 1) -> str:
    """Return the topic of a table's changelog."""
    return f"{app_id(prefix, version)}-{table}-changelog"


def table_filter(prefix: str, table: str) -> str:
    """Return the filter for all of a table's changelog."""
    return f"{_table(prefix, table)}.>"


def entry_subject(prefix: str, table: str, partition: int, key: bytes) -> str:
    """Return the subject of one key of a table's changelog."""
    return f"{_table(prefix, table)}.{partition}.k{base64.urlsafe_b64encode(key).rstrip(b'=').decode()}"


def entry_key(subject: str) -> bytes:
    """Return the key whose entry is on `subject`."""
    made = subject.rpartition(".")[2][1:]
    return base64.urlsafe_b64decode(made + "=" * (-len(made) % 4))


def _table(prefix: str, table: str) -> str:
    return f"{PREFIX}.app.{app_id(prefix)}.table.{changelog(prefix, table)}"
