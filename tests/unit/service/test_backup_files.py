"""`service.backup_files`, `backup_folder`: a folder is a whole backup, or it is refused by name."""

import asyncio
import hashlib
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from lucid_events.errors import ConfigError, IntegrityError
from lucid_events.jetstream.snapshots import StreamSnapshot
from lucid_events.service import backup_files, backup_folder
from lucid_events.service.backup_files import (
    ARCHIVE,
    DESCRIPTION,
    FORMAT,
    MANIFEST,
    LogPosition,
    Manifest,
    check_files,
    pieces_of,
    read_description,
    read_manifest,
)
from lucid_events.service.backup_folder import new_backup

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
BYTES = b"archive" * 100


def made(path: Path) -> Manifest:
    """Make a backup of one stream at `path`."""

    async def main() -> Manifest:
        async with new_backup(path) as folder:
            async with folder.archive("S", lambda _: None) as archive:
                await archive.write(BYTES)
            state = {"messages": 1, "bytes": len(BYTES), "last_seq": 1}
            part = await folder.describe("S", archive, StreamSnapshot({"name": "S"}, state))
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
            await folder.finish(manifest)
            return manifest

    return asyncio.run(main())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """A backup made here has a name when it is whole, and every file of it holds."""
    manifest = made(tmp_path / "backup")
    assert read_manifest(tmp_path / "backup")[0] == manifest
    check_files(tmp_path / "backup", manifest)
    assert [one.name for one in tmp_path.iterdir()] == ["backup"]


async def begin(path: Path) -> None:
    """Begin a backup at `path`, and give up."""
    async with new_backup(path):
        pass


def test_two_never_make_one_backup(tmp_path: Path) -> None:
    """The second is refused while the first is at it, and takes nothing away from it."""
    mine = tmp_path / "backup.partial" / "mine"

    async def two() -> None:
        async with new_backup(tmp_path / "backup"):
            mine.mkdir()
            with pytest.raises(ConfigError, match="another process"):
                await begin(tmp_path / "backup")
            assert mine.is_dir()

    asyncio.run(two())
    asyncio.run(begin(tmp_path / "backup"))
    assert not mine.exists()


def interrupted(path: Path) -> Path:
    """Leave at `path` what a killed run leaves, and return its folder."""
    made(path)
    return path.rename(path.with_name(path.name + ".partial"))


def test_what_an_interrupted_run_left_is_removed(tmp_path: Path) -> None:
    """A second run makes the whole backup, whatever the first had written."""
    left = interrupted(tmp_path / "backup")
    (left / "OLD").mkdir()
    (left / "OLD" / ARCHIVE).write_bytes(b"half")
    manifest = made(tmp_path / "backup")
    check_files(tmp_path / "backup", manifest)
    assert sorted(os.listdir(tmp_path / "backup")) == ["S", MANIFEST]


@pytest.mark.parametrize("theirs", ["notes.txt", "S/notes.txt", "photos.d/one.jpg", "S/deep/stream.tar.s2"])
def test_what_no_backup_made_is_not_removed(tmp_path: Path, theirs: str) -> None:
    """A folder of that name with anything else in it is somebody's: nothing in it is touched."""
    left = interrupted(tmp_path / "backup")
    (left / theirs).parent.mkdir(parents=True, exist_ok=True)
    (left / theirs).write_text("dear to somebody")
    before = sorted(left.rglob("*"))
    with pytest.raises(ConfigError, match="not made by a backup"):
        asyncio.run(begin(tmp_path / "backup"))
    assert sorted(left.rglob("*")) == before


