import asyncio
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lucid_events.config import Settings, load_settings
from lucid_events.config.evidence import EvidenceSettings
from lucid_events.domain.events import SessionVerified
from lucid_events.domain.ids import SessionId
from lucid_events.errors import (
    AppendUncertain,
    CommandRejected,
    ConfigError,
    LucidError,
    NotFound,
    StoreUnavailable,
    VersionConflict,
)
from lucid_events.evidence.keys import KeyList
from lucid_events.evidence.signing import Signer, generate_seed
from lucid_events.memory.kv import MemoryKeyValue
from lucid_events.memory.server import MemoryServer
from lucid_events.service.adapters import Adapters
from lucid_events.service.auditing import Auditor
from lucid_events.service.keys import save_keys
from lucid_events.service.scrubbing import KEY, Scrub
from lucid_events.service.signing import ManifestSigner
from tests.unit.handlers.command_side import CommandSide
from tests.unit.service.damaged import FIRST, SECOND, MemoryPipeline, away

HOUR_S = 3600.0


def scrub(side: CommandSide, meta: MemoryKeyValue) -> Scrub:
    """Return the scrub of one worker."""
    settings = load_settings({"LUCID_SCRUB_INTERVAL": str(HOUR_S), "LUCID_SCRUB_SAMPLE": "5"})
    adapters = SimpleNamespace(settings=settings, meta=meta, clock=side.clock)
    return Scrub(cast(Adapters, adapters), side.handler)


def bucket(server: MemoryServer, side: CommandSide) -> MemoryKeyValue:
    """Return the bucket of small things."""
    return MemoryKeyValue(server, side.subjects.meta_bucket)


def test_of_all_workers_one_does_a_round() -> None:
    """Whoever writes the number of a round first does it; the next round is anybody's again."""

    async def main() -> None:
        side = CommandSide()
        workers = [scrub(side, bucket(side.server, side)) for _ in range(3)]
        for _ in range(3):
            claims = await asyncio.gather(*(worker.claim() for worker in workers))
            assert sorted(claims) == [False, False, True]
            assert not any([await worker.claim() for worker in workers])
            await side.clock.sleep(HOUR_S)

    asyncio.run(main())


def test_junk_in_the_place_of_the_number_is_written_over() -> None:
    """A value that is no number keeps nobody from scrubbing."""

    async def main() -> None:
        side = CommandSide()
        meta = bucket(side.server, side)
        await meta.put(KEY, b"?")
        assert await scrub(side, meta).claim()

    asyncio.run(main())


def test_a_stop_ends_a_round_in_hand() -> None:
    """A round that takes for ever is cut short by `stop`, and the task ends in order."""

    async def main() -> None:
        side = CommandSide()
        worker = scrub(side, bucket(side.server, side))
        begun = asyncio.Event()

        async def endless(seed: str) -> None:
            begun.set()
            await asyncio.Event().wait()

        worker.round = endless  # type: ignore[method-assign] # a round that never ends
        running = asyncio.create_task(worker.run())
        await begun.wait()
        worker.stop()
        await asyncio.wait_for(running, timeout=10)

    asyncio.run(main())


def pipeline() -> MemoryPipeline:
    """A pipeline whose settings scrub every chunk once an hour."""
    return MemoryPipeline(Settings(evidence=EvidenceSettings(scrub_interval_s=HOUR_S, scrub_percent=100.0)))


async def findings(side: CommandSide, session: SessionId) -> list[SessionVerified]:
    """Return what was verified, as the history says."""
    return [one.event for one in await side.events(session) if isinstance(one.event, SessionVerified)]


def test_a_damaged_history_does_not_end_the_round(caplog: pytest.LogCaptureFixture) -> None:
    """A history that can't be read is told, and the sessions behind it are scrubbed all the same."""

    async def main() -> None:
        side = pipeline()
        for session in (FIRST, SECOND):
            await side.start(session=session)
        side.damage(FIRST)
        side.litter(SECOND)
        await Scrub(side.adapters, side.handler).round("seed")
        (found,) = await findings(side, SECOND)
        assert not found.holds

    asyncio.run(main())
    told = {(record.message, getattr(record, "session", "")) for record in caplog.records}
    assert ("stored evidence does not hold", FIRST) in told
    assert ("a finding of the scrub was not written down", FIRST) in told


