"""What `lucid doctor` says: what is wrong beside what to change, also when one look fails."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from lucid_events.config import Settings
from lucid_events.errors import ConfigError, LucidError, StoreFull, StoreUnavailable
from lucid_events.jetstream.faults import ROOM_ON_THE_DISK
from lucid_events.jetstream.preflight import Finding
from lucid_events.service import preflight
from lucid_events.service.adapters import Adapters
from lucid_events.service.health import Probe, Trouble
from lucid_events.subjects import Subjects

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


def test_what_is_wrong_and_what_to_change_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe says both, whatever signs its words hold; what has no cure is named by its probe."""

    async def full() -> Trouble:
        return Trouble("/srv/a: b has 3 MiB free", "make room: 500 MiB")

    async def away() -> Trouble:
        raise StoreUnavailable("no reply on 'X': read first")

    monkeypatch.setattr(
        preflight, "probes_of", lambda *_, **__: [Probe("disk", full), Probe("consumers", away)]
    )
    adapters = cast(Adapters, SimpleNamespace(settings=Settings()))
    assert asyncio.run(preflight._probed(adapters)) == [
        Finding("warning", "/srv/a: b has 3 MiB free", "make room: 500 MiB"),
        Finding("warning", "consumers: no reply on 'X': read first", "look at the log"),
    ]


def test_a_disk_that_was_full_is_told_with_its_cure() -> None:
    """The streams that are not written any more are what is wrong, room on the disk is what to change."""

    async def api(subject: str, body: object) -> dict[str, object]:
        if subject.startswith("STREAM.PURGE.LUCID_CAPTURE"):
            raise StoreFull("purge", description="no space left: write /srv")
        return {}

    adapters = SimpleNamespace(connection=SimpleNamespace(api=api), subjects=Subjects())
    trouble = asyncio.run(preflight.unwritten(cast(Adapters, adapters)))
    assert trouble is not None
    assert "nothing goes into LUCID_CAPTURE (no space left: write /srv)" in trouble.what
    assert trouble.change == ROOM_ON_THE_DISK
    assert asyncio.run(preflight.why_not_written(cast(Adapters, adapters))) == str(trouble)
