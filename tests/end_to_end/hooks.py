"""The installed command with hooks: the same `main`, given a checkpoint that kills or stops a process.

    python -m tests.end_to_end.hooks --at chunk.put:2 --signal KILL -- worker --only chunks

Recorder, workers and `up` take a checkpoint that is awaited between any two of their steps; the
command line has no use for it, so it is handed in here, where the classes are looked up.
"""

import argparse
import asyncio
import functools
import os
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from lucid_events import recorder, service
from lucid_events.cli import main
from lucid_events.errors import AppendUncertain
from lucid_events.jetstream import definitions, preflight, topology
from lucid_events.jetstream.connection import Connection, Reply
from lucid_events.service import backing_up, embedded, restoring
from lucid_events.subjects import Subjects

PATIENCE_S = 30.0
POLL_S = 0.01


class Checkpoint:
    """Sends a signal at each of some (step, time it is reached).

    To this process, or to the one whose id is in `pid_file`: each time to another, waiting for it.
    """

    def __init__(self, places: set[tuple[str, int]], number: signal.Signals, pid_file: Path | None) -> None:
        self._places, self._signal, self._pid_file = places, number, pid_file
        self._seen: Counter[str] = Counter()
        self._ended: set[int] = set()

    async def __call__(self, step: str) -> None:
        self._seen[step] += 1
        if (step, self._seen[step]) not in self._places:
            return
        if self._pid_file is None:
            os.kill(os.getpid(), self._signal)
            await asyncio.sleep(0)
            return
        async with asyncio.timeout(PATIENCE_S):
            while not self._signalled(self._pid_file):  # noqa: ASYNC110 # another process sets no event
                await asyncio.sleep(POLL_S)

    def _signalled(self, pid_file: Path) -> bool:
        """Signal the process the file names now, unless that was done, or it is gone and not back yet."""
        with suppress(OSError, ValueError):
            pid = int(pid_file.read_text())
            if pid not in self._ended:
                os.kill(pid, self._signal)
                self._ended.add(pid)
                return True
        return False


def lose(requests: dict[str, int], replies: dict[str, int]) -> None:
    """Lose the first so many requests, or replies to requests, on subjects that begin with a prefix."""
    call = Connection.call

    def losing(
        self: Connection,
        subject: str,
        data: bytes | memoryview = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> asyncio.Future[Reply]:
        if _one_of(requests, subject):
            return asyncio.ensure_future(_lost(None, subject))
        answer = call(self, subject, data, headers=headers, timeout_s=timeout_s)
        return asyncio.ensure_future(_lost(answer, subject)) if _one_of(replies, subject) else answer

    Connection.call = losing  # type: ignore[method-assign] # the same, but forgetful


def _one_of(losses: dict[str, int], subject: str) -> bool:
    for prefix, left in losses.items():
        if left > 0 and subject.startswith(prefix):
            losses[prefix] = left - 1
            return True
    return False


async def _lost(answer: asyncio.Future[Reply] | None, subject: str) -> Reply:
    if answer is not None:
        await answer
    sys.stderr.write(f"lost: {subject}\n")
    raise AppendUncertain(f"no reply on {subject!r} (lost by the test)")


def shorten_ack_waits(seconds: float) -> None:
    """Define every consumer with another ack wait, for `up` and `deploy` in this process."""
    load = definitions.load

    def shortened(
        subjects: Subjects, settings: definitions.TopologySettings = definitions.DEFAULT_SETTINGS
    ) -> list[definitions.Definition]:
        found = load(subjects, settings)
        for definition in found:
            if definition.kind == "consumer":
                definition.config["ack_wait"] = int(seconds * 1e9)
        return found

    for module in (definitions, topology, preflight):
        if "load" in vars(module):
            vars(module)["load"] = shortened


def run(words: list[str]) -> None:
    """Read our own flags up to `--`, then be the command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--at", action="append", default=[], metavar="STEP[:NTH]")
    parser.add_argument("--signal", default="KILL", choices=("KILL", "STOP"))
    parser.add_argument("--pid-file", type=Path, help="whom to signal, instead of this process")
    parser.add_argument("--lose", action="append", default=[], metavar="SUBJECT[:TIMES]", help="replies")
    parser.add_argument("--drop", action="append", default=[], metavar="SUBJECT[:TIMES]", help="requests")
    parser.add_argument("--ack-wait", type=float)
    parser.add_argument("--only", help="parts that `up` runs")
    border = words.index("--")
    flags, command = parser.parse_args(words[:border]), words[border + 1 :]
    if flags.ack_wait:
        shorten_ack_waits(flags.ack_wait)
    if flags.lose or flags.drop:
        lose(requests=dict(map(_counted, flags.drop)), replies=dict(map(_counted, flags.lose)))
    if flags.only:
        service.up = functools.partial(service.up, only=flags.only.split(","))
    if flags.at:
        places = set(map(_counted, flags.at))
        checkpoint = Checkpoint(places, signal.Signals[f"SIG{flags.signal}"], flags.pid_file)
        for module, name in (
            (recorder, "Recording"),
            (service, "up"),
            (embedded, "Workers"),
            (backing_up, "create_backup"),
            (restoring, "restore_backup"),
        ):
            setattr(module, name, functools.partial(getattr(module, name), checkpoint=checkpoint))
    sys.argv = ["lucid", *command]
    main()


def _counted(text: str) -> tuple[str, int]:
    name, _, count = text.partition(":")
    return name, int(count or 1)


if __name__ == "__main__":
    run(sys.argv[1:])
