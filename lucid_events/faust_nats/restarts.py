"""An agent that raised goes on with the next event: first what is left of its iteration is closed.

Faust leaves the iteration that was broken off to the garbage collector and starts another one over the
same stream. When the first is collected it acknowledges whatever event the second has in hand and stops
the stream, and the agent with it, which nobody starts again.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from faust.types import AppT

Replace = Callable[[Any, int], Awaitable[Any]]


def close_before_restarts(app: AppT) -> None:
    """Have it so for every agent that `app` has; call it before they start."""
    for agent in app.agents.values():
        made: Any = agent
        made._replace_actor = partial(_replace, made._replace_actor)


async def _replace(replace: Replace, ended: Any, index: int) -> Any:
    """Return the actor that takes the place of `ended`, whose event counts as done from here on."""
    for stream in ended.stream.get_root_stream()._iter_ll_forwards():
        for iteration in tuple(stream._active_agens):
            with suppress(RuntimeError):  # one that is running ends by itself
                await iteration.aclose()
    return await replace(ended, index)
