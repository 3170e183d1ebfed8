"""Many sessions pushed through HTTP at once: nothing is refused, nothing is lost, however long it takes."""

import asyncio

import pytest

from bench import http_load


@pytest.mark.slow
@pytest.mark.parametrize("together", [False, True])
def test_sessions_pushed_at_once_lose_nothing(together: bool) -> None:
    """Twenty sessions push 100 KB/s each through one service; every byte of each is played back."""
    figures = asyncio.run(http_load.run(sessions=20, seconds=10, together=together, seed=1))
    assert figures.bytes == 20 * 10 * 100_000
