"""Seeds and key lists as files: read with care, written whole, a seed never for others to read.

seed    one line, mode 0600, owned by whoever runs us or by root
keys    the JSON of `evidence/keys.py`; public, but whoever may write it decides who is believed
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lucid_events.config.evidence import EvidenceSettings
from lucid_events.durable_files import write_whole
from lucid_events.errors import ConfigError
from lucid_events.evidence.keys import KeyList, read_keys, write_keys
from lucid_events.evidence.signing import Signer, may_be_seed, seed_in

SEED_MODE: Final = 0o600
KEYS_MODE: Final = 0o644

_OTHERS: Final = 0o077
_LONGEST: Final = 4096
"""Bytes of a seed file that are read: a seed has 58, and an error should not quote a video."""


def load_signer(given: str) -> Signer:
    """Return the signer of a seed, or of the file that `given` names.

    Raises:
        ConfigError: no such file, others may read it, or it holds no seed. Never says what it holds, nor
            what was given when that may be a seed.
    """
    seed = seed_in(given)
    return Signer(_read_seed(Path(given)) if seed is None else seed)


def is_seed(given: str) -> bool:
    """Return whether a setting holds the seed itself, well typed or not, rather than the name of a file."""
    return seed_in(given) is not None


def load_keys(path: Path) -> KeyList:
    """Return the list of keys in a file.

    Raises:
        ConfigError: it can't be read, or is no list of keys.
    """
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"the list of keys {_shown(path)} can't be read: {exc.strerror}") from _cause(
            path, exc
        )
    return read_keys(data, _shown(path))


def trusted_keys(evidence: EvidenceSettings) -> KeyList | None:
    """Return the keys that the settings say are believed; None when they name no list.

    Raises:
        ConfigError: as `load_keys`.
    """
    return load_keys(Path(evidence.signing_keys)) if evidence.signing_keys else None


def write_seed(path: Path, seed: str, *, replace: bool = False) -> None:
    """Write `seed` to a file that only its owner may read; without `replace` it has to be new.

    Raises:
        ConfigError: the file exists already, can't be written, or its name is a seed.
    """
    if is_seed(str(path)):
        raise ConfigError("a seed was given where the name of its file belongs: name a file")
    if path.exists() and not replace:
        raise ConfigError(f"{_shown(path)} exists already: a seed that signed something is not overwritten")
    _write(path, f"{seed}\n".encode(), SEED_MODE)


def save_keys(path: Path, keys: KeyList) -> None:
    """Write the list of keys to a file, whole or not at all.

    Raises:
        ConfigError: it can't be written.
    """
    _write(path, write_keys(keys), KEYS_MODE)


def _read_seed(path: Path) -> str:
    with _unreadable(path):
        # The file that is looked at is the one that is read, whatever its name points to by then; a
        # pipe without a writer must not hang us.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _check_seed_file(path, os.fstat(descriptor))
            data = os.read(descriptor, _LONGEST)
        finally:
            os.close(descriptor)
    return data.decode("ascii", "replace").strip()


def _check_seed_file(path: Path, about: os.stat_result) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise ConfigError(f"the signing seed {_shown(path)} is not a file")
    if about.st_mode & _OTHERS:
        raise ConfigError(
            f"others may read the signing seed {_shown(path)} (mode {stat.S_IMODE(about.st_mode):04o}): "
            f"run chmod 600 {_shown(path)}, and rotate the key if somebody may have read it"
        )
    if about.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"the signing seed {_shown(path)} belongs to another user (uid {about.st_uid})")


def _write(path: Path, data: bytes, mode: int) -> None:
    try:
        write_whole(path, data, mode=mode)
    except OSError as exc:
        raise ConfigError(f"{_shown(path)} can't be written: {exc.strerror}") from _cause(path, exc)


@contextmanager
def _unreadable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ConfigError(f"the signing seed {_shown(path)} can't be read: {exc.strerror}") from _cause(
            path, exc
        )


def _shown(path: Path) -> str:
    """Return the name of a file, or that there is one: what was given for a name may be a seed."""
    return "(its name looks like a seed and is not shown)" if may_be_seed(str(path)) else str(path)


def _cause(path: Path, exc: OSError) -> OSError | None:
    """Return the cause of an error unless it quotes what is not to be shown."""
    return None if may_be_seed(str(path)) else exc
