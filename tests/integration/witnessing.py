"""A log, its checkpoints and a witness on a real server, for the tests of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from lucid_events.config import Settings
from lucid_events.config.evidence import EvidenceSettings
from lucid_events.evidence.differences import What
from lucid_events.evidence.keys import KeyList
from lucid_events.evidence.signing import Signer, generate_seed
from lucid_events.jetstream.definitions import load
from lucid_events.jetstream.store import INCARNATION
from lucid_events.jetstream.topology import apply
from lucid_events.service.adapters import Adapters, open_adapters, topology_settings
from lucid_events.service.checkpoints import (
    CheckpointsReport,
    verify_checkpoints,
)
from tests.nats_server import NatsServer

SEED = generate_seed()
LOOK_S = 0.02
WAIT_S = 60.0
"""Bound of anything waited for; each takes a fraction of a second."""


@asynccontextmanager
async def connected(
    server: NatsServer, prefix: str = "lucid", *, deniable: bool = True, **evidence: Any
) -> AsyncIterator[Adapters]:
    """Connect to a pipeline's streams, made on the way; with `deniable` False they allow deletion."""
    settings = Settings(
        nats_url=server.url,
        prefix=prefix,
        capture_max_mib=1,
        evidence=EvidenceSettings(**{"signing_seed": SEED, **evidence}),
    )
    async with open_adapters(settings, name="test") as adapters:
        if not deniable:
            for one in load(adapters.subjects):
                if one.name in (adapters.subjects.events_stream, adapters.subjects.checkpoints_stream):
                    config = {**one.config, "deny_delete": False, "deny_purge": False}
                    await adapters.connection.api(f"STREAM.CREATE.{one.name}", config)
        await apply(adapters.connection, adapters.subjects, topology_settings(settings))
        yield adapters


async def append(adapters: Adapters, sessions: str) -> None:
    """Append one message for each letter to the history of the session it is."""
    for number, letter in enumerate(sessions):
        subject = f"{adapters.subjects.prefix}.evt.{letter}.session.marked"
        await adapters.connection.publish_acked(subject, b'{"n":%d}' % number, headers={"ce-id": f"{number}"})


async def raise_incarnation(adapters: Adapters) -> None:
    """Raise the incarnation of the log, as a restore does, and whoever may edit the stream can."""
    stream = adapters.subjects.events_stream
    config = (await adapters.connection.api(f"STREAM.INFO.{stream}"))["config"]
    metadata = config.setdefault("metadata", {})
    metadata[INCARNATION] = str(int(metadata.get(INCARNATION, "1")) + 1)
    await adapters.connection.api(f"STREAM.UPDATE.{stream}", config)


async def verified(adapters: Adapters, **options: Any) -> CheckpointsReport:
    """Return what is said of the checkpoints, under the key they are signed with."""
    async with asyncio.timeout(WAIT_S):
        return await verify_checkpoints(adapters, require_signature=True, keys=trusted(), **options)


def trusted() -> KeyList:
    """Return the keys that an auditor has."""
    return KeyList().add(Signer(SEED).key, at=datetime(2020, 1, 1, tzinfo=UTC))


async def until(look: Callable[[], Awaitable[object]]) -> None:
    """Look until there is something to see, at most `WAIT_S`."""
    async with asyncio.timeout(WAIT_S):
        while not await look():  # noqa: ASYNC110 - what is waited for happens in a server or a log
            await asyncio.sleep(LOOK_S)


def kinds(report: CheckpointsReport) -> set[tuple[What, str]]:
    """Return kinds and sessions of what differs."""
    return {(one.what, one.session) for one in report.differences}
