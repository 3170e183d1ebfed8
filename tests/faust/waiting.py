"""Waiting for a condition, with a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

WAIT_S = 40.0
LOOK_S = 0.02


async def until(true: Callable[[], bool | Awaitable[bool]], what: str, wait_s: float = WAIT_S) -> None:
    """Return when `true()` is; fail with `what` after `wait_s`."""
    deadline = asyncio.get_running_loop().time() + wait_s
    while True:
        found = true()
        if found if isinstance(found, bool) else await found:
            return
        assert asyncio.get_running_loop().time() < deadline, f"not within {wait_s:g} s: {what}"
        await asyncio.sleep(LOOK_S)
