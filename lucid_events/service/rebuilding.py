"""Building the status views anew beside the live ones, comparing the two, and changing over.

    begin ──> bucket and consumer of N+1 ──> fold the log ──> whole ──> compare ──> switch ──> drop N
              the live projectors fill both from here on, until one is dropped

Nothing a rebuild does is seen by readers before the switch, and it sets nothing off outside its bucket.
"""

import asyncio
import time

from lucid_events.domain.values import Fact
from lucid_events.errors import CommandRejected, ConfigError, IntegrityError, LucidError, NotFound, NotReady
from lucid_events.jetstream import topology
from lucid_events.jetstream.definitions import TopologySettings
from lucid_events.ports import Position
from lucid_events.projections.comparison import Comparison, Difference, compare
from lucid_events.projections.generations import FIRST, Generations, Live
from lucid_events.projections.live_views import KEPT_S
from lucid_events.projections.rebuild import Rebuild, Rebuilt
from lucid_events.projections.status import StatusProjection
from lucid_events.projections.views import StatusViews
from lucid_events.service.adapters import Adapters, current_topology
from lucid_events.service.projecting import LOOK_S

LEAVE_S = 1.5 * max(LOOK_S, KEPT_S)
"""Between forgetting a generation and deleting it: by then no worker writes to it and no reader knows it."""
CATCH_UP_S = 30.0
"""How long a switch waits for the other generation to have everything the log has. Half may not do on a
busy service; twice only delays the answer that nobody fills it."""
CATCH_UP_LOOK_S = 0.1
"""Between two looks at how far it is."""


class RebuildReport(Fact, frozen=True, kw_only=True):
    """What was built and how it compares; `generation` is the one the fresh views are in.

    `different` sessions differ, of which the first are in `differences`.
    """

    generation: int
    events: int
    strays: int
    sessions: int
    seconds: float
    different: int
    differences: tuple[Difference, ...]


class GenerationReport(Fact, frozen=True, kw_only=True):
    """One generation: `role` is live, previous, candidate or leftover; `behind` what it has yet to apply.

    None of `behind` means that its consumer does not exist. A leftover is a bucket that nobody reads or
    fills: of a rebuild that runs now, or of one that was killed; its `version` is not known.
    """

    generation: int
    version: int | None
    role: str
    whole: bool
    bucket: str
    consumer: str
    behind: int | None


async def rebuild_status(adapters: Adapters) -> RebuildReport:
    """Fold the log into a generation of its own, compare it with the live one, and drop it again.

    The live views go on meanwhile and are not touched; readers are not switched. Nobody else knows of
    that generation. One of a process that was killed is listed, and stays until `drop`.

    Raises:
        ContractError: an event can't be decoded by this version.
    """
    generations = _generations(adapters)
    began = time.perf_counter()
    number = await generations.reserve()
    try:
        done = await _fill(adapters, number, await adapters.store.last_position(), follow=False)
        seconds = time.perf_counter() - began
        compared = await _compare(adapters, (await generations.live()).generation, number)
    finally:
        gone = topology.delete_generation(adapters.connection, adapters.subjects, generation=number)
        await asyncio.shield(gone)
    return _report(number, done, seconds, compared)


async def build(adapters: Adapters) -> RebuildReport:
    """Fold the log into the next generation, compare it with the live one, and leave it as a candidate.

    From the beginning on the live projectors fill both, so the candidate is as new as the live one when
    it is whole. A candidate of an interrupted build is dropped first; one that is whole is in the way.

    Raises:
        CommandRejected: a candidate is there already.
        ContractError: an event can't be decoded by this version.
    """
    generations = _generations(adapters)
    unfinished = (await generations.live()).candidate
    if unfinished is not None and not unfinished.whole:
        await drop(adapters, unfinished.generation)
    began = time.perf_counter()
    made = await generations.begin(version=StatusProjection.version)
    try:
        done = await _fill(adapters, made.generation, await adapters.store.last_position(), follow=True)
    except LucidError:
        await drop(adapters, made.generation)  # or workers would go on filling what nobody can switch to
        raise
    await generations.built(made.generation)
    seconds = time.perf_counter() - began
    return _report(made.generation, done, seconds, await compare_with_live(adapters, made.generation))


async def fill_first(adapters: Adapters, settings: TopologySettings) -> Rebuilt:
    """Make the first generation out of the whole log, for a server that has no views.

    Its consumer goes on behind what was folded.

    Raises:
        ContractError: an event can't be decoded by this version.
    """
    position = await adapters.store.last_position()
    return await _fill(adapters, FIRST, position, follow=True, settings=settings)


async def compare_with_live(adapters: Adapters, generation: int) -> Comparison:
    """Compare every view of `generation` with the live one, each at the same position."""
    live = await _generations(adapters).live()
    _known(live, generation)
    return await _compare(adapters, live.generation, generation)


async def switch(
    adapters: Adapters, generation: int, *, accept_differences: bool = False, within_s: float = CATCH_UP_S
) -> Live:
    """Let readers read `generation`, once it is as far as the log is now and equals the live one.

    Args:
        accept_differences: it may say something else, because its fold is a new version.

    Raises:
        IntegrityError: its views differ from the live ones; nothing was switched.
        NotReady: nobody fills it, or not fast enough; nothing was switched.
        NotFound, CommandRejected, VersionConflict: see `Generations.switch`.
    """
    generations = _generations(adapters)
    live = await generations.live()
    if live.generation == generation:
        return live
    _known(live, generation)
    await _caught_up(adapters, generation, within_s)
    back = live.previous is not None and live.previous.generation == generation
    if not accept_differences and not back:
        compared = await compare_with_live(adapters, generation)
        if not compared.same:
            first = compared.differences[0]
            raise IntegrityError(
                f"{compared.different} views of generation {generation} differ from the live ones, the first "
                f"that of {first.session_id} in {', '.join(first.fields)}: look with lucid projections "
                "compare, or accept them when the fold is meant to say something else "
                "(--accept-differences)",
                session=first.session_id,
                actual=compared.different,
            )
        await _caught_up(adapters, generation, within_s)
    return await generations.switch(generation, expected=live.generation)


