"""Whether checkpoints hold: each behind the one before, under trusted keys, and over the log as it is now.

A fold: `begin` a checkpoint, `take` the messages of the log up to it, `end` it; `finish` behind the
last. Pure; memory is that of one checkpoint. What is missing is named by the session it belonged to.
"""

from collections.abc import Mapping
from datetime import datetime

from lucid_events.domain.ids import Digest
from lucid_events.errors import IntegrityError
from lucid_events.evidence.checkpoint import (
    KEY,
    Checkpoint,
    Witnessed,
    check_signature,
    decode_checkpoint,
    follows,
)
from lucid_events.evidence.differences import MAX_DIFFERENCES, Difference, What
from lucid_events.evidence.keys import KeyList
from lucid_events.evidence.merkle import MerkleTree

MAX_HOLES_NAMED = 20
"""Holes in the log that get a difference each; the rest is counted in the last one."""


class CheckpointCheck:
    """Takes checkpoints and the log between them; `differences` grows, first come first.

    Args:
        keys: whose signatures are believed; None: a signature need only be that of the key it names.
        require_signature: a checkpoint without a trusted signature does not hold.
        remembered: a checkpoint that was kept elsewhere: it has to be among them, unchanged.
    """

    def __init__(
        self,
        *,
        keys: KeyList | None = None,
        require_signature: bool = False,
        remembered: Checkpoint | None = None,
    ) -> None:
        self.differences: list[Difference] = []
        self.found = self.unsigned = self.checkpoints = 0
        self.last: Checkpoint | None = None
        self.sequence = 0
        """Up to where the log has been taken."""
        self._keys, self._require_signature = keys, require_signature
        self._remembered, self._recalled = remembered, False
        self._tree, self._exact, self._blind = MerkleTree(), True, False
        self._sessions: dict[str, Witnessed] = {}
        self._holes: list[tuple[int, int]] = []

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
        try:
            found = decode_checkpoint(body)
        except IntegrityError as exc:
            self.differ(What.CHECKPOINT, f"message {place} of the checkpoints {exc.message}")
            return None
        where = f"checkpoint {found.number} (message {place})"
        if not self._signature(where, headers, body, stored_at):
            return None
        if wrong := follows(self.last, found):
            self.differ(What.CHECKPOINT, f"{where} {wrong}")
            if self.last is not None or found.number == 1:
                return None
            # The beginning is gone: said once. Where this one began is not known, so it has no log to
            # be compared with; the sessions of those behind it have.
            self._exact, self._blind = False, True
        if self.last is None or self.last.log != found.log:
            self._tree, self.sequence, self._recalled = MerkleTree(), 0, False
        self.checkpoints += 1
        self._same(where, found)
        self.last = found
        return found

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
        if self.sequence < said.sequence:
            self._holes.append((self.sequence + 1, said.sequence))
        before = self.found
        if not self._blind:
            self._compare_sessions(said)
            self._compare_holes(said)
        if self.found > before:
            self._exact = False
        elif self._exact and (self._tree.size, self._tree.root) != (said.size, said.root):
            self._exact = False
            self.differ(
                What.REWRITTEN,
                f"the log up to {said.sequence} is not the one that checkpoint {said.number} was made of: "
                "messages were changed, or stand in another order",
                sequence=said.sequence,
                expected=f"{said.root} over {said.size}",
                found=f"{self._tree.root} over {self._tree.size}",
            )
        self.sequence = max(self.sequence, said.sequence)
        self._sessions, self._holes, self._blind = {}, [], False

    def finish(self) -> None:
        """Judge what only the end of the checkpoints can tell."""
        kept = self._remembered
        if kept is None:
            return
        number = self.last.number if self.last else 0
        if number < kept.number:
            self.differ(
                What.ROLLED_BACK,
                f"checkpoint {kept.number}, which was kept elsewhere, is not there any more: the "
                f"checkpoints end at {number or 'nothing'}",
                expected=kept.digest,
                found=self.last.digest if self.last else "",
            )
        if self.sequence < kept.sequence:
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

    def _signature(self, where: str, headers: Mapping[str, str], body: bytes, stored_at: datetime) -> bool:
        """Judge the signature; False when it is somebody's who could not make one."""
        good, key = check_signature(headers, body), headers.get(KEY, "")
        if good is None:
            self.unsigned += 1
            if self._require_signature:
                self.differ(What.UNSIGNED, f"{where} carries no signature")
        elif not good:
            self.differ(What.SIGNATURE, f"{where} is not what its signature was made for", found=key)
        elif self._keys is not None:
            known = self._keys.find(key)
            if known is None or not known.valid_at(stored_at):
                why = "not in the list of keys" if known is None else "not trusted for when it was stored"
                self.differ(What.KEY, f"{where} is signed by a key that is {why}", found=key)
        elif self._require_signature:
            self.differ(What.KEY, f"{where} is signed, and no list of keys says by whom", found=key)
        return good is not False

    def _same(self, where: str, found: Checkpoint) -> None:
        kept = self._remembered
        if kept is not None and kept.number == found.number and kept.digest != found.digest:
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
        if self.last is not None and self.last.log != kept.log:
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

    def _compare_sessions(self, said: Checkpoint) -> None:
        where = f"checkpoint {said.number}"
        for session, standing in said.sessions.items():
            there = self._sessions.pop(session, None)
            if there == standing:
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

    def _compare_holes(self, said: Checkpoint) -> None:
        known = {(hole.first, hole.last) for hole in said.missing}
        fresh = [hole for hole in self._holes if hole not in known]
        for first, last in fresh[:MAX_HOLES_NAMED]:
            span = f"message {first}" if first == last else f"messages {first} to {last}"
            self.differ(
                What.LOG, f"the log lacks {span}, which checkpoint {said.number} has seen", sequence=first
            )
        if len(fresh) > MAX_HOLES_NAMED:
            rest = len(fresh) - MAX_HOLES_NAMED
            self.differ(What.LOG, f"the log lacks messages in {rest} places more")
