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

ANSWER_S: Final = 2.0
"""How long it may take to answer. With more, it is told when the server is back: each stream is asked."""

MEANWHILE: Final = {
    "flowing": "what is read waits in memory",
    "blocking": "the source is held back",
    "spooling": "what is read goes to the spool",
}
"""What a recording does with its source, by its step."""

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


async def _asked(adapters: "Adapters") -> str:
    """Return why the server stores nothing, as far as it answers at once."""
    from lucid_events.service.preflight import why_not_written

    try:
        async with asyncio.timeout(ANSWER_S):
            return await why_not_written(adapters)
    except TimeoutError:
        return "the server does not answer"


async def _tell(recording: Recording, adapters: "Adapters") -> None:
    told, before = "", -1
    while True:
        await asyncio.sleep(LOOK_S)
        acked = recording.acked_upto
        if acked == before and recording.taken_upto > acked:
            why = await _asked(adapters) or recording.refusal
            if why and why != told and recording.acked_upto == acked:
                reason = f"{why}; {MEANWHILE[recording.step]}"
                _log.warning("nothing more is stored", extra={"offset": acked, "reason": reason})
                told = why
        elif acked != before:
            told = ""
        before = acked
