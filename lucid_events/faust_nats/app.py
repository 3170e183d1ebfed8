"""Making and running apps: safe defaults, existing streams as topics, crashes that are not swallowed."""

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import faust
from faust.types.enums import ProcessingGuarantee
from mode import Service

from lucid_events.faust_nats.errors import DriverError, Unavailable, Unsupported
from lucid_events.faust_nats.topology import EventLog
from lucid_events.faust_nats.transport import BOUND

_log = logging.getLogger(__name__)

STOP_S: Final = 30.0
"""How long a stop may take beside the wait for the events in hand (`broker_rebalance_timeout`): the last
commit, and the answers to what was sent. A server that is away for longer is not waited for."""
ABANDON_S, ABANDON_TIMES = 1.0, 5
"""How long what is cancelled may take to end, before it is cancelled again, and how often that is done."""

DEFAULTS: Final[dict[str, Any]] = {
    "store": "jetstream://",
    "processing_guarantee": "exactly_once",
    "topic_partitions": 4,
    "topic_replication_factor": 1,
    # A dead worker is replaced after the session; half of it would take a slow event for a death.
    "broker_session_timeout": 10.0,
    "broker_heartbeat_interval": 2.0,
    "broker_commit_interval": 0.5,
    # How long a rebalance, or a stop, waits for the events in hand.
    "broker_rebalance_timeout": 30.0,
    # Workers that start together are gathered by the coordinator already.
    "stream_recovery_delay": 0.0,
    # The entry that a table was loaded up to may run out of time before recovery looks.
    "recovery_consistency_check": False,
    "web_enabled": False,
    # `faust worker` serves all the same unless told `--without-web`, and asks nobody who they are.
    "web_bind": "127.0.0.1",
    "table_standby_replicas": 0,
}


def create_app(id: str, url: str, *, logs: Iterable[EventLog] = (), **settings: Any) -> faust.App:
    """Return an app on the server at `url`, exactly-once unless told otherwise; it is not started.

    Args:
        id: names the app's group and state; a new one starts from the beginning.
        url: `nats://…`, see `options.py` for its parameters.
        logs: existing streams that are topics of this app.
        settings: as `faust.App` takes them; they win over the defaults here.
    """
    # Faust makes this folder when the app starts; its default is one in the working directory.
    folder = Path(tempfile.gettempdir()) / f"faust-{id}"
    app = faust.App(id, **{**DEFAULTS, "datadir": folder, "broker": url, **settings})
    for log in logs:
        bind(app, log)
    return app


def bind(app: faust.App, log: EventLog) -> None:
    """Let an existing stream be a topic of `app`; call it before the app starts."""
    kept = getattr(app, BOUND, None)
    if kept is None:
        kept = {}
        setattr(app, BOUND, kept)
    kept[log.topic] = log
    made: Any = app._transport
    if made is not None:
        made.bind(log)


@asynccontextmanager
async def running(app: faust.App) -> AsyncIterator[faust.App]:
    """Run `app` for the time of the context; what crashes it is raised there, at the latest at the end.

    Faust itself reports a crash of a service in the background to a worker process only. Await
    `crashed(app)` beside the work to be told at once.

    Raises:
        DriverError: the driver gave up; see `errors.py`.
    """
    # Faust asks for a worker process before it lets an app use transactions, and asks but once.
    app.in_worker = True
    app.finalize()
    conf: Any = app.conf
    if conf.processing_guarantee is ProcessingGuarantee.EXACTLY_ONCE and not app.in_transaction:
        raise Unsupported(
            f"{app.conf.id}: its consumer was looked at before it ran, so it would not be exactly_once: "
            "look at it inside of `running`"
        )
    try:
        # Inside: a start that fails half-way has started services too.
        await app.start()
        _raise(app)
        yield app
    finally:
        await _stop(app)
    _raise(app)


async def _stop(app: faust.App) -> None:
    """Stop `app` and what it runs on, in bounded time.

    Raises:
        Unavailable: it did not stop in order; what was not committed will be repeated.
        DriverError: it could not store what was sent; it is ended all the same.
    """
    made: Any = app._transport
    # A task of its own: mode takes a cancellation in the middle of a stop for that of a child.
    stopping: asyncio.Task[None] | None = None
    try:
        if made is None or not made.link.cut_off:
            stopping = asyncio.create_task(app.stop(), name="faust-nats-stop")
            await asyncio.wait((stopping,), timeout=app.conf.broker_rebalance_timeout + STOP_S)
    finally:
        in_time = stopping is not None and stopping.done()
        if stopping is None or not in_time or stopping.exception() is not None:
            await _abandon(app, stopping)
        if made is not None:
            await made.link.close()
    if stopping is None:
        return
    if not in_time:
        raise Unavailable(f"{app.conf.id} did not stop in time: what it had not committed will be repeated")
    await stopping


async def _abandon(app: faust.App, stopping: "asyncio.Task[None] | None") -> None:
    """End `app` without waiting for anything that it has in hand."""
    _log.error("the app can't be stopped in order", extra={"reason": app.conf.id})
    _tell_to_end(app)
    # `asyncio.run` ends what is left by cancelling every task once, those of the connection among them.
    # Faust takes that for the end of an agent and starts it again, which would keep the loop for ever.
    here = asyncio.current_task()
    for _ in range(ABANDON_TIMES):
        left: list[asyncio.Future[Any]] = [task for task in asyncio.all_tasks() if task != here]
        if stopping is not None:  # the loop goes on with what is not ours
            left = [one for one in (stopping, *_futures(app)) if not one.done()]
        for task in left:
            task.cancel()
        if not left or not (await asyncio.wait(left, timeout=ABANDON_S))[1]:
            return


def _tell_to_end(app: faust.App) -> None:
    """Tell every part of `app` to end; mode's own stop asks one only after the other has ended."""
    for service in _parts(app):
        service._stopped_set()
        for future in tuple(service._futures):
            future.cancel()


def _parts(app: faust.App) -> list[Any]:
    """Return `app` and the services below it: a supervisor that is left out starts its agents again."""
    found: list[Any] = []
    left: list[Any] = [app, *app.agents.values()]
    while left:
        service = left.pop()
        if isinstance(service, Service) and service not in found:
            found.append(service)
            left += (*service._children, service.supervisor, *getattr(service, "_services", ()))
    return found


def _futures(app: faust.App) -> set["asyncio.Future[Any]"]:
    """Return what the parts of `app` have in hand; mode may take one cancellation for that of another."""
    return {future for part in _parts(app) for future in part._futures}


async def crashed(app: faust.App) -> None:
    """Wait until `app` stops; raise what crashed it, if something did."""
    await app.wait_until_stopped()
    _raise(app)


def _raise(app: faust.App) -> None:
    reason = _reason(app)
    if reason is not None:
        raise reason


def _reason(app: faust.App) -> BaseException | None:
    """Return what crashed `app` or a part of it, the driver's own reason first."""
    services = [app, app._producer, app._consumer]
    reasons = [one.crash_reason for one in services if isinstance(one, Service) and one.crash_reason]
    first = reasons[0] if reasons else None
    return next((reason for reason in reasons if isinstance(reason, DriverError)), first)
