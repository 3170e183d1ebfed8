import gzip
import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import lz4.frame
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lucid_events.compression import codecs
from lucid_events.compression.wire import Buffer
from lucid_events.domain.codecs import CODECS
from lucid_events.errors import ConfigError, IntegrityError
from tests.unit.compression.samples import CODECS as ALL
from tests.unit.compression.samples import MIB, PACKED, mixed, noise, text

LEVELS = [
    (codec, level)
    for codec in PACKED
    for level in range(CODECS[codec].min_level or 0, (CODECS[codec].max_level or 0) + 1)  # type: ignore[index]
]

# Run in a fresh interpreter whose fresh memory is filled with a pattern: bytes that depended on
# anything but content, codec and level would differ.
FINGERPRINT = """
import hashlib
from lucid_events.compression.codecs import compress
from tests.unit.compression.samples import mixed
for codec in ("gzip", "zstd", "lz4"):
    print(codec, hashlib.sha256(compress(codec, None, mixed(700_000))).hexdigest())
"""


@pytest.mark.parametrize(("codec", "level"), LEVELS)
def test_every_level_round_trips(codec: str, level: int) -> None:
    """What any codec wrote at any level comes back byte for byte."""
    raw = mixed(200_000)
    assert codecs.decompress(codec, codecs.compress(codec, level, raw), size=len(raw)) == raw


@given(raw=st.binary(max_size=5000), codec=st.sampled_from(ALL), repeat=st.integers(1, 40))
def test_any_bytes_round_trip(raw: bytes, codec: str, repeat: int) -> None:
    """No content, empty included, is changed by storing it."""
    raw *= repeat
    stored = codecs.compress(codec, None, memoryview(raw))
    assert codecs.decompress(codec, stored, size=len(raw)) == raw


@pytest.mark.parametrize("codec", ALL)
def test_all_kinds_of_buffers_are_taken(codec: str) -> None:
    """Bytes, bytearrays, views and views of wider items give the same object, both ways."""
    raw = text(4096)
    buffers: list[Buffer] = [raw, bytearray(raw), memoryview(raw), memoryview(raw).cast("I")]
    stored = {bytes(codecs.compress(codec, None, buffer)) for buffer in buffers}
    assert len(stored) == 1
    (one,) = stored
    for wrapped in (one, bytearray(one), memoryview(one)):
        assert codecs.decompress(codec, wrapped, size=len(raw)) == raw


def test_store_copies_nothing() -> None:
    """`store` hands back the very object it was given, both ways."""
    raw = bytearray(b"abc")
    assert codecs.compress("store", None, raw) is raw
    assert codecs.decompress("store", raw, size=3) is raw


@pytest.mark.parametrize("codec", PACKED)
def test_bytes_are_the_same_in_every_process_and_thread(codec: str) -> None:
    """Stored bytes depend on content, codec and level only: not on run, thread or stale memory."""
    raw = mixed(700_000)
    here = f"{codec} {hashlib.sha256(codecs.compress(codec, None, raw)).hexdigest()}"
    with ThreadPoolExecutor(4) as threads:
        outcomes = set(threads.map(lambda _: codecs.compress(codec, None, raw), range(8)))
    assert len(outcomes) == 1
    for seed, pattern in (("1", "85"), ("2", "170")):
        environment = os.environ | {"PYTHONHASHSEED": seed, "MALLOC_PERTURB_": pattern}
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        printed = subprocess.run(
            [sys.executable, "-c", FINGERPRINT], env=environment, check=True, capture_output=True, text=True
        ).stdout
        assert here in printed.splitlines()


def test_the_gzip_header_holds_no_time_name_or_platform() -> None:
    """Everything in a gzip header that could differ between two machines is fixed."""
    for level, extra in ((1, 4), (6, 0), (9, 2)):
        member = bytes(codecs.compress("gzip", level, b"abc"))
        assert member[:10] == bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, extra, 3])


def test_frames_declare_size_and_checksum() -> None:
    """Zstd and lz4 frames say how long their content is and carry a checksum of it."""
    raw = text(100_000)
    frame = zstandard.get_frame_parameters(codecs.compress("zstd", None, raw))
    assert (frame.content_size, frame.has_checksum) == (len(raw), True)
    info = lz4.frame.get_frame_info(codecs.compress("lz4", None, raw))
    assert (info["content_size"], info["content_checksum"], info["block_linked"]) == (len(raw), True, True)


