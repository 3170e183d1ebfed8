"""Whether checkpoints hold: each behind the one before, under trusted keys, and over the log as it is now.

A fold: `begin` a checkpoint, `take` the messages of the log up to its `reach`, `end` it; then those up
to `recall`, and `finish`. Pure; memory is that of one checkpoint. What is missing is named by the
session it belonged to.

Checkpoints of every incarnation are held against the log of now: raising the incarnation is one edit of
the stream's metadata, and must not be a way to make them say nothing. A log that was cut back, as by a
restore, lacks what they have seen behind that place, which is a difference unless the auditor knows the
place and says so. The log is taken from its beginning once for each incarnation.
"""

from collections.abc import Mapping
from datetime import datetime

from lucid_events.domain.ids import Digest
from lucid_events.errors import IntegrityError
from lucid_events.evidence.bundle import Log
from lucid_events.evidence.checkpoint import (
    KEY,
    Checkpoint,
    Witnessed,
    check_signature,
    decode_checkpoint,
    follows,
)
from lucid_events.evidence.differences import MAX_DIFFERENCES, Difference, Remark, What
from lucid_events.evidence.keys import KeyList
from lucid_events.evidence.merkle import MerkleTree

MAX_HOLES_NAMED = 20
"""Holes in the log that get a difference each; the rest is counted in the last one."""