@pytest.mark.parametrize(
    ("where", "target", "words"),
    [
        ("backup.partial", "", "can't write"),
        ("backup.partial/S", "S", "not made by"),
    ],
)
def test_a_link_is_not_followed(tmp_path: Path, where: str, target: str, words: str) -> None:
    """What stands behind a link is not ours to empty, though another backup made it."""
    theirs = interrupted(tmp_path / "theirs")
    before = sorted(theirs.rglob("*"))
    place = tmp_path / where
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(theirs / target, target_is_directory=True)
    with pytest.raises(ConfigError, match=words):
        asyncio.run(begin(tmp_path / "backup"))
    assert sorted(theirs.rglob("*")) == before


def test_a_backup_is_private(tmp_path: Path) -> None:
    """It holds what was recorded: whoever else is on the host reads none of it, in no folder of that name."""
    (tmp_path / "backup.partial").mkdir(mode=0o755)
    before = os.umask(0)
    try:
        made(tmp_path / "backup")
    finally:
        os.umask(before)
    found = [tmp_path / "backup", *(tmp_path / "backup").rglob("*")]
    assert len(found) == 5
    assert {oct(one.stat().st_mode & 0o777) for one in found if one.is_dir()} == {"0o700"}
    assert {oct(one.stat().st_mode & 0o777) for one in found if one.is_file()} == {"0o600"}


def test_the_disk_keeps_no_ping_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever waits for the disk is done in a thread: emptying a folder, and every fsync."""
    interrupted(tmp_path / "backup")
    unlink, waited, in_main = Path.unlink, [], []

    def note(what: str) -> None:
        waited.append(what)
        in_main.extend([what] if threading.current_thread() is threading.main_thread() else [])

    def removed(place: Path) -> None:
        note("unlink")
        unlink(place)

    monkeypatch.setattr(os, "fsync", lambda _: note("fsync"))
    monkeypatch.setattr(Path, "unlink", removed)
    made(tmp_path / "backup")
    assert (set(waited), in_main) == ({"fsync", "unlink"}, [])


@pytest.mark.parametrize("fault", [TimeoutError("no answer"), ConnectionResetError("gone")])
def test_a_broken_connection_is_no_full_disk(tmp_path: Path, fault: OSError) -> None:
    """What goes wrong while an archive is filled is told as what it is."""

    async def main() -> None:
        async with new_backup(tmp_path / "backup") as folder, folder.archive("S", lambda _: None):
            raise fault

    with pytest.raises(type(fault)):
        asyncio.run(main())


@pytest.mark.parametrize("text", [b"{", b"{}", b'{"config": {"name": "\xff"}, "state": {}}'])
def test_a_description_nobody_can_read_is_damage(tmp_path: Path, text: bytes) -> None:
    """Whatever the manifest says of it, a description that is none is told by name."""
    manifest = made(tmp_path / "backup")
    (tmp_path / "backup" / "S" / DESCRIPTION).write_bytes(text)
    part = msgspec.structs.replace(manifest.parts[0], description_sha256=hashlib.sha256(text).hexdigest())
    with pytest.raises(IntegrityError, match="is damaged"):
        read_description(tmp_path / "backup", part)


def test_a_manifest_that_is_no_text_is_damage(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are damage, too."""
    made(tmp_path / "backup")
    place = tmp_path / "backup" / MANIFEST
    place.write_bytes(place.read_bytes().replace(b"lucid", b"luc\xffd"))
    with pytest.raises(IntegrityError, match="is damaged"):
        read_manifest(tmp_path / "backup")


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
    for module in (backup_files, backup_folder):
        monkeypatch.setattr(module, "MAX_MANIFEST", 1000)
    erased = msgspec.structs.replace(manifest, erased=("s" * 500, "t" * 500))

    async def large() -> None:
        async with new_backup(tmp_path / "large") as folder:
            await folder.finish(erased)

    with pytest.raises(ConfigError, match="names 2 sessions"):
        asyncio.run(large())
    assert not (tmp_path / "large").exists()
    (tmp_path / "backup" / MANIFEST).write_bytes(msgspec.json.encode(erased))
    with pytest.raises(IntegrityError, match="more than 1000 bytes"):
        read_manifest(tmp_path / "backup")
