"""`service.exporting`: what a history is told of an export, and what an export costs and may fail of."""

import asyncio
import io
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lucid_events.domain import events as ev
from lucid_events.domain.ids import Digest, SessionId
from lucid_events.domain.values import Quality
from lucid_events.errors import ConfigError, IntegrityError, StoreUnavailable
from lucid_events.evidence import bundle
from lucid_events.evidence.bundle import Proof
from lucid_events.evidence.bundle_tar import TarReader, TarWriter
from lucid_events.playback import Chunk
from lucid_events.service import exporting
from lucid_events.service.adapters import Adapters
from lucid_events.service.client import Client

SID = SessionId("s1")
CHUNK_BYTES = 10
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def chunk(index: int, *, ready: bool = True) -> Chunk:
    """Return what a history says of the chunk at `index`, of `CHUNK_BYTES`."""
    place: dict[str, Any] = {"index": index, "offset": index * CHUNK_BYTES, "size": CHUNK_BYTES}
    sealed = ev.ChunkSealed(
        **place,
        epoch=1,
        n=index,
        sha256="0" * 64,
        first_seq=index + 1,
        last_seq=index + 1,
        started_at=NOON,
        ended_at=NOON,
        cut="size",
    )
    stored = ev.ChunkReady(
        **place,
        stored_size=CHUNK_BYTES,
        sha256="0" * 64,
        stored_sha256="0" * 64,
        codec="store",
        ratio=1.0,
        quality=Quality(score=1.0, complete=1.0),
        hash_by="recorder",
        bucket="lucid-chunks",
        object=f"s1/{index}",
    )
    return Chunk(sealed=sealed, ready=stored if ready else None)


class Viewer:
    """A client of a session of five chunks and one on its way; keeps what is noted and exported."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, fault: Exception | None = None) -> None:
        self.noted: list[tuple[int, int | None, str]] = []
        self.exported = 0
        self.fault = fault
        self.store = SimpleNamespace(version=self._version)
        self.player = SimpleNamespace(contents=self._contents)
        self.adapters = None
        monkeypatch.setattr(exporting, "export", self._export)

    def export(self, first: int | None = None, last: int | None = None) -> None:
        asyncio.run(exporting.export_for(cast("Client", self), SID, Path("b.tar"), first=first, last=last))

    async def note_view(self, _session: SessionId, *, start: int, end: int | None, how: str) -> None:
        if self.fault:
            raise self.fault
        self.noted.append((start, end, how))

    async def _version(self, _session: SessionId) -> int:
        return 9

    async def _contents(self, _session: SessionId) -> Any:
        return SimpleNamespace(chunks={index: chunk(index, ready=index < 5) for index in range(6)})

    async def _export(self, *_: object, **_more: object) -> None:
        self.exported += 1


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (None, None, (0, None, "export")),
        (2, 3, (20, 40, "export of chunks 2 to 3")),
        (2, None, (20, 50, "export of chunks 2 to the last")),
        (None, 0, (0, 10, "export of chunks 0 to 0")),
    ],
)
def test_the_history_says_which_bytes_are_taken_away(
    monkeypatch: pytest.MonkeyPatch, first: int | None, last: int | None, expected: tuple[int, int, str]
) -> None:
    """An excerpt is noted with the bytes of its chunks, a whole export without an end."""
    viewer = Viewer(monkeypatch)
    viewer.export(first, last)
    assert (viewer.noted, viewer.exported) == ([expected], 1)


def test_only_a_history_nobody_can_read_is_exported_unnoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged one is evidence and goes out; a server that does not answer keeps everything in."""
    damaged = Viewer(monkeypatch, fault=IntegrityError("damaged"))
    damaged.export()
    assert damaged.exported == 1
    away = Viewer(monkeypatch, fault=StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        away.export()
    assert away.exported == 0


def test_proofs_are_written_one_at_a_time() -> None:
    """No two are in memory together: a million of them would be gigabytes."""
    file = io.BytesIO()
    tar = TarWriter(file)
    written: list[int] = []

    def proofs() -> Iterator[Proof]:
        for index in range(3):
            written.append(file.tell())
            yield Proof(index=index, leaf=index, size=3, path=(Digest("0" * 64),))

    exporting._prove(tar, proofs())
    assert written == sorted(set(written))
    exporting._prove(tar, iter(()))
    tar.finish()
    file.seek(0)
    reader = TarReader(file, "b.tar")
    assert reader.next() == bundle.PROOFS
    assert [bundle.decoded(line, Proof).index for _, line in reader.lines(1000)] == [0, 1, 2]
    assert reader.next() is None


def export_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception | None) -> None:
    """Export a history whose reading ends with `fault`."""

    async def read(*_: object) -> None:
        if fault:
            raise fault

    monkeypatch.setattr(exporting, "_events", read)
    asyncio.run(exporting.export(cast("Adapters", None), SID, tmp_path / "b.tar"))


@pytest.mark.parametrize("fault", [TimeoutError("no answer"), ConnectionResetError("gone")])
def test_a_broken_connection_is_no_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """What goes wrong with the server while a bundle is written is told as what it is."""
    with pytest.raises(type(fault)):
        export_with(tmp_path, monkeypatch, fault)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def no_room() -> Iterator[None]:
    """Have the system refuse whatever makes a file longer, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that can't be written is a fault of its own, and leaves nothing behind."""
    with no_room(), pytest.raises(ConfigError, match="can't write"):
        export_with(tmp_path, monkeypatch, None)
    assert list(tmp_path.iterdir()) == []
