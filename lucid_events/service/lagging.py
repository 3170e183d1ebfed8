"""How far behind each durable consumer is, as the server tells it: the same from every process.

Three numbers a consumer: messages behind, the age of the oldest one not done, and how long nothing
has been done while something waits. An idle consumer has three zeros.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from lucid_events.codec import parse_timestamp
from lucid_events.errors import NotFound
from lucid_events.handlers.progress import Lag
from lucid_events.jetstream.connection import Connection
from lucid_events.jetstream.definitions import load
from lucid_events.service.adapters import Adapters, current_topology

IDLE = Lag(events_behind=0, seconds_behind=0.0, seconds_since_progress=0.0)


async def lags(adapters: Adapters) -> dict[str, Lag]:
    """Return the lag of every consumer that is defined, by its name.

    Raises:
        ConfigError: one of them does not exist.
        StoreUnavailable: the server could not be asked.
    """
    definitions = load(adapters.subjects, await current_topology(adapters))
    return {
        one.name: await _lag(adapters.connection, one.stream, one.name)
        for one in definitions
        if one.kind == "consumer"
    }


async def _lag(connection: Connection, stream: str, consumer: str) -> Lag:
    info = await connection.api(f"CONSUMER.INFO.{stream}.{consumer}")
    behind = int(info["num_pending"]) + int(info["num_ack_pending"])
    if not behind:
        return IDLE
    now = _time(info.get("ts")) or datetime.now(UTC)
    oldest = await _oldest(connection, stream, info)
    if oldest is None:
        return Lag(events_behind=behind, seconds_behind=0.0, seconds_since_progress=0.0)
    age_s = max(0.0, (now - oldest).total_seconds())
    moved = _time(info["ack_floor"].get("last_active"))
    still_s = age_s if moved is None else max(0.0, (now - moved).total_seconds())
    # A consumer that was idle before has not stood still for longer than its oldest message waits.
    return Lag(events_behind=behind, seconds_behind=age_s, seconds_since_progress=min(still_s, age_s))


async def _oldest(connection: Connection, stream: str, info: Mapping[str, Any]) -> datetime | None:
    """Return when the first message behind the ack floor was stored: everything before it is done."""
    config = info["config"]
    filters = config.get("filter_subjects") or [config.get("filter_subject") or ">"]
    times = []
    for subject in filters:
        body = {"seq": int(info["ack_floor"]["stream_seq"]) + 1, "next_by_subj": subject}
        try:
            found = await connection.api(f"STREAM.MSG.GET.{stream}", body)
        except NotFound:
            continue  # none of this filter, or it is gone: nothing waits there
        times.append(parse_timestamp(found["message"]["time"]))
    return min(times, default=None)


def _time(text: str | None) -> datetime | None:
    when = parse_timestamp(text) if text else None
    return None if when is None or when.year < 1970 else when  # the server's zero time is year 1
