"""Whether checkpoints are found to hold: over a log that was touched, and themselves forged or taken back."""

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucid_events.errors import IntegrityError
from lucid_events.evidence.bundle import Log
from lucid_events.evidence.checkpoint import (
    MAX_MISSING,
    CheckpointBuilder,
    Hole,
    check_signature,
    decode_checkpoint,
    sign_checkpoint,
)
from lucid_events.evidence.differences import What
from lucid_events.evidence.merkle import MerkleTree
from lucid_events.evidence.signing import Signer, generate_seed
from tests.unit.evidence.witnessed import (
    LETTERS,
    LOG,
    NOON,
    SIGNER,
    Entry,
    Stored,
    a_log,
    digest,
    found,
    judged,
    without,
    witnessed,
)


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=60), st.data())
def test_checkpoints_of_any_log_hold(sessions: list[str], data: st.DataObject) -> None:
    """However a log is cut into checkpoints, each holds, and the last has the root over all of it."""
    log = a_log("".join(sessions))
    sizes = sorted(data.draw(st.sets(st.integers(1, len(log)), min_size=1, max_size=6)))
    stored = witnessed(log, *sizes)
    check = judged(stored, log)
    assert check.holds, check.differences
    tree = MerkleTree()
    for entry in log[: sizes[-1]]:
        tree.add(entry.digest)
    last = decode_checkpoint(stored[-1].body)
    assert (last.root, last.size, last.number) == (tree.root, sizes[-1], len(sizes))
    assert judged(stored, log, remembered=decode_checkpoint(stored[0].body)).holds


def test_a_checkpoint_names_every_session_with_a_message_since_the_last() -> None:
    """How many messages there were, and where the history stood: of these sessions and no others."""
    log = a_log(LETTERS)
    _, second = (decode_checkpoint(one.body) for one in witnessed(log, 6, 12))
    assert {session: (one.messages, one.version) for session, one in second.sessions.items()} == {
        "b": (1, 7),
        "c": (1, 8),
        "a": (2, 10),
        "d": (2, 12),
    }
    assert second.sessions["a"].head == log[9].digest


def test_a_whole_session_removed_is_named() -> None:
    """A history taken out of the log as a whole is missed by name, with where it stood, and its size."""
    log = a_log(LETTERS)
    stored = witnessed(log, 6, 12, 15)
    check = judged(stored, [entry for entry in log if entry.session != "d"])
    assert (What.REMOVED, "d") in found(check)
    (removed,) = [one for one in check.differences if one.what is What.REMOVED]
    assert (removed.sequence, removed.expected) == (12, log[11].digest)
    assert removed.reason == (
        "checkpoint 2 counted 2 messages of it up to 12, and the log has none of them any more"
    )
    assert "lacks messages 11 to 12" in next(one.reason for one in check.differences if one.what is What.LOG)


def _renumbered(log: list[Entry]) -> list[Entry]:
    """The log without session d, its holes closed."""
    left = [entry for entry in log if entry.session != "d"]
    return [Entry(n, entry.session, entry.digest) for n, entry in enumerate(left, 1)]


def _reordered(log: list[Entry]) -> list[Entry]:
    """The log with session d moved to its front, everything else in its order."""
    moved = [*(e for e in log if e.session == "d"), *(e for e in log if e.session != "d")]
    return [Entry(n, entry.session, entry.digest) for n, entry in enumerate(moved, 1)]


def _exchanged(log: list[Entry]) -> list[Entry]:
    """The log with the inner messages of one history exchanged: its end and count are as they were."""
    one, other = log[0], log[1]
    return [Entry(1, "a", other.digest), Entry(2, "a", one.digest), *log[2:]]


def _changed(log: list[Entry]) -> list[Entry]:
    return [entry._replace(digest=digest("other")) if entry.sequence == 7 else entry for entry in log]


def _put_in(log: list[Entry]) -> list[Entry]:
    return [
        Entry(n, e.session, e.digest)
        for n, e in enumerate([*log[:8], Entry(0, "x", digest("x")), *log[8:]], 1)
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (without(8), (What.REMOVED, "c")),
        (without(9), (What.REWRITTEN, "a")),
        (without(15), (What.REMOVED, "b")),
        (_renumbered, (What.REMOVED, "d")),
        (_reordered, (What.REWRITTEN, "d")),
        (_exchanged, (What.REWRITTEN, "")),
        (_changed, (What.REWRITTEN, "b")),
        (_put_in, (What.REWRITTEN, "x")),
        (lambda log: log[:10], (What.REMOVED, "d")),
    ],
)
def test_a_log_that_was_touched_is_found(
    change: Callable[[list[Entry]], list[Entry]], expected: tuple[What, str]
) -> None:
    """Messages removed, changed, moved or put in, and a log cut back: found, and the session named."""
    log = a_log(LETTERS)
    assert expected in found(judged(witnessed(log, 6, 12, 15), change(log)))


