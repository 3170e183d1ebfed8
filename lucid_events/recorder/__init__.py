"""The recorder: takes bytes from a source, makes them durable while they are produced, and proves it.

    source ──► intake (memory, spool) ──► cutter ──► writer ──► capture
                                                       └──► sealer ──► history ──► receipts

It knows ports only. What it sends is design.md, section 6, steps 1 and 2; the rest of that section
is the service's part.
"""

from lucid_events.recorder.options import RecorderOptions, Totals
from lucid_events.recorder.recording import Recording
from lucid_events.recorder.sources import (
    CommandSource,
    FileSource,
    NoSource,
    PipeSource,
    PushSource,
    Refused,
    Source,
    TerminalSource,
    open_source,
)
from lucid_events.recorder.spool import Spool

__all__ = [
    "CommandSource",
    "FileSource",
    "NoSource",
    "PipeSource",
    "PushSource",
    "RecorderOptions",
    "Recording",
    "Refused",
    "Source",
    "Spool",
    "TerminalSource",
    "Totals",
    "open_source",
]