@pytest.mark.parametrize(("codec", "level"), [("gzip", 0), ("gzip", -1), ("zstd", 0), ("lz4", 17), ("no", 1)])
def test_an_unknown_level_never_reaches_a_library(codec: str, level: int) -> None:
    """Levels that a library would quietly reinterpret are errors."""
    with pytest.raises(ConfigError):
        codecs.compress(codec, level, b"abc")


def _tool(name: str) -> Callable[[bytes], bytes]:
    def restore(stored: bytes) -> bytes:
        return subprocess.run([name, "-d", "-c"], input=stored, check=True, capture_output=True).stdout

    return restore


def _cramjam(codec: str) -> Callable[[bytes], bytes]:
    # By name: only a machine without the tools needs the package.
    return lambda stored: bytes(getattr(importlib.import_module("cramjam"), codec).decompress(stored))


RESTORERS = [
    pytest.param("gzip", gzip.decompress, id="gzip by Python's own gzip"),
    *(
        pytest.param(codec, _tool(codec), id=f"{codec} by the {codec} program")
        if shutil.which(codec)
        else pytest.param(codec, _cramjam(codec), id=f"{codec} by cramjam, no {codec} program found")
        for codec in PACKED
    ),
]


@pytest.mark.parametrize(("codec", "restore"), RESTORERS)
def test_objects_are_plain_files_of_their_format(codec: str, restore: Callable[[bytes], bytes]) -> None:
    """Programs that know nothing of this package restore an object; the test's name says which did."""
    for raw in (b"", b"x", text(3 * MIB), noise(300_000)):
        assert restore(bytes(codecs.compress(codec, None, raw))) == raw


@pytest.mark.parametrize("codec", PACKED)
def test_every_truncation_is_noticed(codec: str) -> None:
    """A stored object cut short at any place is an IntegrityError, whatever came out so far."""
    raw = mixed(3000)
    stored = bytes(codecs.compress(codec, None, raw))
    for length in range(len(stored)):
        with pytest.raises(IntegrityError, match=f"stored {codec} bytes"):
            codecs.decompress(codec, stored[:length], size=len(raw))


