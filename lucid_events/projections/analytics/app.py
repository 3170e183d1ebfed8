"""The Faust app: one agent over the log, three tables, exactly once.

An event that can't be read is set aside as every consumer of the log does it: a pointer in the stream
of dead letters, then on with the next. What fails otherwise ends the app: to Faust an event whose agent
raises is done, and it would be in no table and in no letter.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast
from urllib.parse import urlencode

import faust
import msgspec

from lucid_events import codec
from lucid_events.config import Settings, load_settings
from lucid_events.domain.ids import NO_DIGEST
from lucid_events.errors import ConfigError, ContractError
from lucid_events.faust_nats import EventLog, create_app
from lucid_events.projections.analytics.folding import fold, note
from lucid_events.projections.analytics.layout import CONSUMER, PARTITIONS, PREFIX, TABLES, TOPIC, app_id
from lucid_events.stored import stray_reason
from lucid_events.subjects import Subjects

_log = logging.getLogger(__name__)

DEFAULT_URL: Final = "nats://127.0.0.1:4222"
MAX_REASON: Final = 2000


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A pointer to a message set aside; `handlers.dead_letters.Pointer` reads it."""

    stream: str
    sequence: int
    subject: str
    consumer: str
    code: str
    reason: str
    attempts: int
    time: datetime


class Analytics:
    """The app on one server, not started; `version` starts afresh from the first event."""

    def __init__(self, url: str, prefix: str = "lucid", *, version: int = 1, **settings: Any) -> None:
        self._subjects = Subjects(prefix)
        log = EventLog(
            topic=TOPIC,
            stream=self._subjects.events_stream,
            subject=self._subjects.all_events,
            key_token=2,
            partitions=PARTITIONS,
        )
        app = create_app(
            app_id(prefix, version),
            url,
            logs=[log],
            topic_partitions=PARTITIONS,
            table_cleanup_interval=3600.0,
            **settings,
        )
        self.app = app
        self.sessions, self.totals, self.windows = (self._table(name) for name in TABLES)
        # Raw: what is wrong with an event is for the project's own decoder to find, and to set aside.
        topic = app.topic(TOPIC, key_serializer="raw", value_serializer="raw", partitions=PARTITIONS)
        self.agent = app.agent(topic, name="analytics")(self._consume)

    def _table(self, name: str) -> Any:
        # Bytes, not objects: a value that can be changed in place would escape the transaction.
        return self.app.Table(name, key_type=bytes, value_type=bytes, partitions=PARTITIONS)

    async def _consume(self, stream: faust.StreamT[Any]) -> None:
        async for event in stream.events():
            try:
                await self._take(event.message)
            except Exception as exc:  # noqa: BLE001 - this is the pull loop
                _log.error(
                    "an event was not counted", extra={"sequence": event.message.offset, "reason": repr(exc)}
                )
                await self.app.crash(exc)
                # Neither on nor out: either would tell Faust that the event is done. The stop ends this.
                await asyncio.get_running_loop().create_future()

    async def _take(self, message: Any) -> None:
        headers = {name: value.decode() for name, value in message.headers or ()}
        if stray_reason(headers, message.key.decode()) is not None:
            note(message.partition, message.offset, self.totals, strays=1)
            return
        try:
            recorded = codec.decode_event(
                headers,
                message.value,
                sequence=message.offset,
                stored_at=datetime.fromtimestamp(message.timestamp, UTC),
                digest=NO_DIGEST,
            )
        except ContractError as exc:
            await self._set_aside(message, headers, exc)
            note(message.partition, message.offset, self.totals, undecodable=1)
            return
        fold(recorded, message.partition, self.sessions, self.totals, self.windows)

    async def _set_aside(self, message: Any, headers: Mapping[str, str], exc: ContractError) -> None:
        letter = Letter(
            stream=self._subjects.events_stream,
            sequence=message.offset,
            subject=self._subjects.event(message.key.decode(), headers[codec.TYPE]),
            consumer=CONSUMER,
            code=exc.code,
            reason=exc.message[:MAX_REASON],
            attempts=1,
            time=datetime.now(UTC),
        )
        link = cast(Any, self.app.transport).link
        subject = self._subjects.dead_letter(CONSUMER)
        stored = await link.publish(
            subject, codec.encode(letter), {codec.MSG_ID: f"{CONSUMER}:{message.offset}"}
        )
        await stored
        _log.warning("set aside", extra={"sequence": message.offset, "reason": exc.message})


def broker_url(settings: Settings) -> str:
    """Return the settings' way to the server as a broker URL of the driver.

    Raises:
        ConfigError: the settings say something that a broker URL can't.
    """
    parameters = {
        "creds": settings.nats_creds,
        "context": settings.nats_context,
        "nkey": settings.nats_nkey_seed,
        "ca": settings.nats_ca,
        "cert": settings.nats_cert,
        "key": settings.nats_key,
        "inbox_prefix": settings.nats_inbox_prefix,
        "api_prefix": settings.nats_js_api_prefix,
        "prefix": PREFIX,
    }
    asked = urlencode({name: value for name, value in parameters.items() if value})
    urls = [url.strip() for url in (settings.nats_url or "").split(",") if url.strip()]
    if not urls and not settings.nats_context:
        urls = [DEFAULT_URL]
    if any("?" in url for url in urls):
        raise ConfigError("NATS_URL has a query, which means nothing to NATS: leave it out")
    first, *others = urls or ["nats://"]
    return ";".join([f"{first.rstrip('/')}/?{asked}", *others])


def from_environment() -> faust.App:
    """Return the app for a worker process, by the same settings as every command of `lucid`."""
    settings = load_settings(os.environ)
    return Analytics(broker_url(settings), settings.prefix).app
