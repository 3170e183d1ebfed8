"""Whether one history holds: its links, its legality, its manifests and their signatures.

A fold over messages in order, wherever they come from: the log, a bundle, a copy. Pure, and bounded in
memory but for 32 bytes a chunk and about 100 for each event of a session command. What a history can't
prove of itself is said in `docs/evidence.md`: that its last event was not changed
and nothing was cut off behind it, another place has to remember (`KnownHead`, the manifest's signature,
a checkpoint).
"""

import hashlib
from collections.abc import Sequence
from typing import cast

import msgspec

from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded, Stray
from lucid_events.domain.ids import NO_DIGEST, Digest, SessionId
from lucid_events.domain.legality import check
from lucid_events.domain.state import Session, evolve, initial, takes_effect_once
from lucid_events.domain.transitions import OPEN
from lucid_events.domain.values import Manifest
from lucid_events.evidence.differences import MAX_DIFFERENCES, Difference, Remark, What
from lucid_events.evidence.keys import KeyList
from lucid_events.evidence.manifests import Signature, check_signature
from lucid_events.evidence.tally import Tally

MAX_REMARKS = 100
"""Remarks kept of one session, the first ones."""


class KnownHead(msgspec.Struct, frozen=True, kw_only=True):
    """What another place remembers: up to `sequence` the history ended with the event `digest`."""

    source: str
    sequence: int
    digest: Digest


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """What the last manifest's signature says: `verdict`, and the key when one is named.

    `verdict` is `signed` (by a key that was trusted then), `unlisted` (no list of keys was given),
    `unknown_key`, `key_not_valid`, `wrong`, `unsigned`, or `no_manifest`.
    """

    verdict: str
    key: str = ""
    manifest: int = 0


