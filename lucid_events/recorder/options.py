"""How a recorder behaves, what its hooks are, and what it says in the end."""

from collections.abc import Awaitable, Callable

import msgspec

from lucid_events.domain.values import MIB

Checkpoint = Callable[[str], Awaitable[None]]
"""Awaited between two steps, with the name of the step just done; fault tests act there."""
Acked = Callable[[int], None]
"""Called with the offset up to which every byte is stored, each time it advances."""


async def no_checkpoint(step: str) -> None:
    """Do nothing at `step`."""


def ignore_acked(offset: int) -> None:
    """Take no note of `offset`."""


class RecorderOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one recorder; every bound in bytes, every wait in seconds."""

    recorder: str = "recorder"
    """Name of this recorder, for people."""
    takeover: bool = False
    """Attach although another recorder is alive; it is fenced."""
    wait_for_lease: bool = True
    """When a recorder is attached and alive, ask again until it is gone."""
    attach_timeout_s: float = 30.0
    """How long to ask. A lease is three beats and a salvage: half may give up on a slow one."""
    recover: bool = False
    """Bring a stopped or failed session back before attaching."""
    attach_only: bool = False
    """The session has to wait for a recorder already: it is neither created nor started."""
    append: bool = False
    """Let a source that can't seek go on behind the bytes the session has."""

    window_bytes: int = 16 * MIB
    """Captured and not yet acknowledged. Half no longer fills a fast server, twice only costs memory."""
    read_ahead_bytes: int = 8 * MIB
    """Read and not yet cut. Half stalls the source at every hiccup, twice only costs memory."""
    max_unsealed_chunks: int = 16
    """Chunks in capture that wait for their seal: 160 MiB of capture when the service is away."""
    flush_interval_s: float = 1.0
    """The most a killed recorder host can lose."""
    hash_off_loop_bytes: int = 64 * 1024
    """From here on a thread hashes; below, the trip to the thread costs more than the hash."""

    beat_interval_s: float = 5.0
    """Half doubles the service's work, twice makes a silent recorder look lost."""
    slow_after_s: float = 1.0
    """A block of the source longer than this is an event of the history."""
    spool_after_s: float = 5.0
    """How long the server may be away before bytes go to the spool."""
    gap_after_s: float | None = None
    """How long the source may be held back before its bytes are dropped and declared missing.
    None never drops."""
    pressure_cut_after_s: float = 2.0
    """How long capture may be full before what is there is sealed although other chunks are on
    their way to be stored."""
    retry_first_s: float = 0.1
    retry_most_s: float = 2.0
    """Pauses between attempts to send again."""
    finish_timeout_s: float = 600.0
    """How long draining and storing may make no progress at all before the recorder gives up."""


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """What one recorder did: every byte of it stored and confirmed.

    `bytes` were read from `source`, their SHA-256 is `sha256`, and they are the session's bytes
    from `start_offset` to `end_offset`, gaps included. `chunks` and sizes count what this recorder
    sealed; `ratio` is raw bytes / stored bytes.
    """

    session_id: str
    state: str
    epoch: int
    bytes: int
    sha256: str
    start_offset: int
    end_offset: int
    chunks: int
    raw_bytes: int
    stored_bytes: int
    ratio: float
    gaps: int
    gap_bytes: int
    failed_chunks: tuple[int, ...]
    seconds: float
    exit_code: int | None
    reason: str
