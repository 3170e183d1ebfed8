"""The promises of `KeyValue`."""

import asyncio

import pytest

from lucid_events.errors import ContractError, VersionConflict
from tests.contract.bundle import Ports, Run


async def scan(ports: Ports, pattern: str, after: int = 0, limit: int = 100) -> list[tuple[str, bytes]]:
    """Return the (key, value) pairs of one page."""
    return [(key, value) async for key, value, _ in ports.kv.scan(pattern, after=after, limit=limit)]


def test_a_value_is_read_as_put(run: Run) -> None:
    """A value comes back with the revision its put returned; an unknown key is None."""

    @run
    async def _(ports: Ports) -> None:
        assert await ports.kv.get("a.b") is None
        revision = await ports.kv.put("a.b", b"\x00\xff")
        assert await ports.kv.get("a.b") == (b"\x00\xff", revision)
        second = await ports.kv.put("a.b", b"")
        assert second > revision
        assert await ports.kv.get("a.b") == (b"", second)


def test_create_only(run: Run) -> None:
    """Revision 0 writes only where nothing is."""

    @run
    async def _(ports: Ports) -> None:
        await ports.kv.put("a", b"1", revision=0)
        with pytest.raises(VersionConflict):
            await ports.kv.put("a", b"2", revision=0)
        found = await ports.kv.get("a")
        assert found is not None
        assert found[0] == b"1"


def test_compare_and_set(run: Run) -> None:
    """A guarded write succeeds at its revision and is a conflict at any other."""

    @run
    async def _(ports: Ports) -> None:
        first = await ports.kv.put("a", b"1")
        await ports.kv.put("b", b"x")
        second = await ports.kv.put("a", b"2", revision=first)
        for wrong in (first, second + 1):
            with pytest.raises(VersionConflict):
                await ports.kv.put("a", b"3", revision=wrong)
        with pytest.raises(VersionConflict):
            await ports.kv.put("absent", b"3", revision=first)
        assert await ports.kv.get("a") == (b"2", second)


def test_of_racing_writes_one_wins(run: Run) -> None:
    """Of writes that race on one revision exactly one is stored."""

    @run
    async def _(ports: Ports) -> None:
        revision = await ports.kv.put("a", b"start")
        outcomes = await asyncio.gather(
            *(ports.kv.put("a", b"%d" % i, revision=revision) for i in range(10)), return_exceptions=True
        )
        winners = [(b"%d" % i, o) for i, o in enumerate(outcomes) if isinstance(o, int)]
        assert len(winners) == 1
        assert sum(isinstance(o, VersionConflict) for o in outcomes) == 9
        assert await ports.kv.get("a") == winners[0]


def test_many_are_written_all_or_none(run: Run) -> None:
    """Of several writes in one call either all are stored, or none."""

    @run
    async def _(ports: Ports) -> None:
        a = await ports.kv.put("a", b"1")
        b = await ports.kv.put("b", b"1")
        last = await ports.kv.put_many([("a", b"2", a), ("b", None, b), ("c", b"2", 0), ("d", b"2", None)])
        assert await scan(ports, ">") == [("a", b"2"), ("c", b"2"), ("d", b"2")]
        found = await ports.kv.get("d")
        assert found == (b"2", last)
        with pytest.raises(VersionConflict):
            await ports.kv.put_many([("a", b"3", None), ("e", b"3", 0), ("c", b"3", 0)])
        assert await scan(ports, ">") == [("a", b"2"), ("c", b"2"), ("d", b"2")]


def test_one_of_many_is_written(run: Run) -> None:
    """A call with a single entry writes, deletes and guards like one with several."""

    @run
    async def _(ports: Ports) -> None:
        revision = await ports.kv.put_many([("a", b"1", 0)])
        assert await ports.kv.get("a") == (b"1", revision)
        with pytest.raises(VersionConflict):
            await ports.kv.put_many([("a", None, revision + 5)])
        await ports.kv.put_many([("a", None, revision)])
        assert await ports.kv.get("a") is None


def test_deleted_is_absent(run: Run) -> None:
    """A deleted key is None, in no scan, and revision 0 writes it again."""

    @run
    async def _(ports: Ports) -> None:
        first = await ports.kv.put("a", b"1")
        await ports.kv.put_many([("a", None, None)])
        assert await ports.kv.get("a") is None
        assert await scan(ports, ">") == []
        with pytest.raises(VersionConflict):
            await ports.kv.put("a", b"2", revision=first)
        again = await ports.kv.put("a", b"2", revision=0)
        assert await ports.kv.get("a") == (b"2", again)


@pytest.mark.parametrize("key", ["", "a b", "a.*", ">", ".a", "a.", "a..b", "é", "a\n"])
def test_a_key_is_checked(run: Run, key: str) -> None:
    """A key that could not be a subject, or would be a wildcard, is refused before anything is sent."""

    @run
    async def _(ports: Ports) -> None:
        with pytest.raises(ContractError):
            await ports.kv.put(key, b"")
        with pytest.raises(ContractError):
            await ports.kv.get(key)
        with pytest.raises(ContractError):
            await ports.kv.put_many([("fine", b"", None), (key, None, None)])
        assert await scan(ports, ">") == []


def test_scan_matches_as_subjects_do(run: Run) -> None:
    """`*` stands for one token, `>` for the rest; a literal key matches itself."""

    @run
    async def _(ports: Ports) -> None:
        for key in ("s.a", "s.b", "s.a.x", "t.a", "st.a"):
            await ports.kv.put(key, key.encode())
        assert [key for key, _ in await scan(ports, "s.*")] == ["s.a", "s.b"]
        assert [key for key, _ in await scan(ports, "s.>")] == ["s.a", "s.b", "s.a.x"]
        assert [key for key, _ in await scan(ports, "*.a")] == ["s.a", "t.a", "st.a"]
        assert await scan(ports, "t.a") == [("t.a", b"t.a")]
        assert await scan(ports, "u.>") == []


def test_scan_pages_from_the_oldest_write(run: Run) -> None:
    """Pages begin behind a revision, hold up to `limit` live keys, and follow the order of last writes."""

    @run
    async def _(ports: Ports) -> None:
        for i in range(10):
            await ports.kv.put(f"k.{i}", b"")
        await ports.kv.put("k.0", b"new")
        await ports.kv.put_many([("k.3", None, None)])
        order: list[str] = []
        after = 0
        while page := [one async for one in ports.kv.scan("k.*", after=after, limit=4)]:
            order += [key for key, _, _ in page]
            assert len(page) <= 4
            after = page[-1][2]
        assert order == [f"k.{i}" for i in (1, 2, 4, 5, 6, 7, 8, 9, 0)]


def test_a_page_is_full_although_keys_were_deleted(run: Run) -> None:
    """Deleted keys use up no place on a page, so a short page is the last."""

    @run
    async def _(ports: Ports) -> None:
        for i in range(30):
            await ports.kv.put(f"k{i}", b"")
        await ports.kv.put_many([(f"k{i}", None, None) for i in range(20)])
        await ports.kv.put("last", b"")
        assert [key for key, _ in await scan(ports, ">", limit=5)] == [f"k{i}" for i in range(20, 25)]
        assert len(await scan(ports, ">", limit=50)) == 11
