"""How far capture has got, for people who watch a recording."""

from datetime import datetime
from typing import Protocol

import msgspec

from lucid_events.domain.ids import SessionId


class CaptureEnd(msgspec.Struct, frozen=True):
    """The newest piece in capture ends at byte `offset` of its session; it was stored at `stored_at`."""

    offset: int
    stored_at: datetime


class CaptureGauge(Protocol):
    """Reads how far capture has got; a gauge, on which nothing that must be right depends."""

    async def end(self, session: SessionId, *, epoch: int, timeout_s: float) -> CaptureEnd | None:
        """Return where the epoch's newest piece ends, None when capture holds none.

        Raises:
            StoreUnavailable: not answered within `timeout_s`; whoever may not read capture is never.
            ContractError: the newest message is no piece.
        """
        ...
