"""Who may ask, and as what: the file of tokens and client certificates with their roles.

    {"version": 1, "identity_key": "…", "credentials": [
      {"id": "9f2c61d0", "name": "ci", "roles": ["recorder"], "created_at": "…", "sha256": "…"},
      {"id": "51ab07fe", "name": "ann", "roles": ["operator"], "created_at": "…", "subject": "CN=ann"}]}

A token is `lucid_<id>_<43 characters>`: 256 random bits, so its SHA-256 is as safe to keep as a slow
hash would be, and costs nothing per request. The token itself is shown once and kept nowhere.
Knows nothing of HTTP.
"""

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from lucid_events.durable_files import write_whole
from lucid_events.errors import ConfigError, NotFound

MODE: Final = 0o600
_OTHERS: Final = 0o077
_GROUP_READS: Final = 0o040
_SECRET_BYTES: Final = 32
_RESERVED: Final = ("unverified:", "lucid_events/")
"""How actors begin that nobody has identified, and those that are parts of ours."""
_token = re.compile(r"lucid_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_name = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,98}[\x21-\x7e])?")


class Role(StrEnum):
    """What somebody is to the pipeline; several may be held at once."""

    OPERATOR = "operator"
    RECORDER = "recorder"
    VIEWER = "viewer"
    AUDITOR = "auditor"


class Credential(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One way to prove to be `name`: by a token (`sha256`), or by a client certificate (`subject`).

    A subject is written as RFC 4514 has it: `CN=ann,O=Acme`.
    """

    id: str
    name: str
    roles: frozenset[Role]
    created_at: datetime
    sha256: str = ""
    subject: str = ""


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int = 1
    identity_key: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    credentials: tuple[Credential, ...] = ()


_NOTHING: Final = _File(identity_key="0" * 64)


class Credentials:
    """The credentials of `path`; every reading sees what was last written, by whoever.

    A file that others may read, or that is broken or gone, lets nobody in: going on with what was
    read before would keep a revoked token alive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, ...] | None = None
        self._kept = _NOTHING

    def all(self) -> tuple[Credential, ...]:
        """Return every credential, oldest first.

        Raises:
            ConfigError: the file is missing or broken, or others may read or write it.
        """
        return self._read().credentials

    def identity_key(self) -> bytes:
        """Return the key with which the services prove to each other whom they have identified.

        Raises:
            ConfigError: as `all`.
        """
        return bytes.fromhex(self._read().identity_key)

    def _read(self) -> _File:
        try:
            found = self.path.stat()
            seen = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size)
            if seen != self._seen:
                _check_mode(self.path, found)
                self._kept = _decoded(self.path, self.path.read_bytes())
                self._seen = seen
        except OSError as exc:
            self._seen, self._kept = None, _NOTHING
            raise ConfigError(
                f"{self.path}: {exc.strerror}: make it with `lucid tokens add`", path=str(self.path)
            ) from exc
        except ConfigError:
            self._seen, self._kept = None, _NOTHING
            raise
        return self._kept

    def of_token(self, token: str) -> Credential | None:
        """Return the credential of `token`, None when there is none; takes as long for a near miss.

        Raises:
            ConfigError: as `all`.
        """
        shown = hashlib.sha256(token.encode()).hexdigest()
        found = None
        for one in self.all():  # all of them, so that the time tells nothing about which there are
            if hmac.compare_digest(one.sha256, shown):
                found = one
        return found

    def of_subject(self, subject: str) -> Credential | None:
        """Return the credential of a verified certificate's subject, None when there is none.

        Raises:
            ConfigError: as `all`.
        """
        return next((one for one in self.all() if one.subject and one.subject == subject), None)

    def add(self, name: str, roles: frozenset[Role], *, subject: str = "") -> tuple[Credential, str]:
        """Add a credential, made durable before this returns; with it comes the token, kept nowhere.

        The token is empty for a certificate. A missing file is made, readable by its owner alone.

        Raises:
            ConfigError: as `all`; the name does not fit, there is no role, or the subject has a name.
        """
        if not _name.fullmatch(name):
            raise ConfigError(f"name {name[:120]!r}: use 1 to 100 printable ASCII characters", field="name")
        if name.startswith(_RESERVED):
            raise ConfigError(f"name {name!r}: {' and '.join(_RESERVED)} mark other actors", field="name")
        if not roles:
            raise ConfigError(f"{name} has no role: give one of {', '.join(Role)}", field="roles")
        with self._locked():
            if self.path.exists():
                before, key = self.all(), self._kept.identity_key
            else:
                before, key = (), secrets.token_hex(_SECRET_BYTES)
            if subject and any(one.subject == subject for one in before):
                raise ConfigError(
                    f"the subject {subject} has a name already: revoke it first", field="subject"
                )
            id = secrets.token_hex(4)
            while any(one.id == id for one in before):
                id = secrets.token_hex(4)
            token = "" if subject else f"lucid_{id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
            made = Credential(
                id=id,
                name=name,
                roles=roles,
                created_at=datetime.now(UTC),
                sha256=hashlib.sha256(token.encode()).hexdigest() if token else "",
                subject=subject,
            )
            self._write(_File(identity_key=key, credentials=(*before, made)))
        return made, token

    def revoke(self, id: str) -> Credential:
        """Take the credential with that id out; services refuse it from their next request on.

        Raises:
            NotFound: there is none with that id.
            ConfigError: as `all`.
        """
        with self._locked():
            before = self.all()
            gone = next((one for one in before if one.id == id), None)
            if gone is None:
                raise NotFound(f"{self.path} has no credential {id}: `lucid tokens list` shows them")
            left = tuple(one for one in before if one is not gone)
            self._write(msgspec.structs.replace(self._kept, credentials=left))
        return gone

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other commands out between reading and writing: none must undo another's revocation."""
        lock = self.path.with_name(f"{self.path.name}.lock")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            opened = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, MODE)
        except OSError as exc:
            raise ConfigError(f"{lock}: {exc.strerror}: choose a folder that can be written to") from exc
        try:
            fcntl.flock(opened, fcntl.LOCK_EX)
            yield
        finally:
            os.close(opened)

    def _write(self, file: _File) -> None:
        body = msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"
        try:
            write_whole(self.path, body, mode=MODE)
        except OSError as exc:
            raise ConfigError(f"{self.path}: can't be written: {exc.strerror}", path=str(self.path)) from exc


