"""Where the analytics are kept: names that its writer and its readers must agree on."""

from typing import Final

PARTITIONS: Final = 4
"""Workers that can share the load. Fixed once there is state: the driver refuses another number."""

CONSUMER: Final = "analytics"
"""Name in the dead letters."""
PREFIX: Final = "faust"
TOPIC: Final = "events"
TABLES: Final = ("sessions", "totals", "windows")


def app_id(prefix: str, version: int = 1) -> str:
    """Return the app's id; another version has tables of its own."""
    return f"{prefix}-analytics-v{version}"


def state_stream(prefix: str, version: int = 1) -> str:
    """Return the stream that holds all the analytics know, as the driver names it; needs no Faust."""
    return f"{PREFIX}_{app_id(prefix, version)}_state"


def changelog(prefix: str, table: str, version: int = 1) -> str:
    """Return the topic of a table's changelog."""
    return f"{app_id(prefix, version)}-{table}-changelog"
