"""`service.recorders`: what whoever asked is told when a recording ends, and what opening one may hold up."""

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lucid_events.config import Settings
from lucid_events.domain.commands import Create, Start
from lucid_events.errors import Fenced, LucidError, NotReady, status_of
from lucid_events.recorder import Recording, Spool
from lucid_events.service import recorders
from lucid_events.service.client import Client
from lucid_events.service.recorders import Hosted, Recorders
from tests.unit.recorder.rig import SID, Bytes, Service, eventually


class Buggy:
    """A recording that meets a bug."""

    async def run(self) -> None:
        raise ZeroDivisionError


def test_a_bug_is_not_another_recorder() -> None:
    """Who asks is told of a fault of ours, 500, and not to look for a recorder that there is not."""

    async def main() -> LucidError | None:
        hosted = Hosted(SID, Bytes(), cast("Recording", Buggy()))
        ended = asyncio.Event()
        hosted.run(lambda _: ended.set())
        await ended.wait()
        return hosted.error

    error = asyncio.run(main())
    assert error is not None
    assert not isinstance(error, Fenced)
    assert status_of(error) == 500


class Held(Spool):
    """A spool that notes where it was opened, and waits to be let."""

    threads: list[threading.Thread]
    go: threading.Event

    def __init__(self, *args: Any, **more: Any) -> None:
        self.threads.append(threading.current_thread())
        assert self.go.wait(10)
        super().__init__(*args, **more)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> type[Held]:
    """Have recorders open such spools."""
    Held.threads, Held.go = [], threading.Event()
    monkeypatch.setattr(recorders, "Spool", Held)
    return Held


def client_of(service: Service, spool: Path) -> Client:
    """Return what recorders need of a client of `service`."""
    adapters = SimpleNamespace(
        capture=service.capture,
        live=service.live,
        clock=service.clock,
        subjects=service.subjects,
        store=service.store,
    )
    client = SimpleNamespace(
        adapters=adapters,
        settings=Settings(spool=str(spool)),
        commands_as=service.commands,
    )
    return cast("Client", client)


async def waiting(service: Service) -> None:
    """Have the session wait for a recorder."""
    await service.commands().send(SID, Create())
    await service.commands().send(SID, Start())


def test_a_spool_is_read_beside_the_loop(tmp_path: Path, held: type[Held]) -> None:
    """However much is in it, the beats of the other sessions go on."""

    async def main() -> None:
        async with Service().running() as service:
            await waiting(service)
            hosting = Recorders(client_of(service, tmp_path))
            opening = asyncio.create_task(hosting.record(SID, Bytes(ends=False), actor="a"))
            await eventually(lambda: held.threads)
            held.go.set()
            assert (await opening).running
            await hosting.close(within_s=10)

    asyncio.run(main())
    assert threading.main_thread() not in held.threads


def test_no_recording_begins_behind_the_end(tmp_path: Path, held: type[Held]) -> None:
    """A process that ends while a spool is opened records nothing any more, and unlocks it."""

    async def main() -> None:
        async with Service().running() as service:
            await waiting(service)
            hosting = Recorders(client_of(service, tmp_path))
            opening = asyncio.create_task(hosting.record(SID, Bytes(ends=False), actor="a"))
            await eventually(lambda: held.threads)
            await hosting.close(within_s=0)
            held.go.set()
            with pytest.raises(NotReady, match="about to end"):
                await opening
            assert hosting.find(SID) is None

    asyncio.run(main())
    Spool(tmp_path, SID, max_bytes=1).close()
