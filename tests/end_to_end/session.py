"""One session of a test: what is recorded, by whom, and what came of it."""

import json
import os
import random
from pathlib import Path
from typing import Any

from tests.end_to_end.audit import SETTLE_S, Audited, audit, last_acked
from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import Running

CHUNK = 65536
RECORDING = 5 * CHUNK + 1234
"""Bytes of one recording: a few full chunks and a short one."""


class Session:
    """One session and its source, a file of `size` bytes; half of them compress."""

    def __init__(
        self, pipeline: Pipeline, sid: str, rng: random.Random, size: int = RECORDING, chunk: int = CHUNK
    ) -> None:
        self._pipeline, self.sid, self._chunk = pipeline, sid, chunk
        self.source, self.acked = pipeline.folder / f"{sid}.source", pipeline.folder / f"{sid}.acked"
        self.data = rng.randbytes(size // 2) + bytes(size - size // 2)
        self.source.write_bytes(self.data)

    def record(
        self,
        *more: str,
        words: list[str] | None = None,
        acked: Path | None = None,
        stdin: int | None = None,
    ) -> Running:
        """Start a recorder of the whole source, or of a pipe; it notes what is durable in `acked`."""
        source = str(self.source) if stdin is None else "-"
        args = ("record", self.sid, source, "--chunk-bytes", str(self._chunk))
        return self._pipeline.spawn(
            *args, "--acked-file", str(acked or self.acked), *more, words=words, stdin=stdin
        )

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of one kind, as the command prints them; none before the session is there."""
        if not self.started():
            return []
        told = self._pipeline.cli("events", "--session", self.sid, "--type", kind, "--json").stdout
        return [json.loads(line)["data"] for line in told.splitlines()]

    def started(self) -> bool:
        """Return whether anything of it is in the log."""
        return self._pipeline.cli("replay", self.sid, check=False).returncode == 0

    def audit(self, *, settle_s: float = SETTLE_S) -> Audited:
        """Wait for the session's end and check everything; see `audit`."""
        acked = last_acked(self.acked)
        return audit(self._pipeline.url, self.sid, self.data, acked=acked, settle_s=settle_s)


class Feed:
    """A pipe that gives a session's bytes as far as it is told; it outlives the recorders that read it."""

    def __init__(self, session: Session) -> None:
        self._session, self._given = session, 0
        self.reading, self._writing = os.pipe()

    def give(self, upto: int) -> None:
        """Write the bytes up to offset `upto`; returns when the recorder has taken nearly all of them."""
        while self._given < upto:
            self._given += os.write(self._writing, self._session.data[self._given : upto])

    def end(self) -> None:
        """Give the rest, and the end."""
        self.give(len(self._session.data))
        os.close(self._writing)
        os.close(self.reading)
