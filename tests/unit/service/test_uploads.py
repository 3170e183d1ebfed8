"""Pushed bytes: an offset that is told is one below which every byte is stored, whatever happens next."""

import asyncio
from pathlib import Path

import pytest

from lucid_events.domain import commands as cmd
from lucid_events.domain.commands import Create, Start
from lucid_events.errors import AppendUncertain, CommandRejected, NotReady
from lucid_events.service import recorders
from lucid_events.service.recorders import Recorders
from tests.unit.recorder.rig import SID, Service
from tests.unit.service.test_recorders import client_of


async def active(service: Service, folder: Path) -> Recorders:
    """Have the session take pushed bytes here."""
    await service.commands().send(SID, Create())
    await service.commands().send(SID, Start())
    return Recorders(client_of(service, folder))


async def push(hosting: Recorders, data: bytes, *, offset: int | None = None) -> None:
    """Push `data`, and wait until it is durable."""
    async with hosting.upload(SID, actor="a", offset=offset) as upload:
        await upload.write(data)
        await upload.durable()


async def offset_of(hosting: Recorders) -> int:
    """Ask where the bytes go on, as a client does that lost an answer."""
    async with hosting.upload(SID, actor="a") as upload:
        await upload.confirm()
        return upload.begin


def test_an_offset_in_flight_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that were taken in and never stored are not counted: the client would let go of them."""
    monkeypatch.setattr(recorders, "DURABLE_S", 0.2)

    async def main() -> None:
        async with Service().running() as service:
            hosting = await active(service, tmp_path)
            await push(hosting, b"safe")
            service.server.faults.fail_next("capture", AppendUncertain("no reply (injected)"), times=1000)
            with pytest.raises(NotReady):
                await push(hosting, b"taken in")
            with pytest.raises(NotReady) as told:
                await offset_of(hosting)
            assert told.value.fields["offset"] == 4
            with pytest.raises(NotReady) as told:
                await push(hosting, b"again", offset=4)
            assert told.value.fields["offset"] == 4
            await hosting.close(within_s=0)

    asyncio.run(main())


def test_a_gateway_that_was_replaced_tells_no_offset(tmp_path: Path) -> None:
    """Another recorder took over and stored more: what we remember is old, and we ask anew the next time."""

    async def main() -> None:
        async with Service().running() as service:
            hosting = await active(service, tmp_path)
            await push(hosting, b"safe")
            await service.ask(cmd.Attach(recorder="other", takeover=True, resumable=True))
            with pytest.raises(NotReady, match="ask for the offset again") as told:
                await offset_of(hosting)
            assert "offset" not in told.value.fields
            assert hosting.find(SID) is None
            await hosting.close(within_s=0)

    asyncio.run(main())


def test_a_refusal_tells_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a session takes no bytes now, the offset told is one that can't be taken back."""
    monkeypatch.setattr(recorders, "TURN_S", 0.1)

    async def main() -> None:
        async with Service().running() as service:
            hosting = await active(service, tmp_path)
            async with hosting.upload(SID, actor="a") as upload:
                await upload.write(b"safe")
                await upload.durable()
                found = hosting.find(SID)
                assert found is not None
                with pytest.raises(CommandRejected, match="another upload") as busy:
                    await push(hosting, b"beside it")
            assert busy.value.fields["offset"] == 4
            assert found.refusal().fields["offset"] == 4
            await hosting.close(within_s=0)

    asyncio.run(main())
