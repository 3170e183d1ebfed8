"""Every port in memory, held to the same contract suite as `jetstream`; nothing survives the process."""

from lucid_events.memory.blobs import MemoryBlobStore
from lucid_events.memory.capture import MemoryCaptureStore
from lucid_events.memory.clock import ManualClock
from lucid_events.memory.faults import Faults
from lucid_events.memory.gauge import MemoryCaptureGauge
from lucid_events.memory.inbox import MemoryInbox
from lucid_events.memory.kv import MemoryKeyValue
from lucid_events.memory.letters import MemoryLetters
from lucid_events.memory.messaging import MemoryBeats, MemoryCommandBus, MemoryCommandServer, MemoryLiveFeed
from lucid_events.memory.server import MemoryServer
from lucid_events.memory.store import MemoryEventStore
from lucid_events.memory.timers import MemoryTimers

__all__ = [
    "Faults",
    "ManualClock",
    "MemoryBeats",
    "MemoryBlobStore",
    "MemoryCaptureGauge",
    "MemoryCaptureStore",
    "MemoryCommandBus",
    "MemoryCommandServer",
    "MemoryEventStore",
    "MemoryInbox",
    "MemoryKeyValue",
    "MemoryLetters",
    "MemoryLiveFeed",
    "MemoryServer",
    "MemoryTimers",
]
