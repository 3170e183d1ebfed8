"""Stream analytics over the event log: a Faust app, and how its tables are read.

Needs the extra `analytics`. Nothing here is imported unless it is asked for, and importing this
package does not import Faust: `faust -A lucid_events.projections.analytics worker` asks for `app`.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "app":
        from lucid_events.projections.analytics.app import from_environment  # noqa: PLC0415 - asked for now

        made = from_environment()
        globals()["app"] = made
        return made
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