@pytest.mark.parametrize("codec", PACKED)
@pytest.mark.parametrize("size", [0, 1, 3000])
def test_no_flipped_bit_gives_other_bytes(codec: str, size: int) -> None:
    """Any single changed bit is an IntegrityError, or (in gzip's idle header bits) changes nothing."""
    raw = mixed(size)
    stored = bytearray(codecs.compress(codec, None, raw))
    for bit in range(len(stored) * 8):
        stored[bit // 8] ^= 1 << bit % 8
        with suppress(IntegrityError):
            assert codecs.decompress(codec, stored, size=size) == raw
        stored[bit // 8] ^= 1 << bit % 8


@given(stored=st.binary(max_size=300), codec=st.sampled_from(PACKED))
def test_noise_is_refused(stored: bytes, codec: str) -> None:
    """Bytes that no codec wrote are an IntegrityError and nothing worse."""
    with pytest.raises(IntegrityError):
        codecs.decompress(codec, stored, size=7)


@pytest.mark.parametrize("codec", PACKED)
@pytest.mark.parametrize("size", [0, 3000])
def test_bytes_after_the_end_are_refused(codec: str, size: int) -> None:
    """Anything behind a complete stream, a second stream included, is an IntegrityError."""
    raw = mixed(size)
    stored = bytes(codecs.compress(codec, None, raw))
    for rest in (b"\0", stored, bytes(codecs.compress(codec, None, b"")), b"\x50\x2a\x4d\x18\0\0\0\0"):
        with pytest.raises(IntegrityError, match=r"follow|unused|wrong size"):
            codecs.decompress(codec, stored + rest, size=size)


@pytest.mark.parametrize("codec", ALL)
@pytest.mark.parametrize("wrong", [0, 2999, 3001, 1 << 40])
def test_another_size_is_refused(codec: str, wrong: int) -> None:
    """A stream that does not hold exactly the bytes asked for is an IntegrityError about its size."""
    stored = codecs.compress(codec, None, mixed(3000))
    with pytest.raises(IntegrityError, match="wrong size"):
        codecs.decompress(codec, stored, size=min(wrong, 1 << 26))


def test_a_negative_size_is_refused() -> None:
    """No library gets to see a negative size, which some take for `no limit`."""
    with pytest.raises(ValueError, match="negative"):
        codecs.decompress("lz4", codecs.compress("lz4", None, b"abc"), size=-2)


def test_frames_without_a_checksum_are_refused() -> None:
    """A frame in which a change would go unnoticed is not taken for a stored object."""
    with pytest.raises(IntegrityError, match="no checksum"):
        codecs.decompress("zstd", zstandard.ZstdCompressor(write_checksum=False).compress(b"abc"), size=3)
    with pytest.raises(IntegrityError, match="no checksum"):
        codecs.decompress("lz4", lz4.frame.compress(b"abc", store_size=True), size=3)


def lying_bomb(codec: str, claimed: int) -> bytes:
    """Make a small object that claims `claimed` bytes (256 to 65 000) and expands to 64 MiB."""
    if codec == "zstd":
        # Descriptor: 2 bytes of size, checksum; window 2 MiB; then blocks of one byte, 128 KiB times.
        header = bytes.fromhex("28b52ffd 44 58") + (claimed - 256).to_bytes(2, "little")
        block = (131072 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
        return header + block * 512
    stored = bytearray(codecs.compress(codec, None, bytes(64 * MIB)))
    if codec == "lz4":
        stored[6:14] = claimed.to_bytes(8, "little")
        for checksum in range(256):
            stored[14] = checksum
            try:
                lz4.frame.get_frame_info(bytes(stored[:15]))
                break
            except RuntimeError:
                continue
    return bytes(stored)


@pytest.mark.parametrize("codec", PACKED)
def test_a_bomb_does_not_go_off(codec: str) -> None:
    """An object that expands to more than it should is refused without making room for it."""
    honest, lying = codecs.compress(codec, None, bytes(64 * MIB)), lying_bomb(codec, 1000)
    for bomb in (honest, lying):
        tracemalloc.start()
        try:
            with pytest.raises(IntegrityError):
                codecs.decompress(codec, bomb, size=1000)
            assert tracemalloc.get_traced_memory()[1] < MIB
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("codec", PACKED)
def test_other_threads_run_meanwhile(codec: str) -> None:
    """Compressing and restoring release the interpreter lock.

    With no forced switches for ten seconds, the counting thread gets its turn inside a call only
    when the library gives the lock away.
    """
    raw = mixed(4 * MIB)
    stored = codecs.compress(codec, None, raw)
    turns = [0]
    over = threading.Event()
    gained: dict[str, int] = {}

    def count() -> None:
        block = bytes(4096)
        while not over.is_set():
            hashlib.sha256(block).digest()  # releases the lock, so that the other may go on
            turns[0] += 1

    def gain(call: Callable[[], object]) -> int:
        before = turns[0]
        for _ in range(500):  # on a busy machine the other thread may miss its chance many times
            call()
            if turns[0] > before:
                break
        return turns[0] - before

    def work() -> None:
        try:
            gained["compress"] = gain(lambda: codecs.compress(codec, None, raw))
            gained["decompress"] = gain(lambda: codecs.decompress(codec, stored, size=len(raw)))
        finally:
            over.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(10)
    try:
        threads = [threading.Thread(target=count), threading.Thread(target=work)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert gained["compress"] > 0
    assert gained["decompress"] > 0


def test_the_estimate_of_memory_covers_what_zstd_reports() -> None:
    """What a memory bound counts for zstd is not less than what the library allocates."""
    raw = text(2 * MIB)
    for level in (1, 3, 9, 15):
        compressor = zstandard.ZstdCompressor(level=level)
        compressor.compress(raw)
        assert codecs.working_bytes("zstd", level, len(raw)) >= compressor.memory_size()
    assert codecs.working_bytes("store", None, MIB) == 0
    assert codecs.working_bytes("zstd", 22, 10 * MIB) > 200 * MIB
