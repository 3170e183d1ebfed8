"""The public keys an auditor trusts: which, from when, until when.

    {"keys": [{"key": "A…", "valid_from": "2026-01-31T12:00:00Z",
               "valid_until": null, "retired": false, "note": ""}]}

A key stays good for what it signed while it was valid: retiring one ends its time, and takes back
nothing. A file like this is public and needs no secrecy, but whoever may write it decides who is
believed: an auditor keeps a copy of their own.
"""

from datetime import datetime

import msgspec
from msgspec.structs import replace

from lucid_events.domain.values import Instant, Request
from lucid_events.errors import ConfigError
from lucid_events.evidence.signing import check_key


class TrustedKey(Request, frozen=True, kw_only=True):
    """One key: what it signed from `valid_from` to `valid_until` is believed; `retired` signs no more."""

    key: str
    valid_from: Instant
    valid_until: Instant | None = None
    retired: bool = False
    note: str = ""

    def valid_at(self, when: datetime) -> bool:
        """Return whether a signature made at `when` is within the key's time."""
        return self.valid_from <= when and (self.valid_until is None or when <= self.valid_until)


class KeyList(Request, frozen=True, kw_only=True):
    """The keys, in the order they were added; a key stands in it once."""

    keys: tuple[TrustedKey, ...] = ()

    def find(self, key: str) -> TrustedKey | None:
        """Return what the list says of `key`, None when it does not know it."""
        return next((known for known in self.keys if known.key == key), None)

    def add(self, key: str, *, at: datetime, note: str = "") -> "KeyList":
        """Return the list with a new key that is valid from `at` on.

        Raises:
            ConfigError: the list has it already.
        """
        if self.find(key) is not None:
            raise ConfigError(f"key {key} is in the list already")
        return KeyList(keys=(*self.keys, TrustedKey(key=check_key(key), valid_from=at, note=note)))

    def retire(self, key: str, *, until: datetime) -> "KeyList":
        """Return the list with `key` valid until `until` and no longer.

        Raises:
            ConfigError: the list does not have it, or its time ended before.
        """
        known = self.find(key)
        if known is None:
            raise ConfigError(f"key {key} is not in the list: add it before it is retired")
        if known.valid_until is not None and known.valid_until < until:
            raise ConfigError(f"key {key} was retired already, as of {known.valid_until.isoformat()}")
        retired = replace(known, valid_until=until, retired=True)
        return KeyList(keys=tuple(retired if one.key == key else one for one in self.keys))


def read_keys(data: bytes, source: str) -> KeyList:
    """Return the key list in `data`; `source` names it in errors.

    Raises:
        ConfigError: not a key list, a key is mistyped or stands twice, a time ends before it begins.
    """
    try:
        found = _decoder.decode(data)
    except msgspec.MsgspecError as exc:
        raise ConfigError(f"{source} is not a list of keys: {exc}") from exc
    seen: set[str] = set()
    for known in found.keys:
        try:
            check_key(known.key)
        except ConfigError as exc:
            raise ConfigError(f"{source}: {exc.message}") from exc
        if known.key in seen:
            raise ConfigError(f"{source}: key {known.key} stands twice: which one counts is not decided here")
        seen.add(known.key)
        if known.valid_until is not None and known.valid_until < known.valid_from:
            raise ConfigError(f"{source}: the time of key {known.key} ends before it begins")
        if known.retired and known.valid_until is None:
            raise ConfigError(f"{source}: key {known.key} is retired and has no valid_until")
    return found


def write_keys(keys: KeyList) -> bytes:
    """Return the list as it stands in its file: JSON, indented."""
    return msgspec.json.format(msgspec.json.encode(keys), indent=2) + b"\n"


_decoder = msgspec.json.Decoder(KeyList)
