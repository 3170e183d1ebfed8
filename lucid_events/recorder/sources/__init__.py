"""Where a recording's bytes come from: a file, a pipe, a program, a terminal."""

from lucid_events.recorder.sources.base import CountsFrames, NoSource, Source
from lucid_events.recorder.sources.files import FileSource, PipeSource, open_source
from lucid_events.recorder.sources.programs import CommandSource
from lucid_events.recorder.sources.push import PushSource, Refused
from lucid_events.recorder.sources.terminals import TerminalSource

__all__ = [
    "CommandSource",
    "CountsFrames",
    "FileSource",
    "NoSource",
    "PipeSource",
    "PushSource",
    "Refused",
    "Source",
    "TerminalSource",
    "open_source",
]
