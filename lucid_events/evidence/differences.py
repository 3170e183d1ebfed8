"""What verification has to say: where something differs, what was expected there, what was found.

A *difference* means that the evidence does not hold. A *remark* is worth knowing and takes nothing
away from it: a key that no list names, an object that no history knows.
"""

from enum import StrEnum

import msgspec

MAX_DIFFERENCES = 100
"""Differences kept of one session, the first ones: 30 KiB. Half is as good to find out where it began;
the rest is counted."""


class What(StrEnum):
    """Kinds of difference, by what differs."""

    UNREADABLE = "event_unreadable"
    CHAIN = "chain_broken"
    ORDER = "out_of_order"
    ILLEGAL = "event_illegal"
    REPEATED = "event_repeated"
    MANIFEST = "manifest_differs"
    SIGNATURE = "signature_wrong"
    UNSIGNED = "unsigned"
    KEY = "key_not_trusted"
    TRUNCATED = "history_cut"
    REWRITTEN = "history_rewritten"
    FOREIGN = "foreign_message"
    LOG = "log_incomplete"
    REMOVED = "session_removed"
    CHECKPOINT = "checkpoint_wrong"
    ROLLED_BACK = "checkpoints_cut"
    OBJECT_MISSING = "object_missing"
    OBJECT_METADATA = "object_metadata"
    OBJECT_BYTES = "object_bytes"
    OBJECT_LEFT = "object_left"
    CHUNK_BYTES = "chunk_bytes"


class Difference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One place where the evidence does not hold: `sequence` in the log, `index` of a chunk."""

    what: What
    session: str
    reason: str
    sequence: int | None = None
    index: int | None = None
    object: str = ""
    expected: str = ""
    found: str = ""

    def __str__(self) -> str:
        place = [f"session {self.session}"] if self.session else []
        place += [f"event {self.sequence}"] if self.sequence is not None else []
        place += [f"chunk {self.index}"] if self.index is not None else []
        place += [f"object {self.object}"] if self.object else []
        text = f"{self.what}: {', '.join(place)}: {self.reason}"
        if self.expected or self.found:
            text += f" (expected {self.expected or 'nothing'}, found {self.found or 'nothing'})"
        return visible(text)


class Remark(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something worth knowing that is no difference."""

    session: str
    reason: str
    sequence: int | None = None
    object: str = ""

    def __str__(self) -> str:
        place = [f"session {self.session}"] if self.session else []
        place += [f"message {self.sequence}"] if self.sequence is not None else []
        place += [f"object {self.object}"] if self.object else []
        return visible(f"{', '.join(place)}: {self.reason}")


def visible(text: str) -> str:
    """Return `text` with control characters escaped.

    What is told quotes whoever is judged: a line feed or a terminal's sequence in it could take a
    difference off the screen and put "holds" there.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
