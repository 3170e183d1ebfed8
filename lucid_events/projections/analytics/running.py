"""Running the analytics inside another process of ours; the driver's errors become the package's."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lucid_events.config import Settings
from lucid_events.errors import ConfigError, StoreUnavailable
from lucid_events.faust_nats import DriverError, Unsupported, crashed, running
from lucid_events.projections.analytics.app import Analytics, broker_url

_log = logging.getLogger(__name__)


@asynccontextmanager
async def analysing(settings: Settings, ended: "asyncio.Future[str] | None" = None) -> AsyncIterator[None]:
    """Run the analytics for the time of the context; `ended` is told when they end before it.

    Raises:
        ConfigError: the server is not fit for them, or their state has another number of partitions.
        StoreUnavailable: the server is gone, or another worker took the partitions over.
    """
    made = Analytics(broker_url(settings), settings.prefix)
    # Faust tells of every rebalance at INFO, in tables: not in the log of a pipeline.
    for name in ("faust", "mode", "lucid_events.faust_nats"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        async with running(made.app):
            watch = asyncio.create_task(crashed(made.app), name="lucid-analytics")
            watch.add_done_callback(lambda done: _tell(done, ended))
            try:
                yield
            finally:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
    except Unsupported as exc:
        raise ConfigError(f"analytics: {exc}") from exc
    except DriverError as exc:
        raise StoreUnavailable(f"analytics: {exc}") from exc


def _tell(done: "asyncio.Task[None]", ended: "asyncio.Future[str] | None") -> None:
    if done.cancelled() or (failure := done.exception()) is None:
        return
    _log.error("the analytics ended", extra={"reason": str(failure)})
    if ended is not None and not ended.done():
        ended.set_result(f"analytics: {failure}")
