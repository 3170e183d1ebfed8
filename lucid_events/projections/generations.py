"""Which generations of a projection's views there are, and which is read: one small value.

    candidate ──switch──> live ──switch or rollback──> previous ──drop──> gone

Every change is one compare-and-set. Numbers are never given twice, so a bucket's name always means the
same views.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from lucid_events import codec
from lucid_events.domain.values import Fact
from lucid_events.errors import CommandRejected, NotFound, VersionConflict
from lucid_events.ports import KeyValue

FIRST = 1
"""The generation that is live while nothing is written down."""
NAMED = 9
"""Generations up to this one can be read by the roles of `deploy/nats/roles.conf`, which name each."""
SCRATCH = 1000
"""Above this are views that are only built to be compared, so that these don't use numbers up."""


class Built(Fact, frozen=True, kw_only=True):
    """A generation beside the live one: `version` is the projection's that fills it.

    `whole` once everything that was in the log when its building began is in it.
    """

    generation: int
    version: int
    whole: bool = True


class Live(Fact, frozen=True, kw_only=True):
    """The live generation, the projection's version that fills it, and those beside it.

    `previous` was live before and stays for a way back; `candidate` may be live next. `last` is the
    highest number given to one of these so far, `scratch` that given to views nobody reads.
    """

    generation: int
    version: int
    previous: Built | None = None
    candidate: Built | None = None
    last: int = FIRST
    scratch: int = SCRATCH

    def all(self) -> Iterator[Built]:
        """Yield every generation, the live one first."""
        yield Built(generation=self.generation, version=self.version)
        yield from (one for one in (self.previous, self.candidate) if one is not None)


class Generations:
    """The generations of the projection `name`.

    Every change raises VersionConflict when somebody else was faster, and StoreUnavailable when nothing
    was changed.
    """

    def __init__(self, meta: KeyValue, name: str) -> None:
        self._meta, self._key = meta, f"view.{name}"

    async def live(self) -> Live:
        """Return which generation is read, and which are beside it; may be a replica's answer."""
        return (await self._read())[0]

    async def reserve(self) -> int:
        """Give out the next number, for views that nobody fills or reads: a rebuild that only compares."""
        now, revision = await self._read()
        number = now.scratch + 1
        await self._write(replace(now, scratch=number), revision)
        return number

    async def begin(self, *, version: int) -> Built:
        """Give out the next number, for a candidate that is to be built by `version` of the projection.

        Raises:
            CommandRejected: there is a candidate already.
        """
        now, revision = await self._read()
        if now.candidate is not None:
            raise CommandRejected(
                f"generation {now.candidate.generation} is being built, or built, already: "
                f"switch to it, or drop it (lucid projections drop {now.candidate.generation})",
                reason="candidate_exists",
            )
        number = max(now.last, now.generation) + 1
        made = Built(generation=number, version=version, whole=False)
        await self._write(replace(now, candidate=made, last=number), revision)
        return made

    async def built(self, generation: int) -> Built:
        """Say that the candidate `generation` holds everything that was in the log when it was begun.

        Raises:
            NotFound: it is not the candidate (any more).
        """
        now, revision = await self._read()
        if now.candidate is None or now.candidate.generation != generation:
            raise NotFound(f"generation {generation} is no candidate any more: it was dropped meanwhile")
        whole = replace(now.candidate, whole=True)
        if whole != now.candidate:
            await self._write(replace(now, candidate=whole), revision)
        return whole

    async def switch(self, to: int, *, expected: int) -> Live:
        """Let readers read generation `to` from now on; the one before is kept, and still filled.

        To the generation kept, it is the way back: the two change places.

        Raises:
            VersionConflict: generation `expected` is not the live one (any more).
            NotFound: there is no generation `to`.
            CommandRejected: it is not whole yet, or a generation is kept that has to be dropped first.
        """
        now, revision = await self._read()
        if now.generation == to:
            return now  # a repeat whose first reply was lost
        if now.generation != expected:
            raise VersionConflict(
                f"generation {now.generation} is live, not {expected}: compare with it, then switch to {to}",
                expected=expected,
                actual=now.generation,
            )
        before = Built(generation=now.generation, version=now.version)
        if now.previous is not None and now.previous.generation == to:
            after = replace(now, generation=to, version=now.previous.version, previous=before)
        else:
            candidate = _candidate(now, to)
            after = replace(now, generation=to, version=candidate.version, previous=before, candidate=None)
        await self._write(after, revision)
        return after

    async def drop(self, generation: int) -> bool:
        """Forget a generation beside the live one; returns whether it was known.

        Raises:
            CommandRejected: it is the live one.
        """
        now, revision = await self._read()
        if now.generation == generation:
            raise CommandRejected(
                f"generation {generation} is live: switch to another one before it is dropped",
                reason="live",
            )
        if now.previous is not None and now.previous.generation == generation:
            after = replace(now, previous=None)
        elif now.candidate is not None and now.candidate.generation == generation:
            after = replace(now, candidate=None)
        else:
            return False
        await self._write(after, revision)
        return True

    async def _write(self, live: Live, revision: int) -> None:
        await self._meta.put(self._key, codec.encode(live), revision=revision)

    async def _read(self) -> tuple[Live, int]:
        found = await self._meta.get(self._key)
        if found is None:
            return Live(generation=FIRST, version=1), 0
        return codec.decode(found[0], Live), found[1]


def _candidate(now: Live, to: int) -> Built:
    if now.candidate is None or now.candidate.generation != to:
        known = ", ".join(str(one.generation) for one in now.all())
        raise NotFound(f"there is no generation {to} to switch to: there are {known}")
    if not now.candidate.whole:
        raise CommandRejected(
            f"generation {to} is not whole: wait for its rebuild, or drop it and rebuild again",
            reason="not_whole",
        )
    if now.previous is not None:
        raise CommandRejected(
            f"generation {now.previous.generation} is kept for a way back: drop it first "
            f"(lucid projections drop {now.previous.generation})",
            reason="previous_exists",
        )
    return now.candidate
