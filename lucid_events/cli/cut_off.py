"""What `lucid record` says when it is cut off: how far the recording is durable, and how to go on."""

import shlex
from collections.abc import Mapping

from lucid_events.cli.output import err, print_json, size
from lucid_events.recorder import Source, TerminalSource

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


def fate_of(sid: str, *, acked: int, taken: int, spooled: bool) -> str:
    """Return which bytes of a recording that was cut off are durable, and which were read for nothing."""
    said = f"bytes of {sid} up to {acked} ({size(acked)}) are durable: the pipeline stores them by itself"
    if taken <= acked:
        return said
    where = "in the spool" if spooled else "stored nowhere"
    return f"{said}; bytes {acked} to {taken} were read and are {where}"


def tell_interrupted(fate: str, acked: int, again: str, *, json: bool) -> None:
    """Say what became of a recording that was ended at once, and how to go on behind byte `acked`."""
    message = f"interrupted: {fate}"
    if json:
        error = {"code": "interrupted", "message": message, "retry": True, "safe_offset": acked}
        print_json({"error": {**error, "again": again}})
        return
    err.print(message, markup=False)
    err.print(f"go on with: {again}", markup=False)