@pytest.mark.parametrize("where", ["append", "verify"])
@pytest.mark.parametrize("error", [VersionConflict, CommandRejected, NotFound, AppendUncertain])
def test_a_session_that_is_busy_or_gone_does_not_end_the_round(
    error: type[LucidError], where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What stands in the way of one session is told with its name, and the next one is scrubbed."""

    async def main() -> None:
        side = pipeline()
        for session in (FIRST, SECOND):
            await side.start(session=session)
            side.litter(session)
        of = (side.handler, "append_internal") if where == "append" else (Auditor, "verify")
        refuse(monkeypatch, of, error("too busy"))
        await Scrub(side.adapters, side.handler).round("seed")
        assert await findings(side, FIRST) == []
        assert len(await findings(side, SECOND)) == 1

    asyncio.run(main())
    assert ("too busy", FIRST) in {
        (getattr(record, "reason", ""), getattr(record, "session", "")) for record in caplog.records
    }


@pytest.mark.parametrize("where", ["append", "verify"])
def test_an_outage_ends_the_round(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the server can't be asked nothing is said of any session: the round ends with that."""

    async def main() -> None:
        side = pipeline()
        for session in (FIRST, SECOND):
            await side.start(session=session)
            side.litter(session)
        of = (side.handler, "append_internal") if where == "append" else (Auditor, "verify")
        refuse(monkeypatch, of, away())
        with pytest.raises(StoreUnavailable):
            await Scrub(side.adapters, side.handler).round("seed")
        assert await findings(side, SECOND) == []

    asyncio.run(main())


def refuse(monkeypatch: pytest.MonkeyPatch, of: tuple[object, str], error: LucidError) -> None:
    """Let a method raise `error` for the first session, and do its work for the others."""
    owner, name = of
    before = getattr(owner, name)

    async def now(*args: Any, **kwargs: Any) -> Any:
        if FIRST in args:
            raise error
        return await before(*args, **kwargs)

    monkeypatch.setattr(owner, name, now)


def test_a_stranger_who_signs_is_found(tmp_path: Path) -> None:
    """With a list of keys a manifest signed by a key that is not in it does not hold."""

    async def main() -> None:
        stranger = ManifestSigner(generate_seed())
        path = tmp_path / "keys.json"
        save_keys(path, KeyList().add(Signer(generate_seed()).key, at=datetime(2020, 1, 1, tzinfo=UTC)))
        for named, verdict in ((path, "unknown_key"), (None, "unlisted")):
            evidence = EvidenceSettings(scrub_interval_s=HOUR_S, signing_keys=str(named or ""))
            side = MemoryPipeline(Settings(evidence=evidence), sign=stranger)
            await side.start(session=FIRST)
            await side.stop(FIRST)
            if named is None:
                side.litter(FIRST)  # so that there is a finding
            await Scrub(side.adapters, side.handler).round("seed")
            (found,) = await findings(side, FIRST)
            assert (found.signature, found.holds) == (verdict, False)

    asyncio.run(main())


def test_a_rotated_list_of_keys_is_taken_up_and_a_lost_one_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every round believes the list as it stands; one that can't be read is told."""

    async def main() -> None:
        path = tmp_path / "keys.json"
        signer = ManifestSigner(generate_seed())
        save_keys(path, KeyList())
        evidence = EvidenceSettings(scrub_interval_s=HOUR_S, signing_keys=str(path))
        side = MemoryPipeline(Settings(evidence=evidence), sign=signer)
        await side.start(session=FIRST)
        await side.stop(FIRST)
        worker = Scrub(side.adapters, side.handler)
        await worker.round("first")
        assert [one.holds for one in await findings(side, FIRST)] == [False]
        save_keys(path, KeyList().add(signer.signer.key, at=datetime(2020, 1, 1, tzinfo=UTC)))
        await worker.round("second")
        path.unlink()
        await worker.round("third")
        assert len(await findings(side, FIRST)) == 1
        with pytest.raises(ConfigError):
            Scrub(side.adapters, side.handler)

    asyncio.run(main())
    assert "the list of keys can't be read any more" in caplog.text


def test_messages_of_no_session_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """What stands in the log on no session's subject is one warning a round, with how many there are."""

    async def main() -> None:
        side = pipeline()
        for _ in range(3):
            side.server.publish(f"{side.subjects.prefix}.evt.no!session.junk", b"?")
        await Scrub(side.adapters, side.handler).round("seed")

    asyncio.run(main())
    (told,) = [record for record in caplog.records if "belong to no session" in record.message]
    assert (told.levelname, vars(told)["count"]) == ("WARNING", 3)
