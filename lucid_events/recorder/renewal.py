"""One recorder as one epoch after another: what it says as the epoch it has, and how it gets the next.

    beat, seal, tell of pressure ──► the writer is stuck ──► attach anew ──► …

Capture may be full of bytes whose acknowledgements were lost. Their recorder can neither look for them nor
store them once more; whoever attaches has the service salvage them, and what is salvaged makes room.
"""

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from msgspec.structs import replace

from lucid_events.client import Commands
from lucid_events.domain.commands import Attach
from lucid_events.domain.ids import CommandId, SessionId
from lucid_events.domain.replies import Accepted
from lucid_events.errors import AppendUncertain, CommandRejected, StoreUnavailable
from lucid_events.ports import Clock
from lucid_events.recorder.link import SessionLink
from lucid_events.recorder.opening import give_back
from lucid_events.recorder.options import RecorderOptions
from lucid_events.recorder.pressure import Pressure
from lucid_events.recorder.receipts import Receipts
from lucid_events.recorder.sealer import Sealer
from lucid_events.recorder.waiting import Signal
from lucid_events.recorder.writer import CaptureWriter

T = TypeVar("T")
_log = logging.getLogger(__name__)


async def beside(main: Coroutine[Any, Any, T], *others: Coroutine[Any, Any, None]) -> T:
    """Run `main` to its end beside tasks that only end by failing, which ends all of them."""
    first = asyncio.create_task(main, name="recording")
    tasks: set[asyncio.Task[Any]] = {first, *(asyncio.create_task(other) for other in others)}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # what fails beside it ends it
        return await first
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class LastingSealer(Sealer):
    """A sealer that goes on as the next epoch of its recorder."""

    @property
    def next_index(self) -> int:
        """Index of the chunk it seals next."""
        return self._next_index

    def renew(self, accepted: Accepted) -> None:
        """Seal as the epoch that `accepted` tells of; only while it seals nothing."""
        self._epoch, self._next_index = accepted.epoch, accepted.next_index
        self.sealed_upto = accepted.offset


class Speaker:
    """Speaks for the recorder of `session`, which attached by `attach`.

    Args:
        on_renewed: awaited once the recorder has another epoch.
    """

    def __init__(
        self,
        session: SessionId,
        attach: Attach,
        *,
        commands: Commands,
        clock: Clock,
        link: SessionLink,
        writer: CaptureWriter,
        sealer: LastingSealer,
        receipts: Receipts,
        pressure: Pressure,
        options: RecorderOptions,
        moved: Signal,
        on_renewed: Callable[[Accepted], Coroutine[Any, Any, None]],
    ) -> None:
        self._session, self._attach, self._commands, self._clock = session, attach, commands, clock
        self._link, self._writer, self._sealer, self._receipts = link, writer, sealer, receipts
        self._pressure, self._options, self._moved = pressure, options, moved
        self._on_renewed = on_renewed

    async def run(self) -> None:
        """Speak for ever.

        Raises:
            Fenced: the epoch is over, and it was not us who ended it.
            CommandRejected: the rules refuse a seal.
        """
        while True:
            await beside(
                self._moved.until(lambda: self._writer.stuck),
                self._sealer.run(),
                self._link.run_beats(),
                self._pressure.tell(self._link.epoch, lambda: self._writer.acked_upto),
            )
            self._link.leaving = True  # the epoch ends because we ask for it
            try:
                # Fences need room, too: until there is some, the epoch must not be given up as lost.
                accepted = await beside(self._attach_anew(), self._link.run_beats())
            finally:
                self._link.leaving = False
            if accepted is None:
                self._writer.go_on()
            else:
                self._renew(accepted)
                await self._on_renewed(accepted)

    async def _attach_anew(self) -> Accepted | None:
        """Attach once more, over ourselves and nobody else; None when that is not possible now."""
        id, unanswered = CommandId(str(uuid.uuid4())), False
        while True:
            ours = True
            try:
                reply = await self._link.beat()
                ours = reply.attached and reply.epoch == self._link.epoch
                if not ours and not unanswered:
                    return None
                # The answer to an attempt may have been lost: then this one has nothing to do.
                accepted = await self._commands.send(
                    self._session,
                    replace(self._attach, takeover=ours),
                    id=id,
                    if_version=reply.version if ours else None,
                    give_up_after_s=0.0,
                )
            except (StoreUnavailable, AppendUncertain) as exc:
                unanswered = True
                _log.debug("not attached anew", extra={"session": self._session, "reason": exc.message})
            except CommandRejected as exc:
                if not ours or exc.code != "version_mismatch":
                    _log.info("not attached anew", extra={"session": self._session, "reason": exc.message})
                    return None
            else:
                if ours or not accepted.events:
                    return accepted
                # Another recorder had taken over, and is gone: what we have does not belong behind its bytes.
                await give_back(self._commands, self._session, accepted, "its epoch was over")
                return None
            await self._clock.sleep(self._options.retry_first_s)

    def _renew(self, accepted: Accepted) -> None:
        index = self._sealer.next_index
        self._link.attached(accepted)
        left = self._writer.renew(accepted.epoch, accepted.offset)
        self._sealer.renew(accepted)
        _log.warning(
            "attached anew: acknowledgements were lost, and capture was full of what they were for",
            extra={"session": self._session, "epoch": accepted.epoch, "offset": accepted.offset},
        )
        if accepted.next_index - index == len(
            left
        ):  # else a hole was salvaged too: which is which is not known
            for nth, one in enumerate(left, index):
                self._receipts.expect(nth, one.offset, one.size, one.sha256)