@given(st.integers(0, 14), st.integers(0, 14))
def test_any_two_messages_exchanged_are_found(one: int, other: int) -> None:
    """Two messages that change places, of one session or of two, are found."""
    log = a_log(LETTERS)
    moved = list(log)
    moved[one] = Entry(one + 1, log[other].session, log[other].digest)
    moved[other] = Entry(other + 1, log[one].session, log[one].digest)
    assert judged(witnessed(log, 6, 12, 15), moved).holds == (one == other)


def test_what_was_missing_already_is_no_news() -> None:
    """Holes that a checkpoint names are part of what it vouches for; new ones are differences."""
    log = without(4)(a_log(LETTERS))
    stored = witnessed(log, 6, 12, 15)
    assert decode_checkpoint(stored[0].body).missing == (Hole(first=4, last=4),)
    assert judged(stored, log).holds
    again = found(judged(stored, without(5)(log)))
    assert (What.LOG, "") in again


# the checkpoints themselves


def test_a_checkpoint_taken_back_is_found_against_one_kept_elsewhere() -> None:
    """Checkpoints cut back to an earlier one hold by themselves; whoever kept a later one finds it."""
    log = a_log(LETTERS)
    stored = witnessed(log, 6, 12, 15)
    kept = decode_checkpoint(stored[2].body)
    assert judged(stored[:2], log).holds
    check = judged(stored[:2], log, remembered=kept)
    assert found(check) == [(What.ROLLED_BACK, "")]
    assert "checkpoint 3, which was kept elsewhere, is not there any more" in check.differences[0].reason
    both = judged(stored[:2], log[:12], remembered=kept)
    assert [what for what, _ in found(both)] == [What.ROLLED_BACK, What.TRUNCATED]
    fresh = judged(stored[:2], [*log[:12], *a_log("x" * 15)[12:]], remembered=kept)
    assert [what for what, _ in found(fresh)] == [What.ROLLED_BACK, What.REWRITTEN]


def test_a_history_made_up_anew_is_found_against_one_kept_elsewhere() -> None:
    """Log and checkpoints made up anew, by the holder of the key, differ from the checkpoint kept."""
    kept = decode_checkpoint(witnessed(a_log(LETTERS), 6, 12)[1].body)
    other = a_log(LETTERS.replace("d", "e"))
    check = judged(witnessed(other, 6, 12, 15), other, remembered=kept)
    assert [what for what, _ in found(check)] == [What.ROLLED_BACK, What.REWRITTEN]


def _forge(stored: list[Stored], place: int, signer: Signer | None = None, **fields: object) -> list[Stored]:
    """Return the checkpoints with one of them changed, signed by `signer` or as it was."""
    body = msgspec.structs.replace(decode_checkpoint(stored[place].body), **fields).body
    headers = sign_checkpoint(signer, body) if signer else stored[place].headers
    return [*stored[:place], Stored(headers, body), *stored[place + 1 :]]


@pytest.mark.parametrize("signer", [None, SIGNER])
@pytest.mark.parametrize(
    "fields",
    [
        {"number": 7},
        {"size": 11},
        {"sequence": 6},
        {"sequence": 13},
        {"root": "0" * 64},
        {"edge": ("0" * 64, "1" * 64)},
        {"previous": None},
        {"previous": "0" * 64},
        {"consistency": ()},
        {"consistency": ("0" * 64,)},
        {"missing": (Hole(first=9, last=9),)},
        {"sessions": {}},
        {"log": Log(stream="OTHER", incarnation=1)},
        {"format": "lucid-checkpoint/2"},
        {"time": NOON},
    ],
)
def test_a_forged_checkpoint_is_found(fields: dict[str, object], signer: Signer | None) -> None:
    """Each field changed is found by the signature, and, were it signed again, by what it has to fit.

    Only `time` and `missing` are the signer's own word: changed and signed again, the next checkpoint
    does not follow from it.
    """
    log = a_log(LETTERS)
    check = judged(_forge(witnessed(log, 6, 12, 15), 1, signer, **fields), log)
    assert not check.holds


