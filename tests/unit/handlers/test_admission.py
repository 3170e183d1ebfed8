"""How many sessions may be open: never refused below the limit, never more than it in one process."""

import asyncio

import pytest

from lucid_events.domain.ids import SessionId
from lucid_events.errors import CommandRejected, StoreUnavailable
from lucid_events.handlers.admission import CODE, MAX_AGE_S, SHOWN_AFTER_S, Admission


class Index:
    """The open sessions as the index has them, which may be behind."""

    def __init__(self, *sessions: str) -> None:
        self.sessions = {SessionId(one) for one in sessions}
        self.asked = 0
        self.now = 0.0

    async def open(self, most: int) -> set[SessionId]:
        self.asked += 1
        found = set(sorted(self.sessions)[:most])
        await asyncio.sleep(0)  # others run while the server is asked
        return found

    def admission(self, limit: int) -> Admission:
        return Admission(self.open, limit, clock=lambda: self.now)


async def create(admission: Admission, session: str) -> bool:
    """Whether the session was let in."""
    try:
        async with admission.room(SessionId(session)):
            await asyncio.sleep(0)
    except CommandRejected as exc:
        return exc.fields["reason"] != CODE
    return True


def test_one_process_never_exceeds_the_limit() -> None:
    """A burst of creates gets exactly the places there are, although the index knows none of them yet."""

    async def main() -> None:
        admission = Index("a", "b").admission(10)
        made = await asyncio.gather(*(create(admission, f"s{number}") for number in range(50)))
        assert sum(made) == 8

    asyncio.run(main())


def test_two_hundred_sessions_are_legal() -> None:
    """The limit is the setting's, not a round number of ours."""

    async def main() -> None:
        admission = Index().admission(200)
        made = [await create(admission, f"s{number}") for number in range(201)]
        assert made == [True] * 200 + [False]

    asyncio.run(main())


def test_a_place_is_free_as_soon_as_the_index_says_so() -> None:
    """A refusal is given on a fresh count only: a session that has ended makes room at once."""

    async def main() -> None:
        index = Index("a")
        admission = index.admission(1)
        assert not await create(admission, "b")
        index.sessions.clear()
        assert await create(admission, "b")

    asyncio.run(main())


def test_a_create_that_failed_keeps_no_place() -> None:
    """What was not created does not count."""

    async def main() -> None:
        admission = Index().admission(1)
        with pytest.raises(StoreUnavailable):
            async with admission.room(SessionId("a")):
                raise StoreUnavailable("away")
        assert await create(admission, "b")

    asyncio.run(main())


def test_a_session_created_again_needs_no_second_place() -> None:
    """A repeated create of a session that is open is not refused for its own sake."""

    async def main() -> None:
        admission = Index("a").admission(1)
        assert await create(admission, "a")
        assert not await create(admission, "b")

    asyncio.run(main())


def test_counts_are_kept_for_a_moment() -> None:
    """A burst asks the server once, not once for each create."""

    async def main() -> None:
        index = Index()
        admission = index.admission(100)
        for number in range(20):
            assert await create(admission, f"s{number}")
        assert index.asked == 1
        index.now += MAX_AGE_S + 0.1
        assert await create(admission, "late")
        assert index.asked == 2

    asyncio.run(main())


def test_what_never_shows_up_is_forgotten() -> None:
    """A session that came and went between two counts gives its place back after a while."""

    async def main() -> None:
        index = Index()
        admission = index.admission(1)
        assert await create(admission, "short")
        assert not await create(admission, "next")
        index.now += SHOWN_AFTER_S + 0.1
        assert await create(admission, "next")

    asyncio.run(main())
