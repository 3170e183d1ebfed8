"""`service.backup_files`: a folder is a whole backup, or it is refused by name."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from lucid_events.errors import ConfigError, IntegrityError
from lucid_events.jetstream.snapshots import StreamSnapshot
from lucid_events.service import backup_files
from lucid_events.service.backup_files import (
    ARCHIVE,
    FORMAT,
    MANIFEST,
    LogPosition,
    Manifest,
    check_files,
    new_backup,
    pieces_of,
    read_manifest,
)

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
BYTES = b"archive" * 100


def made(path: Path) -> Manifest:
    """Make a backup of one stream at `path`."""

    async def main() -> Manifest:
        with new_backup(path) as folder:
            async with folder.archive("S", lambda _: None) as archive:
                await archive.write(BYTES)
            state = {"messages": 1, "bytes": len(BYTES), "last_seq": 1}
            part = folder.describe("S", archive, StreamSnapshot({"name": "S"}, state))
            manifest = Manifest(
                format=FORMAT,
                id="b1",
                version="1",
                server="2.15.1",
                prefix="lucid",
                began_at=WHEN,
                ended_at=WHEN,
                log=LogPosition("S", 1, 1),
                chunks=0,
                parts=(part,),
                consumers=(),
            )
            folder.finish(manifest)
            return manifest

    return asyncio.run(main())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """A backup made here has a name when it is whole, and every file of it holds."""
    manifest = made(tmp_path / "backup")
    assert read_manifest(tmp_path / "backup")[0] == manifest
    check_files(tmp_path / "backup", manifest)
    assert [one.name for one in tmp_path.iterdir()] == ["backup"]


def test_two_never_make_one_backup(tmp_path: Path) -> None:
    """The second is refused while the first is at it, and takes nothing away from it."""
    with new_backup(tmp_path / "backup"):
        mine = tmp_path / "backup.partial" / "mine"
        mine.mkdir()
        with pytest.raises(ConfigError, match="another process"), new_backup(tmp_path / "backup"):
            pytest.fail("two make one backup")
        assert mine.is_dir()
    with new_backup(tmp_path / "backup"):
        assert not mine.exists()


def test_an_archive_that_changes_behind_the_check_is_noticed(tmp_path: Path) -> None:
    """What is sent to a server is held against the manifest once more, as it is read."""
    manifest = made(tmp_path / "backup")
    check_files(tmp_path / "backup", manifest)
    archive = tmp_path / "backup" / "S" / ARCHIVE
    archive.write_bytes(BYTES.replace(b"a", b"b"))

    async def read() -> None:
        async for _ in pieces_of(tmp_path / "backup", manifest.parts[0], lambda _: None):
            pass

    with pytest.raises(IntegrityError, match="is damaged"):
        asyncio.run(read())


@pytest.mark.parametrize("stream", [b"../S", b"/S"])
def test_a_manifest_that_leads_out_of_its_folder_is_refused(tmp_path: Path, stream: bytes) -> None:
    """A backup from a stranger names no file elsewhere, whatever digests it has."""
    made(tmp_path / "backup")
    place = tmp_path / "backup" / MANIFEST
    text = place.read_bytes()
    parts = text.index(b'"parts"')
    place.write_bytes(text[:parts] + text[parts:].replace(b'"S"', b'"%s"' % stream, 1))
    with pytest.raises(IntegrityError, match="which is none"):
        read_manifest(tmp_path / "backup")


def test_a_later_format_asks_for_a_newer_program(tmp_path: Path) -> None:
    """It is not called damaged, whatever else is in it."""
    made(tmp_path / "backup")
    later = msgspec.json.encode({"format": FORMAT + 1})
    (tmp_path / "backup" / MANIFEST).write_bytes(later)
    with pytest.raises(ConfigError, match="use a newer lucid"):
        read_manifest(tmp_path / "backup")


def test_a_manifest_too_large_to_be_read_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup whose manifest a restore would refuse is none, and says why; one from elsewhere is refused."""
    manifest = made(tmp_path / "backup")
    monkeypatch.setattr(backup_files, "MAX_MANIFEST", 1000)
    erased = msgspec.structs.replace(manifest, erased=("s" * 500, "t" * 500))
    with new_backup(tmp_path / "large") as folder, pytest.raises(ConfigError, match="names 2 sessions"):
        folder.finish(erased)
    assert not (tmp_path / "large").exists()
    (tmp_path / "backup" / MANIFEST).write_bytes(msgspec.json.encode(erased))
    with pytest.raises(IntegrityError, match="more than 1000 bytes"):
        read_manifest(tmp_path / "backup")
