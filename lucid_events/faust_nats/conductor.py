"""From the consumer to the streams: Faust's own conductor, a little less patient."""

from typing import Final

from faust.transport import conductor

RESUBSCRIBE_S: Final = 3.5
"""How long new topics are gathered before the group is told. Upstream's 45 s is how long the first
`Agent.ask` would take; it must outlast the 3 s that Faust's ReplyConsumer sleeps at its start."""


class Conductor(conductor.Conductor):
    """Delegates messages to the streams that want them."""

    _resubscribe_sleep_lock_seconds = RESUBSCRIBE_S
