"""Writes the documents below a directory, and refuses to change what has landed.

events/ commands/ replies/ beats/   schemas; replaced only by compatible ones
samples/<wire name>.json            written once; a field added later gets a sample
samples/<wire name>.2.json          of its own
landed.sha256                       digests of the samples, in the format of sha256sum
asyncapi.json                       replaced as it is
"""

import hashlib
import itertools
import json
from pathlib import Path

from lucid_events.contracts.asyncapi import asyncapi_document
from lucid_events.contracts.compatibility import breaks
from lucid_events.contracts.samples import sample_documents
from lucid_events.contracts.schemas import Document, schema_documents
from lucid_events.errors import ContractError

LOCK = "landed.sha256"
ASYNCAPI = "asyncapi.json"


def text(document: Document) -> str:
    """Return a document as it stands in its file."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def land(root: Path) -> list[str]:
    """Bring the files below `root` up to date; returns the paths that changed.

    Raises:
        ContractError: a schema that has landed would change incompatibly; nothing is written.
    """
    schemas = schema_documents()
    problems = [
        f"{path}: {problem}"
        for path, document in schemas.items()
        if (root / path).exists()
        for problem in breaks(_read(root / path), document)
    ]
    if problems:
        raise ContractError(
            "landed versions would change; make a new version and an upcaster instead: "
            + "; ".join(problems),
            problems=problems,
        )
    files = {path: text(document) for path, document in (schemas | {ASYNCAPI: asyncapi_document()}).items()}
    for wire, document in sample_documents().items():
        path = _place(root, wire, text(document))
        if path is not None:
            files[path] = text(document)
    changed = [path for path, new in files.items() if _differs(root / path, new)]
    for path in changed:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(files[path], encoding="utf-8")
    known = locked(root)
    added = {path: _digest(root / path) for path in samples(root) if path not in known}
    if added:
        lines = (f"{digest}  {path}\n" for path, digest in sorted((known | added).items()))
        (root / LOCK).write_text("".join(lines), encoding="utf-8")
    return changed


def samples(root: Path) -> list[str]:
    """Return the paths of all landed samples below `root`."""
    return sorted(path.relative_to(root).as_posix() for path in (root / "samples").glob("*.json"))


def locked(root: Path) -> dict[str, str]:
    """Return the digest each landed sample has, by path."""
    if not (root / LOCK).exists():
        return {}
    lines = (root / LOCK).read_text(encoding="utf-8").splitlines()
    return {path: digest for digest, path in (line.split(maxsplit=1) for line in lines)}


def altered(root: Path) -> list[str]:
    """Return the samples that are not what landed: changed, gone, or never locked."""
    known = locked(root)
    there = {path: _digest(root / path) for path in samples(root)}
    return sorted(path for path in {*known, *there} if known.get(path) != there.get(path))


def _place(root: Path, wire: str, content: str) -> str | None:
    for number in itertools.count(1):
        path = f"samples/{wire}.json" if number == 1 else f"samples/{wire}.{number}.json"
        if not (root / path).exists():
            return path
        if not _differs(root / path, content):
            return None
    raise AssertionError("counting ended")


def _differs(path: Path, content: str) -> bool:
    return not path.exists() or path.read_text(encoding="utf-8") != content


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(path: Path) -> Document:
    document: Document = json.loads(path.read_text(encoding="utf-8"))
    return document
