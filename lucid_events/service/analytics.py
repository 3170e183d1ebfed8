"""Stream analytics: run them beside the pipeline, read what they know. Needs the extra `analytics`.

Reading loads no Faust: it looks at what the workers left on the server.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Final

from lucid_events.config import Settings
from lucid_events.errors import ConfigError, NotFound, StoreUnavailable
from lucid_events.jetstream.pages import pages
from lucid_events.projections.analytics import layout
from lucid_events.projections.analytics.reports import Glance, Report
from lucid_events.service.adapters import Adapters

RUNNING: Final = ("faust", "ddsketch")
READING: Final = ("ddsketch",)
ASKED: Final = 500
"""Rows asked for at once: the server refuses to look for more than 1024."""
GLANCE_S: Final = 2.0
"""Longest a glance may take: whoever scrapes metrics has given up after ten, and asks for more than this."""


def require(packages: Iterable[str] = RUNNING) -> None:
    """Check that the packages are there.

    Raises:
        ConfigError: they are not; says how to get them.
    """
    # Faust, once loaded, puts a module without a spec in its place.
    missing = [name for name in packages if name not in sys.modules and find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"analytics need {' and '.join(missing)}: run pip install -e '.[analytics]' in the checkout"
        )


@asynccontextmanager
async def analysing(settings: Settings, ended: "asyncio.Future[str] | None" = None) -> AsyncIterator[None]:
    """Run the analytics in this process for the time of the context.

    Raises:
        ConfigError: the extra is missing, or the server is not fit.
    """
    require()
    from lucid_events.projections.analytics.running import analysing as run  # noqa: PLC0415 - heavy, optional

    async with run(settings, ended):
        yield


async def read(adapters: Adapters, *, size_s: int, last: int) -> "Report":
    """Return what the analytics know about the `last` windows of `size_s` seconds.

    Raises:
        ConfigError: the extra is missing.
        NotFound: no analytics have run on this server.
        StoreUnavailable: not answered.
    """
    await _look(adapters)
    require(READING)
    from lucid_events.projections.analytics import reading  # noqa: PLC0415 - heavy, optional

    totals = await _totals(adapters)
    windows = await _windows(adapters, reading.needed(totals, size_s, last))
    return reading.report(totals.values(), windows.items(), size_s, last)


async def glance(adapters: Adapters) -> Glance | None:
    """Return what metrics tell, None where there is nothing to tell: no analytics, or no way to read them.

    Raises:
        StoreUnavailable: not answered in time.
    """
    try:
        async with asyncio.timeout(GLANCE_S):
            return await _glance(adapters)
    except (NotFound, ConfigError):
        # The second: the extra is missing, or this login may not read them; the pipeline is well.
        return None
    except TimeoutError as exc:
        raise StoreUnavailable(f"the analytics were not read within {GLANCE_S:g} s: try again") from exc


async def _glance(adapters: Adapters) -> Glance:
    await _look(adapters)
    require(READING)
    from lucid_events.projections.analytics import reading  # noqa: PLC0415 - heavy, optional

    log = await adapters.connection.api(f"STREAM.INFO.{adapters.subjects.events_stream}")
    totals = await _totals(adapters)
    minute, places = reading.last_minute(adapters.clock.now())
    windows = await _windows(adapters, places)
    return reading.glance(totals.values(), minute, windows.values(), int(log["state"]["messages"]))


async def _look(adapters: Adapters) -> None:
    """Look whether there are analytics.

    Raises:
        NotFound: there are none.
    """
    stream = layout.state_stream(adapters.subjects.prefix)
    if await adapters.connection.stream_info(stream) is None:
        raise NotFound("no analytics have run on this server: use `lucid up --analytics`")


async def _totals(adapters: Adapters) -> dict[bytes, bytes]:
    prefix = adapters.subjects.prefix
    stream, found = layout.state_stream(prefix), {}
    async for page in pages(adapters.connection, stream, layout.table_filter(prefix, "totals")):
        for message in page:
            if layout.GONE not in message.headers:
                found[layout.entry_key(message.subject)] = message.data
    return found


async def _windows(adapters: Adapters, places: Iterable[tuple[int, bytes]]) -> dict[bytes, bytes]:
    prefix = adapters.subjects.prefix
    subjects = [layout.entry_subject(prefix, "windows", partition, key) for partition, key in places]
    found = {}
    for first in range(0, len(subjects), ASKED):
        asked = {"multi_last": subjects[first : first + ASKED]}
        page = await adapters.connection.direct_get(layout.state_stream(prefix), asked)
        for message in page:
            if layout.GONE not in message.headers:
                found[layout.entry_key(message.subject)] = message.data
    return found
