"""Checkpoints of a log whose incarnation was raised, or that was cut back: nothing is hidden by it."""

from collections.abc import Callable

import msgspec
import pytest

from lucid_events.evidence.bundle import Log
from lucid_events.evidence.checkpoint import decode_checkpoint
from lucid_events.evidence.checkpoint_check import CheckpointCheck
from lucid_events.evidence.differences import What
from tests.unit.evidence.witnessed import (
    LETTERS,
    Entry,
    Stored,
    a_log,
    digest,
    found,
    judged,
    kept_of,
    without,
    witnessed,
)


def reasons(check: CheckpointCheck) -> str:
    """Return all that is remarked."""
    return "\n".join(one.reason for one in check.remarks)


def test_a_new_incarnation_begins_a_new_tree() -> None:
    """After a restore that was declared, the tree starts over and the chain of checkpoints goes on."""
    log = a_log(LETTERS)
    stored = witnessed(log, 14, incarnation=2, behind=witnessed(log, 6, 12))
    fresh = decode_checkpoint(stored[2].body)
    assert (fresh.number, fresh.size, fresh.consistency) == (3, 14, ())
    check = judged(stored, log, incarnation=2)
    assert check.holds, check.differences


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(), (4,), (9,), (15,), (3, 13)])
def test_an_intact_log_holds_after_its_incarnation_was_raised(number: int, sizes: tuple[int, ...]) -> None:
    """Whatever was witnessed since, and whichever checkpoint was kept: nothing is missed that is there."""
    log = a_log(LETTERS)
    before = witnessed(log, 6, 12, 14)
    stored = witnessed(log, *sizes, incarnation=2, behind=before)
    check = judged(stored, log, incarnation=2, remembered=kept_of(before, number))
    assert (check.holds, check.remarks) == (True, []), check.differences
    again = witnessed(log, 11, incarnation=4, behind=stored)
    assert judged(again, log, incarnation=5, remembered=kept_of(before, number)).holds


@pytest.mark.parametrize("sizes", [(), (5,), (13,)])
@pytest.mark.parametrize("number", [None, 2])
def test_a_session_removed_while_the_incarnation_was_raised_is_named(
    sizes: tuple[int, ...], number: int | None
) -> None:
    """Raising the incarnation hides nothing: the checkpoints of before are held against the log of now."""
    log = a_log(LETTERS)
    before = witnessed(log, 6, 12, 15)
    left = [entry for entry in log if entry.session != "d"]
    stored = witnessed(left, *sizes, incarnation=2, behind=before)
    kept = kept_of(before, number) if number else None
    check = judged(stored, left, incarnation=2, remembered=kept)
    assert (What.REMOVED, "d") in found(check)
    assert "--cut-back INCARNATION:SEQUENCE" in reasons(check)
    # Nor by what the auditor says of a cut behind it.
    assert (What.REMOVED, "d") in found(judged(stored, left, incarnation=2, cut_back={2: 13}))


def test_a_checkpoint_kept_finds_what_was_removed_together_with_all_others() -> None:
    """A new incarnation whose checkpoints begin anew fits its log, and not the checkpoint that was kept."""
    log = a_log(LETTERS)
    kept = kept_of(witnessed(log, 6, 12), 2)
    left = [entry for entry in log if entry.session != "d"]
    fresh = witnessed(left, 5, 13, incarnation=2)
    assert judged(fresh, left, incarnation=2).holds
    check = judged(fresh, left, incarnation=2, remembered=kept)
    assert [what for what, _ in found(check)] == [What.ROLLED_BACK, What.REWRITTEN]


def _cut_at_eight() -> tuple[list[Entry], list[Stored]]:
    """A log that was cut back to 8 and went on, with the checkpoints of before and of after."""
    log = a_log(LETTERS)
    fresh = [*log[:8], *(entry._replace(digest=digest(f"new {entry}")) for entry in a_log("e" * 14)[8:])]
    return fresh, witnessed(fresh, 10, 14, incarnation=2, behind=witnessed(log, 6, 12, 15))