class HistoryCheck:
    """Takes a history message by message; `differences` and `remarks` grow, first come first.

    Once a difference is found the links and signatures are still followed, the rules are not: what
    comes behind a broken place would be judged by a state that nobody knows.

    Args:
        keys: whose signatures are believed; None believes none and doubts none.
        heads: what other places remember of the history.
        allow_strays: messages that are no events are remarks. Otherwise they are differences: whoever put
            one there could write into the log, or took the envelope off an event at its end.
    """

    def __init__(
        self,
        session: SessionId,
        *,
        keys: KeyList | None = None,
        heads: Sequence[KnownHead] = (),
        allow_strays: bool = False,
    ) -> None:
        self.state: Session = initial(session)
        self.head: Digest | None = NO_DIGEST
        """Digest of the last event; None behind one that can't be read."""
        self.version = self.events = self.strays = self.found = 0
        self.erased_below = 0
        """Chunks below this index were given up to an erasure that may have taken their objects."""
        self.signed = Signed(verdict="no_manifest")
        self.differences: list[Difference] = []
        self.remarks: list[Remark] = []
        self._keys, self._tally, self._last_event = keys, Tally(), 0
        self._allow_strays, self._foreign = allow_strays, 0
        self._uncovered = 0
        """Chunks and gaps since the last manifest, which nothing that is signed can speak of."""
        self._ids: dict[bytes, int] = {}
        self._heads = sorted(heads, key=lambda known: known.sequence)

    @property
    def holds(self) -> bool:
        """Whether no difference was found so far."""
        return self.found == 0

    @property
    def _sound(self) -> bool:
        """Whether nothing but foreign messages was found, which change no state."""
        return self.found == self._foreign

    def take(self, message: Recorded | Stray) -> None:
        """Judge the next message of the history."""
        self._arrive(message.sequence)
        if isinstance(message, Stray):
            self.strays += 1
            reason = f"not an event, skipped by every reader: {message.reason}"
            if self._allow_strays:
                self.remark(reason, message.sequence)
            else:
                self._foreign += 1
                self._differ(
                    What.FOREIGN, f"{reason} (on {message.subject[:200]})", sequence=message.sequence
                )
            return
        event = cast(ev.Event, message.event)
        self._link(message)
        self._once(message)
        if isinstance(event, ev.SessionStopped):
            self._manifest(event.manifest, message)
        try:
            if self._sound and (wrong := check(self.state, event)):
                self._differ(What.ILLEGAL, f"{message.type}: {wrong}", sequence=message.sequence)
            after = evolve(self.state, message)
        except OverflowError:  # a day before the first, or behind the last, that there is
            self._differ(
                What.UNREADABLE,
                f"{message.type}: it has a time at the end of the calendar",
                sequence=message.sequence,
                found=message.time.isoformat(),
            )
            after = self.state
        match event:
            case ev.SessionCleanupStarted():
                self.erased_below = self.state.next_index
            case ev.SessionStopped():
                self._uncovered = 0
            case ev.ChunkSealed() | ev.GapDeclared():
                self._uncovered += 1
            case _:
                pass
        self.state = after
        self._tally.take(event, message.digest)
        self.head, self._last_event = message.digest, int(message.sequence)
        self.events += 1

    def take_unreadable(self, sequence: int, reason: str) -> None:
        """Note a message that has an event's headers and can't be decoded; links begin anew behind it."""
        self._arrive(sequence)
        self._differ(What.UNREADABLE, reason, sequence=sequence)
        self.head, self._last_event = None, sequence
        self.events += 1

    def end(self, *, require_signature: bool = False, goes_on: bool = True) -> None:
        """Judge what only the end of the history can tell.

        Args:
            require_signature: what has ended without a trusted signature does not hold.
            goes_on: an open session may yet be signed. Not so of a copy: whoever made it chose its end.
        """
        for known in self._heads:
            if known.sequence > self.version:
                self._differ(
                    What.TRUNCATED,
                    f"{known.source} has seen the history up to {known.sequence}, "
                    f"and it ends at {self.version or 'nothing'}: events at its end were removed",
                    sequence=known.sequence,
                    expected=known.digest,
                    found=self.head or "",
                )
            else:
                self._remembered(known)
        self._heads = []
        waits = goes_on and self.state.state in OPEN
        if self._uncovered and self.signed.verdict != "no_manifest":
            why = (
                f"manifest {self.signed.manifest} does not cover what was recorded behind it, "
                f"chunks and gaps: {self._uncovered}"
            )
            if require_signature and not waits:
                self._differ(What.UNSIGNED, why)
            else:
                self.remark(why)
        if self.signed.verdict == "no_manifest" and require_signature:
            if waits:
                self.remark(f"{self.state.state}: there is no manifest to be signed yet")
            else:
                self._differ(What.UNSIGNED, f"{self.state.state or 'empty'}, and has no manifest")
        elif self.signed.verdict == "unsigned" and require_signature:
            self._differ(What.UNSIGNED, f"manifest {self.signed.manifest} carries no signature")
        elif self.signed.verdict == "unlisted":
            why = f"manifest {self.signed.manifest} is signed, and no list of keys says by whom"
            if require_signature:
                self._differ(What.KEY, why, found=self.signed.key)
            else:
                self.remark(f"{why}: its key is {self.signed.key}")

    def _arrive(self, sequence: int) -> None:
        if sequence <= self.version:
            self._differ(
                What.ORDER,
                "a message stands behind a later one",
                sequence=sequence,
                expected=f"above {self.version}",
                found=str(sequence),
            )
        while self._heads and self._heads[0].sequence < sequence:
            self._remembered(self._heads.pop(0))
        self.version = max(self.version, sequence)

    def _remembered(self, known: KnownHead) -> None:
        if self.head is not None and known.digest != self.head:
            self._differ(
                What.REWRITTEN,
                f"up to {known.sequence} the history ended otherwise when {known.source} read it",
                sequence=self._last_event or None,
                expected=known.digest,
                found=self.head,
            )

    def _link(self, recorded: Recorded) -> None:
        if self.head is None or recorded.prev == self.head:
            return
        before = f"event {self._last_event}" if self._last_event else "the beginning"
        self._differ(
            What.CHAIN,
            f"{recorded.type} does not follow {before}: that one was changed, one between them was "
            "removed, or this one was put in or moved",
            sequence=recorded.sequence,
            expected=self.head,
            found=recorded.prev,
        )

    def _once(self, recorded: Recorded) -> None:
        if not takes_effect_once(recorded):
            return
        first = self._ids.setdefault(hashlib.sha256(recorded.id.encode()).digest()[:16], recorded.sequence)
        if first != recorded.sequence:
            self._differ(
                What.REPEATED,
                f"{recorded.type} has the id of event {first}: a command took effect twice, or it is a copy",
                sequence=recorded.sequence,
                expected="an id of its own",
                found=recorded.id,
            )

    def _manifest(self, manifest: Manifest, recorded: Recorded) -> None:
        self._signature(manifest, recorded)
        if not self._sound:
            return
        ought = self._tally.manifest()
        for name in Manifest.__struct_fields__:
            expected, found = getattr(ought, name), getattr(manifest, name)
            if name not in ("signature", "key") and expected != found:
                self._differ(
                    What.MANIFEST,
                    f"its field {name} is not what the history adds up to",
                    sequence=recorded.sequence,
                    expected=_shown(expected),
                    found=_shown(found),
                )
                return

    def _signature(self, manifest: Manifest, recorded: Recorded) -> None:
        key, version = manifest.key or "", manifest.version
        verdict, why = "unsigned", ""
        match check_signature(self.state.id, manifest):
            case Signature.WRONG:
                verdict, why = "wrong", f"manifest {version} is not what its signature was made for"
            case Signature.GOOD:
                verdict, why = self._trust(key, recorded)
        self.signed = Signed(verdict=verdict, key=key, manifest=version)
        if why:
            what = What.SIGNATURE if verdict == "wrong" else What.KEY
            self._differ(what, why, sequence=recorded.sequence, found=key)

    def _trust(self, key: str, recorded: Recorded) -> tuple[str, str]:
        if self._keys is None:
            return "unlisted", ""
        known = self._keys.find(key)
        if known is None:
            return "unknown_key", "the manifest is signed by a key that is not in the list of keys"
        if known.valid_at(recorded.stored_at):
            return "signed", ""
        until = known.valid_until.isoformat() if known.valid_until else "now"
        return "key_not_valid", (
            f"the manifest was stored at {recorded.stored_at.isoformat()}, its key is trusted from "
            f"{known.valid_from.isoformat()} to {until}"
        )

    def _differ(
        self, what: What, reason: str, *, sequence: int | None = None, expected: str = "", found: str = ""
    ) -> None:
        self.add(
            Difference(
                what=what,
                session=self.state.id,
                reason=reason,
                sequence=sequence,
                expected=expected,
                found=found,
            )
        )

    def add(self, difference: Difference) -> None:
        """Note a difference found by somebody else, of a chunk for instance."""
        self.found += 1
        if len(self.differences) < MAX_DIFFERENCES:
            self.differences.append(difference)

    def remark(self, reason: str, sequence: int | None = None) -> None:
        """Note something that takes nothing away from the evidence."""
        if len(self.remarks) < MAX_REMARKS:
            self.remarks.append(Remark(session=self.state.id, reason=reason, sequence=sequence))


def _shown(value: object) -> str:
    text = msgspec.json.encode(value).decode() if not isinstance(value, str) else value
    return text if len(text) <= 200 else f"{text[:197]}..."
