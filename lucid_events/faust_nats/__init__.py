"""A Faust driver for NATS JetStream: `faust.App(broker="nats://…", store="jetstream://")`.

Stands alone: it imports Faust, mode, nats-py and msgspec, and nothing else of this package. Faust
finds it by the entry points `faust.transports` (nats, tls, ws, wss) and `faust.stores` (jetstream),
so an ordinary Faust app needs no import of it. `create_app` adds safe defaults, `running` runs an app
inside another program and re-raises what crashes it, `bind` lets an existing stream be a topic.
"""

from lucid_events.faust_nats.app import bind, crashed, create_app, running
from lucid_events.faust_nats.errors import CommitInDoubt, DriverError, Fenced, Unavailable, Unsupported
from lucid_events.faust_nats.topology import EventLog, partition

__all__ = [
    "CommitInDoubt",
    "DriverError",
    "EventLog",
    "Fenced",
    "Unavailable",
    "Unsupported",
    "bind",
    "crashed",
    "create_app",
    "partition",
    "running",
]
