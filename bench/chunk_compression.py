"""Measure the numbers that lucid_events/compression gives as its reasons, on the machine at hand.

    python bench/chunk_compression.py [codecs] [lz4] [probe] [threads] [memory]

Without a name all five run. Times are the best of several runs. Inputs are the standard library's source,
an asciicast made from it, noise, and H.264 when imageio-ffmpeg is installed.
"""

import importlib
import json
import random
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import lz4.frame

from lucid_events.compression import codecs, probe

MIB = 1024 * 1024
CHUNK_BYTES = 10 * MIB
VIDEO = "testsrc2=size=1280x720:rate=30,noise=c0s=20:allf=t"
PEAK = """
import sys
from functools import partial
from pathlib import Path
from lucid_events.compression import codecs
codec, level, data = sys.argv[1], int(sys.argv[2]), sys.stdin.buffer.read()
codecs.compress(codec, level, data[:1000])
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
def measure(work):
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    return work(), peak() - before
stored, there = measure(lambda: codecs.compress(codec, level, data))
raw, back = measure(lambda: codecs.decompress(codec, stored, size=len(data)))
print(there, back)
"""


def best_ms(work: Callable[[], object], runs: int = 5) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1000)
    return min(times)


def source_text() -> bytes:
    files = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
    found, length = [], 0
    for file in files:
        found.append(file.read_bytes())
        length += len(found[-1])
        if length >= CHUNK_BYTES:
            break
    return b"".join(found)[:CHUNK_BYTES]


def asciicast(text: bytes) -> bytes:
    rng, clock, lines = random.Random(3), 0.0, []
    for line in text.decode(errors="replace").splitlines():
        clock += rng.random() / 20
        lines.append(json.dumps([round(clock, 6), "o", line + "\r\n"]))
    return "\n".join(lines).encode()[:CHUNK_BYTES]


def video() -> bytes:
    try:
        ffmpeg = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    except ImportError:
        return b""
    command = [ffmpeg, "-v", "error", "-f", "lavfi", "-i", VIDEO, "-t", "40", "-c:v", "libx264"]
    rate = ["-preset", "veryfast", "-b:v", "2000k", "-maxrate", "2000k", "-bufsize", "4000k"]
    form = ["-f", "mp4", "-movflags", "frag_keyframe+empty_moov", "-"]
    return subprocess.run([*command, *rate, *form], check=True, capture_output=True).stdout[:CHUNK_BYTES]


def inputs() -> dict[str, bytes]:
    text, noise = source_text(), random.Random(1).randbytes(CHUNK_BYTES)
    made = {"source text": text, "asciicast": asciicast(text), "noise": noise, "h264": video()}
    return {name: data for name, data in made.items() if data}


def bench_codecs() -> None:
    print("\ncodecs: raw / stored, compress ms, restore ms, per chunk")
    for name, data in inputs().items():
        for codec, level in (("gzip", 1), ("gzip", 6), ("zstd", 1), ("zstd", 3), ("lz4", 0), ("lz4", 9)):
            stored = codecs.compress(codec, level, data)
            there = best_ms(partial(codecs.compress, codec, level, data), 3)
            back = best_ms(partial(codecs.decompress, codec, stored, size=len(data)), 3)
            print(f"  {name:<12} {codec} {level}: {len(data) / len(stored):7.3f} {there:8.1f} {back:7.1f}")


def bench_lz4() -> None:
    print("\nlz4 blocks: raw / stored, compress ms")
    for name, data in inputs().items():
        for level in (0, 9):
            for linked in (True, False):
                for block, label in ((4, "64K"), (5, "256K"), (6, "1M"), (7, "4M")):

                    def work(
                        d: bytes = data, level: int = level, linked: bool = linked, block: int = block
                    ) -> bytes:
                        return bytes(
                            lz4.frame.compress(
                                d, compression_level=level, block_linked=linked, block_size=block
                            )
                        )

                    kind = "linked" if linked else "independent"
                    ratio = len(data) / len(work())
                    print(f"  {name:<12} {level} {kind:<11} {label:<4} {ratio:6.3f} {best_ms(work, 3):7.1f}")


def bench_probe() -> None:
    """Compare the sample's ratio with the whole's, for several shapes of the sample."""
    made = inputs()
    text, noise = made["source text"], made["noise"]
    for percent in (2, 5, 8, 10, 15, 25, 50):
        size = CHUNK_BYTES * percent // 100
        made[f"{percent} % text first"] = text[:size] + noise[size:]
        turns = (text if at * 37 % 100 < percent else noise for at in range(CHUNK_BYTES // 65536))
        parts = (source[at * 65536 : (at + 1) * 65536] for at, source in enumerate(turns))
        made[f"{percent} % text mixed"] = b"".join(parts)
    shapes = ((64, 2048), (32, 2048), (128, 2048), (64, 1024), (64, 4096), (16, 8192))
    shipped = (probe.WINDOWS, probe.WINDOW_BYTES)
    print(
        f"\nprobe: whole ratio by gzip 6, then ratio and ms of the sample by {shapes}; shipped is {shipped}"
    )
    try:
        for name, data in made.items():
            row = [f"{len(data) / len(codecs.compress('gzip', 6, data)):8.3f} |"]
            for shape in shapes:
                _sample_as(shape)
                cost = best_ms(partial(probe.sample_ratio, data))
                row.append(f"{probe.sample_ratio(data):7.3f} {cost:5.2f}")
            print(f"  {name:<16}", "  ".join(row))
    finally:
        _sample_as(shipped)


def _sample_as(shape: tuple[int, int]) -> None:
    windows, size = shape
    vars(probe).update(WINDOWS=windows, WINDOW_BYTES=size)


def bench_threads() -> None:
    print("\nthreads: ms for four chunks of text, by number of threads")
    data = source_text()
    for codec in ("gzip", "zstd", "lz4"):
        row = []
        for workers in (1, 2, 4):
            with ThreadPoolExecutor(workers) as threads:
                each = partial(codecs.compress, codec, None)
                took = best_ms(partial(_all, threads, each, [data] * 4))
                row.append(f"{workers}: {took:7.1f}")
        print(f"  {codec:<5}", "  ".join(row))


def _all(threads: ThreadPoolExecutor, work: Callable[[bytes], object], items: list[bytes]) -> None:
    list(threads.map(work, items))


def bench_memory() -> None:
    print("\nmemory: MiB beyond the input, taken and counted by the budget (Linux only)")
    for name, data in inputs().items():
        for codec, level in (("gzip", 6), ("zstd", 3), ("zstd", 19), ("lz4", 0), ("lz4", 9)):
            command = [sys.executable, "-c", PEAK, codec, str(level)]
            printed = subprocess.run(command, input=data, check=True, capture_output=True).stdout.split()
            size = len(data)
            counted = (
                size + codecs.working_bytes(codec, level, size),
                size + codecs.restoring_bytes(codec, size),
            )
            pairs = zip(printed, counted, ("compress", "restore"), strict=True)
            row = [f"{step} {int(took) / MIB:6.1f} of {most / MIB:6.1f}" for took, most, step in pairs]
            print(f"  {name:<12} {codec} {level:>2}: ", "  ".join(row))


if __name__ == "__main__":
    benches = {
        "codecs": bench_codecs,
        "lz4": bench_lz4,
        "probe": bench_probe,
        "threads": bench_threads,
        "memory": bench_memory,
    }
    for wanted in sys.argv[1:] or benches:
        benches[wanted]()
