"""From the consumer to the streams: Faust's own conductor, a little less patient and a little faster."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from faust.transport import conductor

RESUBSCRIBE_S: Final = 3.5
"""How long new topics are gathered before the group is told. Upstream's 45 s is how long the first
`Agent.ask` would take; it must outlast the 3 s that Faust's ReplyConsumer sleeps at its start."""


class Conductor(conductor.Conductor):
    """Delegates messages to the streams that want them."""

    _resubscribe_sleep_lock_seconds = RESUBSCRIBE_S

    def _compile_message_handler(self) -> Callable[[Any], Awaitable[None]]:
        if self.app.client_only:
            return super()._compile_message_handler()
        lock, callbacks = self._tp_to_callback_lock, self._tp_to_callback

        async def on_message(message: Any) -> None:
            # Upstream takes the lock for every message. It is held while the callbacks change; when it is
            # free nothing can change them before the next `await`.
            if lock.locked():
                async with lock:
                    callback = callbacks[message.tp]
            else:
                callback = callbacks[message.tp]
            await callback(message)

        return on_message
