"""Peak memory while one long recording goes through: recorder, worker, service; then of its audit.

    python -m bench.memory [--gib 2] [--folder DIR]

Prints one line a process; what it says is true of this run, the bound it is held against is a promise:
memory depends on settings, never on the recording's length. Run it with two lengths to see that.
"""

import argparse
import os
import random
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import Running

MIB = 1024 * 1024
MOST_MIB = 200
"""What a recorder, a worker and an audit may each have resident, at default settings."""
LOOK_S = 0.1
DEFAULTS = {
    "LUCID_BEAT_INTERVAL": "5",
    "LUCID_LEASE": "30",
    "LUCID_FLUSH_INTERVAL": "1",
    "LUCID_STOP_TIMEOUT": "300",
}
"""Over what tests use to be quick."""


def feed(descriptor: int, size: int) -> None:
    """Write `size` bytes that are half noise, half repetition, no two blocks alike, and end."""
    rng = random.Random(size)
    noise = rng.randbytes(MIB)
    for number in range(size // MIB):
        turn = rng.randrange(MIB)
        block = noise[turn:] + noise[:turn]
        rest = memoryview(block if number % 2 else (b"line %12d\n" % number * MIB)[:MIB])
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    os.close(descriptor)


def measure(folder: Path, size: int) -> tuple[dict[str, int], float]:
    """Return the peak resident bytes of each process, and the seconds the recording took."""
    reading, writing = os.pipe()
    with Pipeline(folder, DEFAULTS, without=["chunks"]) as pipeline:
        worker = pipeline.spawn("worker", "--only", "chunks")
        began = time.monotonic()
        recorder = pipeline.spawn("record", "long", "-", stdin=reading)
        os.close(reading)
        feeder = threading.Thread(target=feed, args=(writing, size))
        feeder.start()
        assert pipeline.service is not None
        watched: dict[str, Running] = {"record": recorder, "worker": worker, "up": pipeline.service}
        peaks = dict.fromkeys(watched, 0)
        watch(recorder, watched, peaks)
        feeder.join()
        seconds = time.monotonic() - began
        auditor = pipeline.spawn("audit", "verify", "long")
        watch(auditor, {"verify": auditor}, peaks)
    return peaks, seconds


def watch(until: Running, watched: dict[str, Running], peaks: dict[str, int]) -> None:
    """Note the peaks of all that is `watched`, till one of them has ended well."""
    while until.code is None:
        for name, process in watched.items():
            with suppress(OSError, StopIteration):  # it has just ended
                peaks[name] = max(peaks.get(name, 0), process.peak_bytes)
        time.sleep(LOOK_S)
    assert until.code == 0, until.err


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--gib", type=float, default=2.0, help="length of the recording (default 2)")
    parser.add_argument("--folder", type=Path, help="where the data goes; made, and removed afterwards")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lucid-memory-", dir=asked.folder))
    size = int(asked.gib * 1024) * MIB
    try:
        peaks, seconds = measure(folder, size)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, peak in peaks.items():
        verdict = "met" if peak < MOST_MIB * MIB else "missed"
        bound = "" if name == "up" else f" (at most {MOST_MIB}: {verdict})"
        print(f"{name:8} {peak / MIB:6.0f} MiB{bound}")
    print(f"{size / MIB:.0f} MiB in {seconds:.1f} s")


if __name__ == "__main__":
    main()
