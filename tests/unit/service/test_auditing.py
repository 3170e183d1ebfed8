"""What an auditor says of a history nobody else remembers, and of objects that are being erased."""

import asyncio
from typing import Any, cast

import pytest
from msgspec.structs import replace

from lucid_events.cli.audit import Told, everything
from lucid_events.compression.measuring import Measurer
from lucid_events.domain.ids import SessionId
from lucid_events.evidence.differences import MAX_DIFFERENCES, Difference, What
from lucid_events.evidence.histories import Signed
from lucid_events.projections.index import view_key
from lucid_events.service.auditing import UNREMEMBERED, Auditor, excused, open_auditor
from lucid_events.service.verifying import EVERYTHING, SessionReport
from tests.unit.service.damaged import FIRST, SECOND, THIRD, MemoryPipeline

REPORT = SessionReport(
    session=FIRST,
    holds=False,
    state=None,
    version=1,
    head="",
    events=1,
    strays=0,
    ready=0,
    chunks=0,
    erased=0,
    erasure=None,
    raw_bytes=0,
    stored_bytes=0,
    signature=Signed(verdict="no_manifest"),
    found=0,
    differences=(),
    remarks=(),
)
GONE = Difference(what=What.OBJECT_MISSING, session=FIRST, reason="gone")


def report(missing: int, others: int = 0) -> SessionReport:
    """A report of so many missing objects, of which as many are listed as are kept."""
    kept = (GONE,) * min(missing, MAX_DIFFERENCES)
    return replace(REPORT, found=missing + others, missing=missing, differences=kept)


@pytest.mark.parametrize("missing", [1, MAX_DIFFERENCES, MAX_DIFFERENCES + 1, 5000])
def test_missing_objects_of_an_erasure_are_excused_however_many(missing: int) -> None:
    """More missing objects than are listed are a remark like few of them, with how many there are."""
    told = excused(report(missing))
    assert (told.holds, told.found, told.missing, told.differences) == (True, 0, 0, ())
    assert f"{missing} objects are missing" in told.remarks[-1].reason


@pytest.mark.parametrize("missing", [0, 1, MAX_DIFFERENCES, MAX_DIFFERENCES + 1])
def test_another_difference_is_not_excused(missing: int) -> None:
    """A difference that no erasure explains stays one, listed or not."""
    one = report(missing, others=1)
    assert excused(one) is one


async def deleted_view(side: MemoryPipeline, session: SessionId) -> None:
    """Take the view of a session away."""
    stream = side.server.stream(f"KV_{side.subjects.status_bucket(1)}")
    found = stream.messages(f"$KV.{side.subjects.status_bucket(1)}.{view_key(session)}")
    assert stream.remove(one.sequence for one in found)


@pytest.mark.parametrize("how", ["deleted", "damaged", "another incarnation"])
def test_a_history_that_nobody_else_remembers_is_told(how: str) -> None:
    """Without its view a history still holds, and a remark says that a cut at its end would not be seen."""

    async def main() -> None:
        side = MemoryPipeline()
        for session in (FIRST, SECOND):
            await side.start(session=session)
            await side.view(session)
        if how == "deleted":
            await deleted_view(side, FIRST)
        elif how == "damaged":
            await side.kv(side.subjects.status_bucket(1)).put(view_key(FIRST), b"?")
        else:
            held = await side.views.load(FIRST)
            assert held.view is not None
            other = replace(held.view.position, incarnation=7)
            await side.views.save(replace(held.view, position=other), held)
        async with Measurer(workers=1) as measurer:
            auditor = await open_auditor(side.adapters, measurer)
            first, second = await auditor.verify(FIRST), await auditor.verify(SECOND)
        assert first.holds
        assert UNREMEMBERED in [one.reason for one in first.remarks]
        assert UNREMEMBERED not in [one.reason for one in second.remarks]

    asyncio.run(main())


def test_every_session_includes_those_that_only_views_know(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole history that was removed is missed by its view; an unreadable view of none is a remark."""

    async def nothing(auditor: Auditor) -> list[Difference]:
        return []

    class Bar:
        task_ids = (0,)

        def update(self, *args: object, **kwargs: object) -> None: ...

    async def main() -> bool:
        side = MemoryPipeline()
        for session in (FIRST, SECOND):
            await side.start(session=session)
            await side.view(session)
        log = side.server.stream(side.subjects.events_stream)
        log.remove(one.sequence for one in log.messages(side.subjects.history(FIRST)))
        await side.kv(side.subjects.status_bucket(1)).put(view_key(THIRD), b"?")
        told = Told(json=False, sample=EVERYTHING)
        async with Measurer(workers=1) as measurer:
            auditor = await open_auditor(side.adapters, measurer)
            bar = cast(Any, Bar())
            await everything(auditor, told, whole=True, since=None, bar=bar)
        return told.end()

    monkeypatch.setattr(Auditor, "log", nothing)
    assert not asyncio.run(main())
    said = capsys.readouterr().out.replace("\n", " ")
    assert f"{FIRST}: DOES NOT HOLD" in said
    assert "history_cut" in said
    assert f"session {THIRD}: a status view that is damaged" in said
    assert said.count(f"{SECOND}: holds") == 1