class CheckpointCheck:
    """Takes checkpoints and the log between them; `differences` grows, first come first.

    Args:
        log: the log of now.
        cut_back: incarnation -> sequence at which the log stood when that one began, for those that began
            with a log cut back; by the word of whoever checks, never that of the log.
        keys: whose signatures are believed; None: a signature need only be that of the key it names.
        require_signature: a checkpoint without a trusted signature does not hold.
        remembered: a checkpoint that was kept elsewhere: it has to be among them, unchanged.
    """

    def __init__(
        self,
        log: Log,
        *,
        cut_back: Mapping[int, int] | None = None,
        keys: KeyList | None = None,
        require_signature: bool = False,
        remembered: Checkpoint | None = None,
    ) -> None:
        self.differences: list[Difference] = []
        self.remarks: list[Remark] = []
        self.found = self.unsigned = self.checkpoints = self._seen = 0
        self.last: Checkpoint | None = None
        self.sequence = 0
        """Up to where the log has been taken."""
        self._log, self._cut_back = log, dict(cut_back or {})
        self._keys, self._require_signature = keys, require_signature
        self._remembered, self._recalled = remembered, False
        self._tree, self._exact, self._blind = MerkleTree(), True, False
        self._sessions: dict[str, Witnessed] = {}
        self._holes: list[tuple[int, int]] = []
        self._beyond: dict[int, int] = {}
        """Incarnation -> checkpoints of it that go on behind the place where the log was cut back."""
        self._unlike: set[int] = set()
        """Incarnations before that of now with a checkpoint that the log of now does not bear out."""

    @property
    def holds(self) -> bool:
        """Whether no difference was found so far."""
        return self.found == 0

    def begin(
        self, place: int, headers: Mapping[str, str], body: bytes, stored_at: datetime
    ) -> Checkpoint | None:
        """Judge the message at `place` of the stream of checkpoints by itself and by the one before.

        Returns:
            The checkpoint, to be given the log up to its `sequence`; None when it is not the next one.
        """
        self._seen += 1
        try:
            found = decode_checkpoint(body)
        except IntegrityError as exc:
            self.differ(What.CHECKPOINT, f"message {place} of the checkpoints {exc.message}")
            return None
        where = f"checkpoint {found.number} (message {place})"
        if not self._signature(where, headers, body, stored_at) or not self._of_this_log(where, found):
            return None
        if wrong := follows(self.last, found):
            self.differ(What.CHECKPOINT, f"{where} {wrong}")
            if self.last is not None or found.number == 1:
                return None
            # The beginning is gone: said once. Where this one began is not known, so it has no log to
            # be compared with; the sessions of those behind it have.
            self._exact, self._blind = False, True
        if self.last is not None and self.last.log != found.log:
            self._restart()
        self.checkpoints += 1
        self._same(where, found)
        self.last = found
        return found

    def reach(self, found: Checkpoint) -> int:
        """Return up to where the log of now is the one that `found` was made of.

        Its end, or the place where a later incarnation began with less than that.
        """
        ends = (end for began, end in self._cut_back.items() if began > found.log.incarnation)
        return min((found.sequence, *ends))

    def recall(self) -> int:
        """Return up to where the log is still to be taken for the checkpoint kept elsewhere; 0: it is not."""
        kept = self._remembered
        if kept is None or self._recalled or kept.log.stream != self._log.stream:
            return 0
        if self.last is not None and self.reach(self.last) < self.last.sequence:
            self._restart()  # that log was not taken to the end of its checkpoints
        return self.reach(kept)

    def take(self, sequence: int, session: str, digest: Digest) -> None:
        """Take the next message of the log."""
        self._recall(sequence)
        if sequence > self.sequence + 1:
            self._holes.append((self.sequence + 1, sequence - 1))
        self._tree.add(digest)
        before = self._sessions.get(session)
        count = before.messages + 1 if before else 1
        self._sessions[session] = Witnessed(messages=count, version=sequence, head=digest)
        self.sequence = sequence

    def end(self) -> None:
        """Compare the log taken with the checkpoint begun."""
        said = self.last
        if said is None:
            return
        reach = self.reach(said)
        if self.sequence < reach:
            self._holes.append((self.sequence + 1, reach))
        before = self.found
        if reach < said.sequence:
            incarnation = said.log.incarnation
            self._beyond[incarnation] = self._beyond.get(incarnation, 0) + 1
        if not self._blind:
            self._compare_sessions(said, reach)
            self._compare_holes(said, reach)
        if self.found > before:
            self._exact = False
        elif (
            reach == said.sequence
            and self._exact
            and (self._tree.size, self._tree.root) != (said.size, said.root)
        ):
            self._exact = False
            self.differ(
                What.REWRITTEN,
                f"the log up to {said.sequence} is not the one that checkpoint {said.number} was made of: "
                "messages were changed, or stand in another order",
                sequence=said.sequence,
                expected=f"{said.root} over {said.size}",
                found=f"{self._tree.root} over {self._tree.size}",
            )
        self._note_unlike(said, before)
        self.sequence = max(self.sequence, said.sequence)
        self._sessions, self._holes, self._blind = {}, [], False

    def finish(self) -> None:
        """Judge what only the end of the checkpoints can tell."""
        kept, before = self._remembered, self.found
        if kept is not None:
            self._finish_kept(kept)
            self._note_unlike(kept, before)
        elif not self._seen:
            why = "there is no checkpoint: nothing was compared"
            self.differ(What.UNSIGNED, why) if self._require_signature else self._remark(why)
        for incarnation, count in self._beyond.items():
            places = ", ".join(f"{began} at {end}" for began, end in sorted(self._cut_back.items()))
            self._remark(
                f"{count} checkpoints of incarnation {incarnation} were compared up to where the log was "
                f"cut back, by your word: incarnation {places}"
            )
        for incarnation in sorted(self._unlike):
            self._remark(
                f"checkpoints of incarnation {incarnation} do not fit the log of {self._log.incarnation}. If "
                "it was cut back to a sequence that you know, as by a restore, say so with "
                "--cut-back INCARNATION:SEQUENCE; the rest is compared then"
            )

    def _finish_kept(self, kept: Checkpoint) -> None:
        if kept.log.stream != self._log.stream:
            what = f"checkpoint {kept.number}, which was kept elsewhere, is over another log"
            self.differ(What.CHECKPOINT, what, expected=_named(self._log), found=_named(kept.log))
            return
        number = self.last.number if self.last else 0
        declared = any(began > kept.log.incarnation for began in self._cut_back)
        if number < kept.number and declared:
            self._remark(
                f"checkpoint {kept.number}, which was kept elsewhere, is not among the checkpoints any more: "
                "they were put back with the log, by your word"
            )
        elif number < kept.number:
            self.differ(
                What.ROLLED_BACK,
                f"checkpoint {kept.number}, which was kept elsewhere, is not there any more: the "
                f"checkpoints end at {number or 'nothing'}",
                expected=kept.digest,
                found=self.last.digest if self.last else "",
            )
        reach = self.reach(kept)
        if reach < kept.sequence:
            self._remark(
                f"checkpoint {kept.number}, which was kept elsewhere, saw the log up to {kept.sequence}: "
                f"it was cut back to {reach}, by your word, and is not compared with it as a whole"
            )
        elif self.sequence < kept.sequence and not self._recalled:
            self.differ(
                What.TRUNCATED,
                f"the log ends at {self.sequence}; checkpoint {kept.number}, which was kept elsewhere, "
                f"has seen it up to {kept.sequence}",
                sequence=kept.sequence,
            )
        else:
            self._recall(kept.sequence + 1)

    def differ(
        self,
        what: What,
        reason: str,
        *,
        session: str = "",
        sequence: int | None = None,
        expected: str = "",
        found: str = "",
    ) -> None:
        """Note a difference."""
        self.found += 1
        if len(self.differences) < MAX_DIFFERENCES:
            self.differences.append(
                Difference(
                    what=what,
                    session=session,
                    reason=reason,
                    sequence=sequence,
                    expected=expected,
                    found=found,
                )
            )

    def _note_unlike(self, said: Checkpoint, before: int) -> None:
        if self.found > before and said.log.incarnation < self._log.incarnation:
            self._unlike.add(said.log.incarnation)

    def _remark(self, reason: str) -> None:
        self.remarks.append(Remark(session="", reason=reason))

    def _restart(self) -> None:
        """Begin with the log from its first message."""
        self._tree, self.sequence, self._exact = MerkleTree(), 0, True

    def _of_this_log(self, where: str, found: Checkpoint) -> bool:
        """Judge which log the checkpoint is over; False when it is another one."""
        if found.log.stream != self._log.stream:
            self.differ(
                What.CHECKPOINT,
                f"{where} is over another log",
                expected=_named(self._log),
                found=_named(found.log),
            )
            return False
        if found.log.incarnation > self._log.incarnation:
            self.differ(
                What.TRUNCATED,
                f"{where} is of incarnation {found.log.incarnation}, and the log is of "
                f"{self._log.incarnation}: it was put back, or its metadata were",
            )
        return True

    def _signature(self, where: str, headers: Mapping[str, str], body: bytes, stored_at: datetime) -> bool:
        """Judge the signature; False when the checkpoint is to be stepped over.

        The witness steps over those too: else a forged one would stand where the next signed one belongs.
        """
        good, key = check_signature(headers, body), headers.get(KEY, "")
        if good is None:
            self.unsigned += 1
            if self._require_signature:
                self.differ(What.UNSIGNED, f"{where} carries no signature")
                return False
        elif not good:
            self.differ(What.SIGNATURE, f"{where} is not what its signature was made for", found=key)
        elif self._keys is not None:
            known = self._keys.find(key)
            if known is None or not known.valid_at(stored_at):
                why = "not in the list of keys" if known is None else "not trusted for when it was stored"
                self.differ(What.KEY, f"{where} is signed by a key that is {why}", found=key)
                return False
        elif self._require_signature:
            self.differ(What.KEY, f"{where} is signed, and no list of keys says by whom", found=key)
        return good is not False

    def _same(self, where: str, found: Checkpoint) -> None:
        kept = self._remembered
        if kept is None or kept.number != found.number or kept.digest == found.digest:
            return
        if any(kept.log.incarnation < began <= found.log.incarnation for began in self._cut_back):
            self._remark(
                f"{where} is another than the one that was kept elsewhere: it was made after the log was cut "
                "back, by your word"
            )
        else:
            self.differ(
                What.ROLLED_BACK,
                f"{where} is another than the one that was kept elsewhere",
                expected=kept.digest,
                found=found.digest,
            )

    def _recall(self, coming: int) -> None:
        """Compare the log with the checkpoint kept elsewhere, at the place where that one ends."""
        kept = self._remembered
        if kept is None or self._recalled or coming <= kept.sequence or not self._exact:
            return
        if self.reach(kept) < kept.sequence or kept.log.stream != self._log.stream:
            return
        self._recalled = True
        if (self._tree.size, self._tree.root) != (kept.size, kept.root):
            self.differ(
                What.REWRITTEN,
                f"the log up to {kept.sequence} is not the one that checkpoint {kept.number}, which was "
                "kept elsewhere, was made of",
                sequence=kept.sequence,
                expected=f"{kept.root} over {kept.size}",
                found=f"{self._tree.root} over {self._tree.size}",
            )

    def _compare_sessions(self, said: Checkpoint, reach: int) -> None:
        where = f"checkpoint {said.number}"
        for session, standing in said.sessions.items():
            there = self._sessions.pop(session, None)
            if there == standing or standing.version > reach:
                continue
            counted = f"{where} counted {standing.messages} messages of it up to {standing.version}"
            if there is None:
                self.differ(
                    What.REMOVED,
                    f"{counted}, and the log has none of them any more",
                    session=session,
                    sequence=standing.version,
                    expected=standing.head,
                )
            else:
                self.differ(
                    What.REWRITTEN,
                    f"{counted}, the log has {there.messages} up to {there.version}",
                    session=session,
                    sequence=there.version,
                    expected=standing.head,
                    found=there.head,
                )
        for session, there in self._sessions.items():
            self.differ(
                What.REWRITTEN,
                f"the log has {there.messages} messages of it up to {there.version}, {where} has none",
                session=session,
                sequence=there.version,
                found=there.head,
            )

    def _compare_holes(self, said: Checkpoint, reach: int) -> None:
        known = {(hole.first, min(hole.last, reach)) for hole in said.missing}
        fresh = [hole for hole in self._holes if hole not in known]
        for first, last in fresh[:MAX_HOLES_NAMED]:
            span = f"message {first}" if first == last else f"messages {first} to {last}"
            self.differ(
                What.LOG, f"the log lacks {span}, which checkpoint {said.number} has seen", sequence=first
            )
        if len(fresh) > MAX_HOLES_NAMED:
            rest = len(fresh) - MAX_HOLES_NAMED
            self.differ(What.LOG, f"the log lacks messages in {rest} places more")


def _named(log: Log) -> str:
    return f"{log.stream}, incarnation {log.incarnation}"
