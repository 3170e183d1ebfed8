"""Stream analytics: run them beside the pipeline, read what they know. Needs the extra `analytics`."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from lucid_events.config import Settings
from lucid_events.errors import ConfigError, NotFound
from lucid_events.jetstream.faults import STREAM_NOT_FOUND
from lucid_events.jetstream.pages import pages
from lucid_events.service.adapters import Adapters

if TYPE_CHECKING:
    import asyncio

    from lucid_events.projections.analytics.reading import Report


def require() -> None:
    """Check that the packages are there.

    Raises:
        ConfigError: they are not; says how to get them.
    """
    # Faust, once loaded, puts a module without a spec in its place.
    missing = [name for name in ("faust", "ddsketch") if name not in sys.modules and find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"analytics need {' and '.join(missing)}: install them with pip install 'lucid_events[analytics]'"
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
    require()
    from lucid_events.projections.analytics import reading  # noqa: PLC0415 - heavy, optional

    async def rows(table: str) -> dict[bytes, bytes]:
        stream, subject = reading.place(adapters.subjects.prefix, table)
        found: dict[bytes, bytes] = {}
        async for page in pages(adapters.connection, stream, subject):
            for message in page:
                if (key := reading.entry(message.subject, message.headers)) is not None:
                    found[key] = message.data
        return found

    stream, _ = reading.place(adapters.subjects.prefix, "totals")
    try:
        await adapters.connection.api(f"STREAM.INFO.{stream}")
    except ConfigError as exc:
        if exc.fields.get("err_code") != STREAM_NOT_FOUND:
            raise
        raise NotFound("no analytics have run on this server: use `lucid up --analytics`") from exc
    totals, windows = await rows("totals"), await rows("windows")
    return reading.report(totals.values(), windows.items(), size_s, last)
