"""The file of credentials: tokens shown once, kept as hashes, gone when revoked."""

import os
import stat
import threading
from pathlib import Path

import pytest

from lucid_events.credentials import Credentials, Role, looks_like_token
from lucid_events.errors import ConfigError, NotFound

VIEWER = frozenset({Role.VIEWER})


@pytest.fixture
def file(tmp_path: Path) -> Credentials:
    """Give credentials in a folder that is not there yet."""
    return Credentials(tmp_path / "lucid" / "access.json")


def test_a_token_is_found_and_not_kept(file: Credentials) -> None:
    """The token proves who it was made for, and stands nowhere in the file."""
    made, token = file.add("ann", VIEWER)
    assert looks_like_token(token)
    assert file.of_token(token) == made
    assert token not in file.path.read_text()
    assert token.rpartition("_")[2] not in file.path.read_text()
    assert file.of_token(f"{token[:-1]}x") is None
    assert file.of_token("") is None
    assert file.path.stat().st_mode & 0o777 == 0o600


def test_what_another_process_changes_is_seen(file: Credentials) -> None:
    """A token added or revoked elsewhere counts from the next question on."""
    other = Credentials(file.path)
    made, token = file.add("ann", VIEWER)
    assert other.of_token(token) == made
    file.revoke(made.id)
    assert other.of_token(token) is None
    with pytest.raises(NotFound):
        other.revoke(made.id)


def test_commands_beside_each_other_lose_nothing(file: Credentials) -> None:
    """Credentials added at the same moment are all there."""
    names = [f"n{number}" for number in range(16)]
    threads = [threading.Thread(target=Credentials(file.path).add, args=(name, VIEWER)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.name for one in file.all()) == sorted(names)
    assert len({one.id for one in file.all()}) == len(names)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602, 0o660])
def test_a_file_that_others_may_read_lets_nobody_in(mode: int, file: Credentials) -> None:
    """Wrong rights are an error that says how to mend them, also once the file was read already."""
    _, token = file.add("ann", VIEWER)
    assert file.of_token(token) is not None
    file.path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        file.of_token(token)
    file.path.chmod(0o600)
    assert file.of_token(token) is not None


MOUNTED = (0, 65532)
"""Owner and group of a secret that Kubernetes mounts into a pod with `fsGroup: 65532`."""


@pytest.mark.parametrize(
    ("mode", "owner", "me", "taken"),
    [
        (0o440, MOUNTED, (1000, 65532, []), True),
        (0o440, MOUNTED, (1000, 1000, [27, 65532]), True),
        (0o400, MOUNTED, (1000, 65532, []), True),
        (0o440, MOUNTED, (1000, 1000, [27]), False),  # another's group
        (0o460, MOUNTED, (1000, 65532, []), False),  # the group could give itself roles
        (0o444, MOUNTED, (1000, 65532, []), False),
        (0o440, (1000, 65532), (1000, 65532, []), False),  # ours: it can be made 0600
        (0o440, (0, 0), (0, 0, []), False),
        (0o440, (1001, 65532), (1000, 65532, []), False),  # whoever owns it could change it
    ],
)
def test_a_mounted_secret_is_read_by_its_group(
    mode: int,
    owner: tuple[int, int],
    me: tuple[int, int, list[int]],
    taken: bool,
    file: Credentials,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What belongs to root may be read by our group, because a mounted secret can be read in no other way."""
    _, token = file.add("ann", VIEWER)
    real = Path.stat

    def mounted(path: Path, **options: bool) -> os.stat_result:
        found = list(real(path, **options))
        found[stat.ST_MODE], found[stat.ST_UID], found[stat.ST_GID] = stat.S_IFREG | mode, *owner
        return os.stat_result(found)

    monkeypatch.setattr(Path, "stat", mounted)
    for name, value in zip(("geteuid", "getegid", "getgroups"), me, strict=True):
        monkeypatch.setattr(os, name, lambda value=value: value)
    fresh = Credentials(file.path)
    if taken:
        assert fresh.of_token(token) is not None
        return
    with pytest.raises(ConfigError, match=r"others must not|must be owned"):
        fresh.of_token(token)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"version": 2}',
        b'{"credentials": []}',
        b'{"identity_key": "%s", "credentials": [], "more": 1}' % (b"0" * 64),
        b'{"identity_key": "%s", "credentials": [{"id": "1", "name": "x", "roles": ["viewer"], '
        b'"created_at": "2026-01-01T00:00:00Z"}]}' % (b"0" * 64),
    ],
)
def test_a_broken_file_lets_nobody_in(body: bytes, file: Credentials) -> None:
    """What was read before is not gone on with: it may hold a token that was revoked."""
    _, token = file.add("ann", VIEWER)
    file.path.write_bytes(body)
    with pytest.raises(ConfigError, match=r"access\.json"):
        file.of_token(token)
    file.path.unlink()
    with pytest.raises(ConfigError, match="lucid tokens add"):
        file.of_token(token)


def test_a_certificate_has_one_name(file: Credentials) -> None:
    """A subject stands for one identity; it has no token."""
    made, token = file.add("ann", VIEWER, subject="CN=ann,O=Acme")
    assert token == ""
    assert file.of_subject("CN=ann,O=Acme") == made
    assert file.of_subject("CN=ann") is None
    assert file.of_subject("") is None
    with pytest.raises(ConfigError, match="has a name already"):
        file.add("bob", VIEWER, subject="CN=ann,O=Acme")


@pytest.mark.parametrize(
    "name", ["", " ann", "ann\n", "ä", "x" * 101, "unverified:ann", "lucid_events/chunks"]
)
def test_names_fit_a_header(name: str, file: Credentials) -> None:
    """A name that could not stand in a header, or nobody could read, is refused."""
    with pytest.raises(ConfigError, match="name"):
        file.add(name, VIEWER)


def test_a_write_that_fails_leaves_the_file_as_it_was(
    file: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash in the middle of a write leaves the old credentials and no rest of the new ones."""
    made, _ = file.add("ann", VIEWER)

    def fails(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(ConfigError, match="No space left"):
        file.add("bob", VIEWER)
    assert file.all() == (made,)
    assert sorted(path.name for path in file.path.parent.iterdir()) == ["access.json", "access.json.lock"]