def looks_like_token(text: str) -> bool:
    """Return whether `text` has the form of a token."""
    return _token.fullmatch(text) is not None


def _check_mode(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{path} is no file", path=str(path))
    if found.st_mode & _refused_to_others(found):
        mode = stat.S_IMODE(found.st_mode)
        raise ConfigError(
            f"{path} has mode {mode:03o}: others must not read it, `chmod 600 {path}`", path=str(path)
        )
    if found.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"{path} belongs to user {found.st_uid}: it must be owned by the user of the service",
            path=str(path),
        )


def _refused_to_others(found: os.stat_result) -> int:
    """Return the bits that nobody but the owner may have.

    A secret that Kubernetes mounts belongs to root and to the pod's group (`fsGroup`), with mode 0440: the
    group is how the service reads it at all, and it can change neither mode nor owner. That group is the
    pod's alone, so nothing is given away. A file that is ours has no such reason: it is made 0600.
    """
    ours = {os.getegid(), *os.getgroups()}
    mounted = found.st_uid == 0 != os.geteuid() and found.st_gid in ours
    return _OTHERS & ~_GROUP_READS if mounted else _OTHERS


def _decoded(path: Path, body: bytes) -> _File:
    try:
        read = msgspec.json.decode(body, type=_File)
    except msgspec.DecodeError as exc:
        raise ConfigError(f"{path} is broken: {exc}", path=str(path)) from exc
    if read.version != 1:
        raise ConfigError(f"{path} has version {read.version}: this program reads version 1", path=str(path))
    for one in read.credentials:
        if not one.roles or bool(one.sha256) == bool(one.subject):
            raise ConfigError(
                f"{path}: credential {one.id} must have a role, and either a token or a subject",
                path=str(path),
            )
    return read
