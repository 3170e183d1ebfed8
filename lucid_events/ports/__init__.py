"""What the core needs from the outside, as Protocols shaped by the code that uses them.

Two packages fulfil them: `jetstream` (a real server) and `memory` (a dictionary); one contract
suite (`tests/contract/`) holds both to every promise written here.

Bytes of envelopes are not seen here: an `EventStore` takes `NewEvent` and gives `Recorded`.
"""

from lucid_events.ports.blobs import BlobInfo, BlobStore, Orphan
from lucid_events.ports.capture import CaptureAck, CapturePiece, CaptureStore, HeldChunk
from lucid_events.ports.clock import Clock
from lucid_events.ports.commands import Beats, CommandBus, CommandReply, CommandServer, Endpoint
from lucid_events.ports.consuming import ConsumerLag, Delivery, Inbox
from lucid_events.ports.events import Appended, EventStore, Position
from lucid_events.ports.gauge import CaptureEnd, CaptureGauge
from lucid_events.ports.letters import DeadLetterStore, Letters, StoredMessage
from lucid_events.ports.live import LiveFeed, LiveMessage
from lucid_events.ports.measures import Ending, Measures
from lucid_events.ports.timers import Timers
from lucid_events.ports.views import KeyValue

__all__ = [
    "Appended",
    "Beats",
    "BlobInfo",
    "BlobStore",
    "CaptureAck",
    "CaptureEnd",
    "CaptureGauge",
    "CapturePiece",
    "CaptureStore",
    "Clock",
    "CommandBus",
    "CommandReply",
    "CommandServer",
    "ConsumerLag",
    "DeadLetterStore",
    "Delivery",
    "Ending",
    "Endpoint",
    "EventStore",
    "HeldChunk",
    "Inbox",
    "KeyValue",
    "Letters",
    "LiveFeed",
    "LiveMessage",
    "Measures",
    "Orphan",
    "Position",
    "StoredMessage",
    "Timers",
]
