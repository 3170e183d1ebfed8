"""What the services tell of their sessions: offsets, and lists that one damaged view does not hide."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lucid_events.config import Settings
from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import State
from lucid_events.errors import ContractError, LucidError, NotFound, StoreUnavailable
from lucid_events.gateway.answers import RecorderStatus
from lucid_events.gateway.context import Gateway
from lucid_events.gateway.operations import recorder_service_status
from lucid_events.gateway.statuses import READS, open_sessions, pipeline_status, service_status
from lucid_events.measures import ProcessMeasures
from lucid_events.ports import Position
from lucid_events.projections.index import Page
from lucid_events.projections.status_view import StatusView


class Recording:
    """A recording that has taken more than is stored."""

    opened = True
    taken_upto, acked_upto = 9, 7


class Service:
    """What `Gateway` is made of, with views that are there, damaged or gone."""

    def __init__(self, views: dict[str, StatusView | LucidError], *, more: bool = False) -> None:
        self.views, self.more = views, more
        self.asked: list[str] = []
        self.hosted: dict[str, Any] = {}

    async def sessions(self, *, state: State, limit: int) -> Page:
        """Return an index in which every session is active."""
        names = self.views if state is State.ACTIVE else {}
        entries = tuple(SimpleNamespace(session_id=SessionId(name)) for name in names)
        return cast(Page, SimpleNamespace(entries=entries, cursor=7 if self.more and entries else None))

    async def status(self, session: SessionId) -> StatusView:
        """Return a view, or say what is wrong with it."""
        self.asked.append(session)
        await asyncio.sleep(0)
        found = self.views[session]
        if isinstance(found, LucidError):
            raise found
        return found

    @property
    def gateway(self) -> Gateway:
        """The service that the routes know."""
        measures = ProcessMeasures()
        return cast(
            Gateway,
            SimpleNamespace(
                name="service",
                client=self,
                settings=Settings(),
                recorders=SimpleNamespace(find=self.hosted.get),
                monitor=SimpleNamespace(measures=measures),
                statistics=SimpleNamespace(snapshot=_no_statistics),
            ),
        )


def _no_statistics() -> dict[str, object]:
    return dict.fromkeys(("total_compressions", "total_decompressions"), 0) | {
        "total_time_ms": 0.0,
        "average_compression_time_ms": 0.0,
        "total_bytes_compressed": 0,
        "total_bytes_decompressed": 0,
        "average_compression_ratio": 1.0,
        "default_level": None,
        "codecs": {},
    }


def view(name: str) -> StatusView:
    """A session that is active."""
    return StatusView(session_id=SessionId(name), state=State.ACTIVE, position=Position("LUCID_EVENTS", 1, 7))


def test_bytes_go_on_where_the_status_says() -> None:
    """`accepted_offset` is where an upload begins, also before what it follows is stored."""
    service = Service({})
    service.hosted["s1"] = SimpleNamespace(recording=Recording())
    status = pipeline_status(service.gateway, view("s1"))
    assert (status.accepted_offset, status.durable_offset) == (9, 7)


def test_offsets_are_known_to_the_process_that_records() -> None:
    """Of a session recorded elsewhere, or not attached to yet, none is told: 0 would be an offset, too."""
    service = Service({})
    service.hosted["s1"] = SimpleNamespace(
        recording=SimpleNamespace(opened=False, taken_upto=0, acked_upto=0)
    )
    for name in ("s1", "s2"):
        status = pipeline_status(service.gateway, view(name))
        assert (status.accepted_offset, status.durable_offset) == (None, None)


def test_a_damaged_view_hides_no_other() -> None:
    """Sessions whose view can't be decoded, or is gone, are named and counted; the others are told."""
    views: dict[str, StatusView | LucidError] = {name: view(name) for name in ("a", "d")}
    views |= {"b": ContractError("not JSON"), "c": NotFound("there is no session c")}
    gateway = Service(dict(sorted(views.items()))).gateway
    told = asyncio.run(service_status(gateway))
    assert list(told.active_pipelines) == ["a", "d"]
    assert told.unreadable == {"b": "not JSON", "c": "there is no session c"}
    assert (told.total_pipelines, told.truncated) == (4, False)

    async def asked() -> RecorderStatus:
        request: Any = SimpleNamespace(app=SimpleNamespace(state=SimpleNamespace(gateway=gateway)))
        return cast(RecorderStatus, await recorder_service_status.fn(request))

    recorder = asyncio.run(asked())
    assert (recorder.total_recordings, set(recorder.unreadable)) == (4, {"b", "c"})


def test_a_page_that_does_not_hold_all_says_so() -> None:
    """The total of a truncated list is the least there are."""
    told = asyncio.run(service_status(Service({"a": view("a")}, more=True).gateway))
    assert (told.total_pipelines, told.truncated) == (1, True)


def test_a_server_that_is_away_ends_the_reading_at_once() -> None:
    """The first view that can't be read ends the others: nothing is asked for that nobody waits for."""
    names = [f"s{number}" for number in range(10 * READS)]
    service = Service(dict.fromkeys(names, StoreUnavailable("away")))

    async def main() -> int:
        with pytest.raises(StoreUnavailable):
            await open_sessions(service.gateway)
        at_once = len(service.asked)
        for _ in range(3):
            await asyncio.sleep(0)
        assert len(service.asked) == at_once
        return at_once

    assert asyncio.run(main()) <= READS
