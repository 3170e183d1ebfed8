"""The wall clock, as the `Clock` port asks for it; only the composition root builds it."""

import asyncio
from datetime import UTC, datetime


class SystemClock:
    """The machine's clock in UTC; `sleep` waits in real time."""

    def now(self) -> datetime:
        """Return the time now, in UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds`; zero or less only lets other tasks run."""
        await asyncio.sleep(max(0.0, seconds))