def test_checkpoints_removed_swapped_or_doubled_are_found() -> None:
    """The numbers and the digests of the ones before leave no room."""
    log = a_log(LETTERS)
    one, two, three = witnessed(log, 6, 12, 15)
    for stored in ([two, three], [one, three], [one, three, two], [one, two, two, three], [one, one]):
        assert not judged(stored, log).holds
    assert found(judged([two, three], log)) == [(What.CHECKPOINT, "")]


def test_a_message_that_is_no_checkpoint_is_named_and_stepped_over() -> None:
    """Somebody's message in the stream is told, with its place, and does not hide those behind it."""
    log = a_log(LETTERS)
    one, two, three = witnessed(log, 6, 12, 15)
    check = judged([one, Stored({}, b"{}"), two, three], log)
    assert (check.found, check.checkpoints) == (1, 3)
    assert check.differences[0].reason.startswith("message 2 of the checkpoints is no checkpoint")


def test_what_nobody_trusted_has_signed_does_not_hide_what_is_behind_it() -> None:
    """A forged checkpoint that fits the one before is told and stepped over: the signed ones go on."""
    log = a_log(LETTERS)
    stored = witnessed(log, 6, 12, 15)
    for signer, what in ((None, What.UNSIGNED), (Signer(generate_seed()), What.KEY)):
        forged = witnessed(a_log("x" * 99), 99, signer=signer, behind=stored[:1])[1]
        check = judged([stored[0], forged, *stored[1:]], log)
        assert (found(check), check.checkpoints) == ([(what, "")], 3)


def test_signatures_are_told_apart() -> None:
    """Unsigned, signed by a key that nobody knows, signed wrongly: each is named for what it is."""
    log = a_log(LETTERS)
    unsigned = witnessed(log, 6, signer=None)
    assert judged(unsigned, log, require_signature=False).holds
    assert judged(unsigned, log, require_signature=False).unsigned == 1
    assert found(judged(unsigned, log)) == [(What.UNSIGNED, "")]
    other = witnessed(log, 6, signer=Signer(generate_seed()))
    assert found(judged(other, log)) == [(What.KEY, "")]
    assert judged(other, log, keys=None, require_signature=False).holds
    (good,) = witnessed(log, 6)
    wrong = [Stored({**good.headers, "Lucid-Signature": other[0].headers["Lucid-Signature"]}, good.body)]
    assert found(judged(wrong, log)) == [(What.SIGNATURE, "")]
    assert check_signature({"Lucid-Key": SIGNER.key}, good.body) is False


@given(st.data())
def test_any_changed_byte_of_a_signed_checkpoint_is_found(data: st.DataObject) -> None:
    """One byte of body, key or signature, wherever it is: the checkpoint does not hold any more."""
    log = a_log(LETTERS)
    stored = witnessed(log, 6, 12)
    headers, body = stored[1]
    part = data.draw(st.sampled_from(["body", *headers]))
    text = body if part == "body" else headers[part].encode()
    at, by = data.draw(st.integers(0, len(text) - 1)), data.draw(st.integers(1, 127))
    changed = text[:at] + bytes([text[at] ^ by]) + text[at + 1 :]
    if part == "body":
        forged = Stored(headers, changed)
    else:
        forged = Stored({**headers, part: changed.decode("latin-1")}, body)
    assert not judged([stored[0], forged], log).holds


def test_without_a_checkpoint_nothing_is_said_to_hold() -> None:
    """Where signatures are required, checkpoints that are all gone are a difference, else a remark."""
    log = a_log(LETTERS)
    assert found(judged([], log)) == [(What.UNSIGNED, "")]
    check = judged([], log, require_signature=False)
    assert check.holds
    assert [one.reason for one in check.remarks] == ["there is no checkpoint: nothing was compared"]


def test_a_builder_refuses_what_is_no_log() -> None:
    """A sequence that does not rise, and a log with more holes than can be named, are refused."""
    builder = CheckpointBuilder(LOG, None)
    builder.take(2, "a", digest("a"))
    with pytest.raises(IntegrityError, match="came behind 2"):
        builder.take(2, "a", digest("a"))
    for n in range(1, MAX_MISSING):  # the first hole is that before 2
        builder.take(2 + 2 * n, "a", digest("a"))
    with pytest.raises(IntegrityError, match="more than 1000 places"):
        builder.take(2 + 2 * MAX_MISSING, "a", digest("a"))
