"""What the rules may ask to know of the capture stream before they decide (`decisions.Needs`)."""

from lucid_events.domain.values import Count, Epoch, Fact, Instant, Offset, Sha256, Size, StreamSequence, Text


class Leftover(Fact, frozen=True, kw_only=True):
    """A contiguous run of captured bytes that no seal covers, with the digest of its bytes."""

    n: Count
    offset: Offset
    size: Size
    sha256: Sha256
    first_seq: StreamSequence
    last_seq: StreamSequence
    started_at: Instant
    ended_at: Instant


class Unproven(Fact, frozen=True, kw_only=True):
    """Captured bytes that are not sealed, because they don't bear out what the recorder said of them."""

    start: Offset
    end: Offset
    reason: Text


class Salvage(Fact, frozen=True, kw_only=True):
    """What a fenced epoch left in capture behind the sealed bytes, both by offset."""

    epoch: Epoch
    leftovers: tuple[Leftover, ...] = ()
    unproven: tuple[Unproven, ...] = ()


class CaptureTail(Fact, frozen=True, kw_only=True):
    """The capture message a seal names as its last: where it ends and the digest up to there.

    `found` is False when the leader holds no such message of this session.
    """

    found: bool
    epoch: int = 0
    n: int = 0
    end: int = 0
    sha256: str = ""
