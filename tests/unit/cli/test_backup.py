"""How a restore verifies what it has restored."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from lucid_events.cli import backup
from lucid_events.errors import NotFound
from lucid_events.evidence.keys import KeyList
from lucid_events.evidence.signing import Signer, generate_seed
from lucid_events.service import auditing, restoring
from lucid_events.service.keys import save_keys


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Restores that restore nothing, and what the auditor behind them was asked for."""
    asked: dict[str, Any] = {"restored": 0}

    @asynccontextmanager
    async def target(*args: object) -> AsyncIterator[None]:
        yield None

    async def restore(*args: object, **kwargs: object) -> SimpleNamespace:
        asked["restored"] += 1
        manifest = SimpleNamespace(id="b", erased=(), log=SimpleNamespace(sequence=1, incarnation=1))
        return SimpleNamespace(manifest=manifest, removed=(), sequence=1, incarnation=2, views="")

    async def auditor(*args: object, **kwargs: object) -> None:
        asked.update(kwargs)
        raise NotFound("far enough")

    monkeypatch.setattr(restoring, "restore_target", target)
    monkeypatch.setattr(restoring, "restore_backup", restore)
    monkeypatch.setattr(auditing, "open_auditor", auditor)
    return asked


def test_a_restore_believes_the_keys_of_the_settings(
    restored: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signatures of restored sessions are held against LUCID_SIGNING_KEYS, as `lucid audit verify` does."""
    path = tmp_path / "keys.json"
    keys = KeyList().add(Signer(generate_seed()).key, at=datetime(2026, 1, 31, tzinfo=UTC))
    save_keys(path, keys)
    monkeypatch.setenv("LUCID_SIGNING_KEYS", str(path))
    with pytest.raises(typer.Exit):
        backup.restore(tmp_path)
    assert restored["keys"] == keys


def test_keys_that_cannot_be_read_stop_a_restore_before_it_begins(
    restored: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of keys that is not there is an error while nothing was written yet."""
    monkeypatch.setenv("LUCID_SIGNING_KEYS", str(tmp_path / "nowhere"))
    with pytest.raises(typer.Exit):
        backup.restore(tmp_path)
    assert restored["restored"] == 0
