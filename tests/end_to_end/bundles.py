"""Bundles taken apart and put together again by somebody who knows the format and has no key."""

import importlib.util
import io
import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from lucid_events.errors import IntegrityError
from lucid_events.evidence.bundle_tar import TarWriter
from lucid_events.evidence.keys import KeyList, write_keys
from lucid_events.evidence.signing import Signer, generate_seed
from lucid_events.service.bundles import BundleReport, verify_bundle
from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import ROOT

Members = dict[str, bytes]


def unpacked(bundle: bytes) -> Members:
    """Return the members by name, in order, the sums left out."""
    found: Members = {}
    at = 0
    while bundle[at : at + 1] != b"\0":
        name, size = bundle[at : at + 100].rstrip(b"\0").decode(), int(bundle[at + 124 : at + 135], 8)
        found[name] = bundle[at + 512 : at + 512 + size]
        at += 512 + size + -size % 512
    del found["SHA256SUMS"]
    return found


def packed(members: Members) -> bytes:
    """Return a bundle of these members: a canonical tar, with sums that fit."""
    file = io.BytesIO()
    tar = TarWriter(file)
    for name, data in members.items():
        tar.add(name, data)
    tar.finish()
    return file.getvalue()


def one_spelling(value: object) -> bytes:
    """Return a line of JSON as the format has it, made by the standard library."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def with_json(members: Members, name: str, change: Callable[[dict[str, object]], None]) -> Members:
    """Return the members with the object in `name` changed."""
    value = json.loads(members[name])
    change(value)
    return {**members, name: one_spelling(value)}


def with_lines(members: Members, name: str, change: Callable[[list[bytes]], None]) -> Members:
    """Return the members with the lines of `name` changed."""
    lines = members[name].splitlines(keepends=True)
    change(lines)
    return {**members, name: b"".join(lines)}


def independent_checker() -> ModuleType:
    """Return examples/check_bundle.py as a module."""
    place: Path = ROOT / "examples" / "check_bundle.py"
    spec = importlib.util.spec_from_file_location("check_bundle", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHECKER = independent_checker()

CHUNK_BYTES = 2048
CHUNKS = 7


class Recorded(NamedTuple):
    """A recorded session, its bundles, and who signed it."""

    pipeline: Pipeline
    folder: Path
    source: bytes
    key: str
    keys: Path

    @property
    def whole(self) -> bytes:
        """All of it."""
        return (self.folder / "whole.tar").read_bytes()

    @property
    def excerpt(self) -> bytes:
        """Chunks 2 to 4."""
        return (self.folder / "excerpt.tar").read_bytes()

    def trusted(self) -> KeyList:
        """The list of keys an auditor has."""
        return KeyList().add(self.key, at=datetime(2020, 1, 1, tzinfo=UTC))


@contextmanager
def recording(folder: Path) -> Iterator[Recorded]:
    """Record a session of seven chunks, some of which compress, under a key, and export it."""
    seed = generate_seed()
    (folder / "seed").write_text(seed)
    (folder / "seed").chmod(0o600)
    noise = random.Random(7)
    source = b"".join(
        noise.randbytes(CHUNK_BYTES) if n % 3 == 0 else bytes([n]) * CHUNK_BYTES for n in range(CHUNKS)
    )[:-100]
    (folder / "source").write_bytes(source)
    signer = Signer(seed)
    keys = folder / "keys.json"
    env = {"LUCID_SIGNING_SEED": str(folder / "seed")}
    with Pipeline(folder / "pipeline", env) as pipeline:
        for sid in ("s1", "other"):
            pipeline.cli("create", sid, "--chunk-bytes", str(CHUNK_BYTES))
            pipeline.cli("record", sid, str(folder / "source"))
        found = Recorded(pipeline, folder, source, signer.key, keys)
        keys.write_bytes(write_keys(found.trusted()))
        pipeline.cli("audit", "export", "s1", "-o", str(folder / "whole.tar"))
        pipeline.cli("audit", "export", "s1", "--from", "2", "--to", "4", "-o", str(folder / "excerpt.tar"))
        yield found


def ours(
    bundle: bytes,
    folder: Path,
    *,
    keys: KeyList | None = None,
    require_signature: bool = False,
    allow_strays: bool = False,
) -> BundleReport:
    """Return what we say of a bundle."""
    place = folder / "judged.tar"
    place.write_bytes(bundle)
    return verify_bundle(place, keys=keys, require_signature=require_signature, allow_strays=allow_strays)


def refused(bundle: bytes, folder: Path) -> str:
    """Return why we refuse the bundle, which the independent checker has to refuse as well."""
    with pytest.raises(IntegrityError) as caught:
        ours(bundle, folder)
    assert re.match(r".*judged\.tar: byte \d+: .+: expected .+, found .+", caught.value.message, re.DOTALL)
    with pytest.raises(Exception, match=r".*"):
        CHECKER.check_bundle(io.BytesIO(bundle), None)
    return caught.value.message.partition(": byte ")[2]
