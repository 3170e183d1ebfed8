"""What a service says of its health: alive, ready, and why not.

`/health/live` asks nothing: a process that answers is alive, and to restart it because its server is
away would only add to the trouble. `/health` and `/health/ready` look at the probes.
"""

from datetime import UTC, datetime
from typing import Final

import msgspec

from lucid_events import __version__
from lucid_events.domain.transitions import OPEN
from lucid_events.errors import LucidError
from lucid_events.service.monitoring import Monitor

WELL: Final = "healthy"
UNWELL: Final = "unhealthy"


class HealthAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How a service is; `down` names what is not well, and what to do about it.

    `active_pipelines` is None when the sessions can't be counted.
    """

    status: str
    service: str
    version: str
    active_pipelines: int | None
    time: datetime
    checks: dict[str, str]
    down: dict[str, str]


async def health(monitor: Monitor, service: str) -> tuple[int, HealthAnswer]:
    """Return (status, body): 200 when every probe is well, else 503."""
    found = await monitor.health.look()
    try:
        sessions = await monitor.sessions()
        active = sum(count for state, count in sessions.items() if state in OPEN)
    except LucidError:
        active = None
    answer = HealthAnswer(
        status=WELL if found.well else UNWELL,
        service=service,
        version=__version__,
        active_pipelines=active,
        time=datetime.now(UTC),
        checks={one.name: "ok" if one.well else "down" for one in found.findings},
        down=found.down,
    )
    return 200 if found.well else 503, answer


def live(service: str) -> HealthAnswer:
    """Return that the process answers."""
    return HealthAnswer(
        status="alive",
        service=service,
        version=__version__,
        active_pipelines=None,
        time=datetime.now(UTC),
        checks={},
        down={},
    )