def test_what_a_cut_took_is_named_unless_the_auditor_knows_of_it() -> None:
    """A log cut back lacks what was seen of it; where that was declared, what lies before is compared."""
    log, stored = _cut_at_eight()
    check = judged(stored, log, incarnation=2)
    assert {(What.REMOVED, "d"), (What.REMOVED, "a"), (What.REWRITTEN, "e")} <= set(found(check))
    assert "--cut-back INCARNATION:SEQUENCE" in reasons(check)
    told = judged(stored, log, incarnation=2, cut_back={2: 8})
    assert told.holds, told.differences
    assert reasons(told) == (
        "2 checkpoints of incarnation 1 were compared up to where the log was cut back, by your word: "
        "incarnation 2 at 8"
    )
    for number in (1, 2, 3, 4, 5):
        assert judged(stored, log, incarnation=2, cut_back={2: 8}, remembered=kept_of(stored, number)).holds


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (without(7), (What.LOG, "")),
        (without(8), (What.LOG, "")),
        (
            lambda log: [e if e.sequence != 7 else Entry(7, "x", digest("x")) for e in log],
            (What.REWRITTEN, "x"),
        ),
        (without(4), (What.REWRITTEN, "a")),
    ],
)
def test_before_a_cut_that_was_declared_nothing_may_be_missing(
    change: Callable[[list[Entry]], list[Entry]], expected: tuple[What, str]
) -> None:
    """Up to the place that the auditor names, the log has to be what the older checkpoints have seen."""
    log, stored = _cut_at_eight()
    changed = change(log)
    before = stored[:3]
    after = witnessed(changed, 10, 14, incarnation=2, behind=before)
    assert expected in found(judged(after, changed, incarnation=2, cut_back={2: 8}))


def test_a_restore_takes_back_checkpoints_that_were_kept() -> None:
    """A checkpoint newer than the backup is missed, unless the auditor knows to where it was restored."""
    log = a_log(LETTERS)
    before = witnessed(log, 6, 12, 15)
    kept, restored = kept_of(before, 3), log[:13]
    assert [what for what, _ in found(judged(before[:2], restored, incarnation=2, remembered=kept))] == [
        What.ROLLED_BACK,
        What.TRUNCATED,
    ]
    for sizes in ((), (9, 13)):  # the second of them has the number of the one that was kept, or passes it
        stored = witnessed(restored, *sizes, incarnation=2, behind=before[:2])
        check = judged(stored, restored, incarnation=2, remembered=kept, cut_back={2: 13})
        assert check.holds, check.differences
        assert "is not compared with it as a whole" in reasons(check)
        assert not judged(stored, restored, incarnation=2, remembered=kept).holds


def test_the_incarnation_put_back_is_told() -> None:
    """A checkpoint of an incarnation that the log has not reached shows that somebody lowered it."""
    log = a_log(LETTERS)
    stored = witnessed(log, 9, incarnation=2, behind=witnessed(log, 6))
    check = judged(stored, log, incarnation=1)
    assert [what for what, _ in found(check)] == [What.TRUNCATED]
    assert "it was put back, or its metadata were" in check.differences[0].reason


def test_a_checkpoint_of_another_log_is_none_of_this() -> None:
    """Another stream's name is another log, whether the checkpoint was kept or stands here."""
    log = a_log(LETTERS)
    (one,) = witnessed(log, 6)
    other = msgspec.structs.replace(decode_checkpoint(one.body), log=Log(stream="OTHER", incarnation=1))
    assert found(judged([Stored({}, other.body)], log, require_signature=False)) == [(What.CHECKPOINT, "")]
    assert found(judged([one], log, remembered=other)) == [(What.ROLLED_BACK, ""), (What.CHECKPOINT, "")]
