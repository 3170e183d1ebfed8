"""What `lucid doctor` says when one look finds something and the next one fails."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from lucid_events.errors import ConfigError, LucidError, StoreUnavailable
from lucid_events.jetstream.preflight import Finding
from lucid_events.service import preflight
from lucid_events.service.adapters import Adapters

ERROR = Finding("error", "the server is too old", "update it")
WARNING = Finding("warning", "one replica", "use three")


@pytest.mark.parametrize(
    ("found", "error", "told"),
    [
        ([ERROR, WARNING], StoreUnavailable("away"), ["the server is too old", "away", "one replica"]),
        ([WARNING], ConfigError("no bucket"), ["no bucket", "one replica"]),
        ([ERROR], ConfigError("server is too old"), ["the server is too old"]),
    ],
)
def test_what_failed_is_told_beside_what_was_found(
    found: list[Finding], error: LucidError, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that ends the look is told behind the errors that were found, unless one says the same."""

    async def looked(*args: object) -> list[Finding]:
        return list(found)

    async def topology(adapters: object) -> None: ...

    async def position() -> None:
        raise error

    monkeypatch.setattr(preflight, "preflight", looked)
    monkeypatch.setattr(preflight, "current_topology", topology)
    store = SimpleNamespace(last_position=position)
    adapters = cast(Adapters, SimpleNamespace(connection=None, subjects=None, store=store))
    assert [one.what for one in asyncio.run(preflight.examine(adapters))] == told
