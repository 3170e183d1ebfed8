"""Says why a recording stands still, when the server says so, while it waits."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from lucid_events.recorder import Recording

if TYPE_CHECKING:
    from lucid_events.service.adapters import Adapters

LOOK_S: Final = 5.0
"""Standing still as long is asked about. With half every slow moment of a server is a question to it."""

_log = logging.getLogger(__name__)


@asynccontextmanager
async def telling_why(recording: Recording, adapters: "Adapters") -> AsyncIterator[None]:
    """For the time of the context, log once for each cause why no more bytes become durable."""
    task = asyncio.create_task(_tell(recording, adapters), name="why it stands still")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _tell(recording: Recording, adapters: "Adapters") -> None:
    from lucid_events.service.preflight import why_not_written

    told, before = "", -1
    while True:
        await asyncio.sleep(LOOK_S)
        acked = recording.acked_upto
        if acked == before and recording.taken_upto > acked:
            why = await why_not_written(adapters) or recording.refusal
            if why and why != told:
                _log.warning("nothing more is stored", extra={"offset": acked, "reason": why})
                told = why
        elif acked != before:
            told = ""
        before = acked