async def rollback(adapters: Adapters, *, within_s: float = CATCH_UP_S) -> Live:
    """Let readers read the generation that was live before; raises like `switch`."""
    live = await _generations(adapters).live()
    if live.previous is None:
        raise CommandRejected(
            f"no generation is kept beside {live.generation}: there is no way back, rebuild instead",
            reason="no_previous",
        )
    return await switch(adapters, live.previous.generation, within_s=within_s)


async def drop(adapters: Adapters, generation: int, *, leave_s: float = LEAVE_S) -> None:
    """Delete a generation beside the live one, bucket and consumer; leftovers of an interrupted drop too.

    Raises:
        CommandRejected: it is the live one.
        NotFound: there is nothing of it.
    """
    known = await _generations(adapters).drop(generation)
    if known:
        await asyncio.sleep(leave_s)
    deleted = await topology.delete_generation(adapters.connection, adapters.subjects, generation=generation)
    if not known and not deleted:
        raise NotFound(f"there is no generation {generation}: see lucid projections list")


async def list_generations(adapters: Adapters) -> list[GenerationReport]:
    """Return every generation, the live one first, leftovers last."""
    buckets = await topology.generations(adapters.connection, adapters.subjects)
    live = await _generations(adapters).live()
    found = []
    for one in live.all():
        role = "live" if one.generation == live.generation else "candidate"
        if live.previous is not None and one.generation == live.previous.generation:
            role = "previous"
        found.append(
            GenerationReport(
                generation=one.generation,
                version=one.version,
                role=role,
                whole=one.whole,
                bucket=adapters.subjects.status_bucket(one.generation),
                consumer=adapters.subjects.status_consumer(one.generation),
                behind=await _behind(adapters, one.generation),
            )
        )
    known = {one.generation for one in found}
    for number in sorted(set(buckets) - known):
        found.append(
            GenerationReport(
                generation=number,
                version=None,
                role="leftover",
                whole=False,
                bucket=adapters.subjects.status_bucket(number),
                consumer=adapters.subjects.status_consumer(number),
                behind=await _behind(adapters, number),
            )
        )
    return found


async def _fill(
    adapters: Adapters,
    generation: int,
    position: Position,
    *,
    follow: bool,
    settings: TopologySettings | None = None,
) -> Rebuilt:
    """Fold the log into a new bucket; `follow` lets the projectors go on behind `position`."""
    await topology.create_generation(
        adapters.connection,
        adapters.subjects,
        settings or await current_topology(adapters),
        generation=generation,
        after=position.sequence if follow else None,
    )
    projection = StatusProjection(adapters.subjects.events_stream, position.incarnation)
    return await Rebuild(projection, adapters.store, _views(adapters, generation), clock=adapters.clock).run()


async def _compare(adapters: Adapters, live: int, fresh: int) -> Comparison:
    position = await adapters.store.last_position()
    projection = StatusProjection(adapters.subjects.events_stream, position.incarnation)
    views = _views(adapters, live), _views(adapters, fresh)
    return await compare(projection, adapters.store, *views, clock=adapters.clock)


async def _caught_up(adapters: Adapters, generation: int, within_s: float) -> None:
    target = (await adapters.store.last_position()).sequence
    until = time.monotonic() + within_s
    while (behind := await _behind(adapters, generation, upto=target)) != 0:
        if behind is None or time.monotonic() > until:
            raise NotReady(
                f"generation {generation} has yet to apply {behind or 'all'} messages of the log "
                f"up to {target} after {within_s:g} s: are workers of the release running that fills it?",
                position=target,
            )
        await asyncio.sleep(CATCH_UP_LOOK_S)


async def _behind(adapters: Adapters, generation: int, *, upto: int | None = None) -> int | None:
    """Return how many messages it has yet to apply; 0 also when it has all up to `upto`."""
    stream, name = adapters.subjects.events_stream, adapters.subjects.status_consumer(generation)
    try:
        info = await adapters.connection.api(f"CONSUMER.INFO.{stream}.{name}")
    except ConfigError:
        return None
    if upto is not None and int(info["ack_floor"]["stream_seq"]) >= upto:
        return 0
    return int(info["num_pending"]) + int(info["num_ack_pending"])


def _known(live: Live, generation: int) -> None:
    if generation not in {one.generation for one in live.all()}:
        known = ", ".join(str(one.generation) for one in live.all())
        raise NotFound(f"there is no generation {generation}: there are {known}")


def _generations(adapters: Adapters) -> Generations:
    return Generations(adapters.meta, StatusProjection.name)


def _views(adapters: Adapters, generation: int) -> StatusViews:
    return StatusViews(adapters.kv(adapters.subjects.status_bucket(generation)))


def _report(generation: int, done: Rebuilt, seconds: float, compared: Comparison) -> RebuildReport:
    return RebuildReport(
        generation=generation,
        events=done.events,
        strays=done.strays,
        sessions=compared.sessions,
        seconds=seconds,
        different=compared.different,
        differences=compared.differences,
    )
