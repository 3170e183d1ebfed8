"""What `lucid record` says when it is cut off: how far the recording is durable, and how to go on."""

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from lucid_events.cli.output import err, print_json, size
from lucid_events.errors import (
    AppendUncertain,
    CommandRejected,
    Fenced,
    IntegrityError,
    LucidError,
    StoreUnavailable,
)
from lucid_events.recorder import Source, TerminalSource

if TYPE_CHECKING:
    from lucid_events.recorder import Recording

KEPT = {
    "server": "--server",
    "spool": "--spool",
    "stderr_file": "--stderr-file",
    "acked_file": "--acked-file",
}
"""Options that hold for a second run too; the others are those of a session that is to be created."""


def resume_command(asked: Mapping[str, object], source: Source, *, acked: int, command: bool) -> str:
    """Return the command line that goes on behind byte `acked`, from what was `asked` the first time.

    A terminal's recording can't be gone on with (a second header in one file would not play): then
    it is the line that begins a new session.
    """
    terminal = isinstance(source, TerminalSource)
    session = f"{asked['sid']}-2" if terminal and acked else str(asked["sid"])
    words = ["lucid", "record", session]
    given = asked.get("source")
    names = [str(word) for word in given] if isinstance(given, list | tuple) else []
    if not command:
        words += names
    if not (terminal and acked):
        words.append("--recover")
    if acked and not source.resumable and not terminal:
        words.append("--append")
    words += [flag for name, flag in (("tty", "--tty"), ("input_too", "--input")) if asked.get(name)]
    for name, flag in KEPT.items():
        if asked.get(name) is not None:
            words += [flag, str(asked[name])]
    if command:
        words += ["--", *names]
    return shlex.join(words)


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What became of the bytes of a recording that was cut off.

    Attributes:
        acked: every byte below it is durable.
        kept: those from `acked` up to it are in the spool.
        read: those from `kept` up to it were read and are not known to be anywhere but in the source.
        began: the source was begun; else nothing was read.
    """

    sid: str
    acked: int
    kept: int
    read: int
    source: Source
    began: bool = True

    @classmethod
    def of(cls, sid: str, recording: "Recording | None", source: Source) -> "Fate":
        """Return what became of `recording`, whose `run` is over, if it ever was called."""
        if recording is None or not recording.opened:
            return cls(sid=sid, acked=0, kept=0, read=0, source=source, began=False)
        acked = recording.acked_upto
        read = max(acked, recording.read_upto)
        return cls(sid=sid, acked=acked, kept=min(read, recording.kept_upto), read=read, source=source)

    @property
    def rest(self) -> str:
        """Where the bytes are that were read and are not durable; empty when there are none."""
        said = []
        if self.acked < self.kept:
            said.append(f"{self._bytes(self.acked, self.kept)} were read and are in the spool")
        if self.kept < self.read:
            where = "the source has them still" if self.source.resumable else "count them as lost"
            read = f"{self._bytes(self.kept, self.read)} were read"
            said.append(f"{read}, and neither confirmed by the server nor in a spool: {where}")
        return "; ".join(said)

    def __str__(self) -> str:
        if not self.began:
            return f"the recording of {self.sid} had not begun, nothing was read from {self.source.name}"
        durable = f"bytes of {self.sid} up to {self.acked} ({size(self.acked)}) are durable"
        said = (
            f"{durable}: the pipeline stores them by itself"
            if self.acked
            else f"no byte of {self.sid} is durable"
        )
        return f"{said}; {self.rest}" if self.rest else said

    def _bytes(self, start: int, end: int) -> str:
        return f"bytes {start} to {end} ({size(end - start)})"


def tell_interrupted(fate: Fate, again: str, *, late: str, json: bool) -> None:
    """Say what became of a recording that was ended at once, `late` or by its user, and how to go on."""
    message = f"interrupted: {late}{fate}"
    if json:
        offsets = {"safe_offset": fate.acked, "spool_offset": fate.kept, "read_offset": fate.read}
        error = {"code": "interrupted", "message": message, "retry": True, **offsets}
        print_json({"error": {**error, "again": again}})
        return
    err.print(message, markup=False)
    err.print(f"go on with: {again}", markup=False)


def explain(error: LucidError, fate: Fate, again: Callable[[int], str]) -> None:
    """Have `error`, which ended a recording, say what became of its bytes and what to type next.

    `again` returns the command that goes on behind a byte. There is none where a person has to look
    first, or where another recorder goes on.
    """
    if not fate.began:
        _explain_refusal(error, fate, again)
        return
    if fate.rest:
        error.message = f"{error.message}; {fate.rest}"
    taken_over = isinstance(error, Fenced) and error.fields.get("state") not in ("error", None)
    if not taken_over and not isinstance(error, IntegrityError):
        error.fields.setdefault("safe_offset", fate.acked)
        error.fields["again"] = again(fate.acked)


def _explain_refusal(error: LucidError, fate: Fate, again: Callable[[int], str]) -> None:
    if isinstance(error, StoreUnavailable | AppendUncertain):
        error.message = f"{error.message}; nothing was read from {fate.source.name}"
    if not isinstance(error, CommandRejected):
        return
    allowed = cast("Iterable[object]", error.fields.get("allowed") or ())
    if "recover" in map(str, allowed):
        error.fields["again"] = again(1)
    elif error.fields.get("state") in ("cleanup", "destroyed"):
        error.message = f"{error.message}, and its bytes were erased for good: use another session id"
