"""`jetstream.letters` and `jetstream.checkpoints`: what is said of a write when replies are lost."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from lucid_events.errors import AppendUncertain, LucidError, StoreFull, StoreUnavailable, VersionConflict
from lucid_events.jetstream.checkpoints import JetStreamCheckpoints
from lucid_events.jetstream.connection import Connection, PubAck, StoredMessage
from lucid_events.jetstream.letters import JetStreamLetters
from lucid_events.subjects import Subjects

LOST, AWAY, FULL = AppendUncertain("no reply"), StoreUnavailable("no leader"), StoreFull("full")
TAKEN = VersionConflict("another writer came first")
STORED = PubAck("S", 7)

OURS, THEIRS = b"ours", b"theirs"

Answer = PubAck | LucidError
Found = bytes | None | LucidError


class Scripted:
    """A connection that answers publishes and reads one after the other, the last one for ever."""

    def __init__(self, answers: Sequence[Answer], found: Sequence[Found] = (None,)) -> None:
        self._answers, self._found = list(answers), list(found)

    async def publish_acked(self, *_: Any, **__: Any) -> PubAck:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, LucidError):
            raise answer
        return answer

    async def leader_get(self, *_: Any, seq: int, **__: Any) -> StoredMessage | None:
        found = self._found.pop(0) if len(self._found) > 1 else self._found[0]
        if isinstance(found, LucidError):
            raise found
        return None if found is None else StoredMessage("s", seq, datetime.now(UTC), {}, found)


def published(*answers: Answer) -> int:
    """Publish a letter; returns its sequence."""
    letters = JetStreamLetters(cast(Connection, Scripted(answers)), Subjects())
    return asyncio.run(letters.publish("lucid.dlq.chunks", b"", headers={}, id="1"))


def appended(answers: Sequence[Answer], found: Sequence[Found] = (None,)) -> int:
    """Append a checkpoint behind sequence 6; returns its place."""
    checkpoints = JetStreamCheckpoints(cast(Connection, Scripted(answers, found)), Subjects())
    return asyncio.run(checkpoints.append(OURS, {}, expected=6))


@pytest.mark.parametrize("later", [AWAY, FULL, LOST])
def test_a_letter_that_may_be_stored_is_never_said_not_to_be(later: LucidError) -> None:
    """Behind a lost reply, an attempt that stored nothing leaves the outcome open."""
    with pytest.raises(AppendUncertain):
        published(LOST, later)


def test_a_letter_is_sent_again_until_it_is_settled() -> None:
    """Lost, refused, stored: the third attempt under the same id tells where it is."""
    assert published(LOST, AWAY, STORED) == 7


@pytest.mark.parametrize("first", [AWAY, FULL])
def test_a_letter_nobody_took_is_not_stored(first: LucidError) -> None:
    """Without a lost reply, what was refused is known not to be there."""
    with pytest.raises(StoreUnavailable):
        published(first)


@pytest.mark.parametrize("later", [AWAY, FULL, LOST, TAKEN])
def test_a_checkpoint_that_may_be_stored_is_never_said_not_to_be(later: LucidError) -> None:
    """Behind a lost reply, refusals leave the outcome open while nothing stands in the place."""
    with pytest.raises(AppendUncertain):
        appended([LOST, later])


def test_a_checkpoint_that_can_not_be_looked_for_may_be_stored() -> None:
    """Behind a lost reply, a leader that does not answer settles nothing."""
    with pytest.raises(AppendUncertain):
        appended([LOST, AWAY], [AWAY])


def test_a_checkpoint_is_settled_by_what_stands_in_its_place() -> None:
    """Our bytes there are success, another's a conflict, whatever the attempts before were told."""
    assert appended([LOST, AWAY], [None, OURS]) == 7
    assert appended([TAKEN], [OURS]) == 7
    assert appended([LOST, STORED]) == 7
    for answers in ([TAKEN], [LOST, TAKEN]):
        with pytest.raises(VersionConflict):
            appended(answers, [THEIRS])


@pytest.mark.parametrize("found", [None, AWAY])
def test_a_checkpoint_nobody_took_is_not_stored(found: Found) -> None:
    """Without a lost reply, what was refused is known not to be there."""
    with pytest.raises(StoreUnavailable):
        appended([AWAY], [found])
    with pytest.raises((VersionConflict, StoreUnavailable)):
        appended([TAKEN], [found])
