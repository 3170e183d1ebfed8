"""All handlers and projections of one process: built, started, watched, stopped in order.

Each part runs until `stop`; what one of them can't survive ends the process, because a service
that silently lacks a part is worse than one that is restarted.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from pathlib import Path

from lucid_events.compression import ByteBudget, CompressionStatistics, Compressor
from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import ENDED, OPEN, UNDER_WAY, State
from lucid_events.domain.values import MIB
from lucid_events.errors import ConfigError, LucidError
from lucid_events.handlers.admission import Admission
from lucid_events.handlers.advisories import Advisories
from lucid_events.handlers.attempts import Attempts
from lucid_events.handlers.base import Checkpoint, Decisions, Reaction, no_checkpoint
from lucid_events.handlers.chunks import ChunkHandler
from lucid_events.handlers.commands import CommandHandler
from lucid_events.handlers.copies import ChunkCopies
from lucid_events.handlers.dead_letters import Pointer, set_aside
from lucid_events.handlers.deadlines import Deadlines, Timeouts
from lucid_events.handlers.due import DueTimers
from lucid_events.handlers.endpoint import Endpoints
from lucid_events.handlers.eraser import Eraser
from lucid_events.handlers.execution import Execution
from lucid_events.handlers.facts import Facts
from lucid_events.handlers.finaliser import Finaliser
from lucid_events.handlers.histories import Histories
from lucid_events.handlers.queued import QueuedCommands
from lucid_events.handlers.reconcile import Reconciliation
from lucid_events.handlers.requests import Identify, identify_nobody
from lucid_events.handlers.retention import Periods, RetentionTimes, arm_missing
from lucid_events.handlers.runner import Runner
from lucid_events.handlers.stages import MeasuredFinish
from lucid_events.handlers.vouching import voucher_of
from lucid_events.measures import ProcessMeasures
from lucid_events.ports import Delivery, Inbox
from lucid_events.projections.checkpoints import Checkpoints
from lucid_events.service.adapters import Adapters
from lucid_events.service.indexes import live_index
from lucid_events.service.pools import chunk_stages, compression_threads, limits_of
from lucid_events.service.projecting import StatusProjectors
from lucid_events.service.returned import ReturnedCapture
from lucid_events.service.scrubbing import Scrub
from lucid_events.service.signing import ManifestSigner
from lucid_events.service.witnessing import check_witnessed, witness

_log = logging.getLogger(__name__)

REACTIONS = (
    "commands",
    "queue",
    "chunks",
    "finaliser",
    "deadlines",
    "retention",
    "due",
    "eraser",
    "advisories",
    "status",
)
"""Parts a worker may run: `commands` answers requests and beats, `queue` durable commands."""

SWITCHED = {"witness": "LUCID_CHECKPOINT_INTERVAL", "scrub": "LUCID_SCRUB_INTERVAL"}
"""Parts that run only when the setting says how often: `witness` makes checkpoints of the log, `scrub`
verifies stored chunks."""

PARTS = (*REACTIONS, *SWITCHED)

STORING_PARTS = ("chunks", "finaliser")
"""Parts that carry out the stages from `chunk_generation` on."""

RECONCILE_AGAIN_S = 5.0
"""Pause before timers are looked at again when the server did not answer. Half asks a server that is just
coming up twice as often; twice leaves a lost recorder unnoticed for longer."""


class Workers:
    """The parts named in `only` (all when it is empty), on one set of adapters.

    Args:
        checkpoint: called between the steps of chunk handler and eraser and around acks; for fault tests.
        measures: is told what the work takes; the process's own, when several things of it work.

    Raises:
        ConfigError: `only` names an unknown part, or one whose stages are not in `LUCID_STAGES`.
    """

    def __init__(
        self,
        adapters: Adapters,
        *,
        only: Collection[str] = (),
        checkpoint: Checkpoint = no_checkpoint,
        measures: ProcessMeasures | None = None,
    ) -> None:
        unknown = sorted(set(only) - set(PARTS))
        if unknown:
            raise ConfigError(f"unknown parts {', '.join(unknown)}: use some of {', '.join(PARTS)}")
        left_out: tuple[str, ...] = () if adapters.settings.stores_chunks else STORING_PARTS
        if refused := sorted(set(only) & set(left_out)):
            raise ConfigError(f"parts {', '.join(refused)} need stages that LUCID_STAGES leaves out")
        evidence = adapters.settings.evidence
        often = {"witness": evidence.checkpoint_interval_s, "scrub": evidence.scrub_interval_s}
        for part, variable in SWITCHED.items():
            if not often[part]:
                if part in only:
                    raise ConfigError(f"part {part} needs {variable}: how often, in seconds")
                left_out = (*left_out, part)
        self.parts = tuple(part for part in PARTS if (not only or part in only) and part not in left_out)
        self.measures = measures or ProcessMeasures()
        self._adapters, self._checkpoint = adapters, checkpoint
        settings = adapters.settings
        self.statistics = CompressionStatistics(settings.codec, settings.level)
        self.compressor = Compressor(
            workers=compression_threads(settings),
            budget=ByteBudget(settings.stages.compression.memory_mib * MIB),
            statistics=self.statistics,
        )
        self.histories = Histories(adapters.store, adapters.snapshots, clock=adapters.clock)
        facts = Facts(
            adapters.store,
            adapters.capture,
            adapters.beats,
            adapters.clock,
            beat_interval_s=settings.beat_interval_s,
            sign=ManifestSigner(settings.evidence.signing_seed) if settings.evidence.signing_seed else None,
        )
        self.commands = CommandHandler(
            self.histories,
            adapters.store,
            facts,
            adapters.clock,
            defaults=settings.session_defaults,
            limits=settings.retention.limits,
            admission=Admission(self._open, settings.max_sessions),
        )
        self.timeouts = Timeouts(
            start_s=settings.start_timeout_s,
            pause_s=settings.pause_timeout_s,
            stop_s=settings.stop_timeout_s,
            lease_s=settings.lease_s,
        )
        folder = settings.chunk_output
        self._copies = ChunkCopies(Path(folder)) if folder else None
        voucher = voucher_of(settings)
        self._identify: Identify = voucher.identify if voucher else identify_nobody
        self._stopping = asyncio.Event()
        self.runners: dict[str, Runner] = {}
        self.projectors: StatusProjectors | None = None
        self.witness = witness(adapters) if "witness" in self.parts else None
        self.scrub = Scrub(adapters, self.commands) if "scrub" in self.parts else None
        a = adapters
        self.returned = ReturnedCapture(self.histories, a.store, a.capture, a.clock)

    @property
    def adapters(self) -> Adapters:
        """What the workers work with."""
        return self._adapters

    def executions(self) -> dict[str, Execution]:
        """Return every reaction by its consumer's name, for redriving dead letters."""
        subjects = self._adapters.subjects
        return {
            consumer(subjects)[1]: Execution(self._reaction(part), self._decisions(part))
            for part, consumer in _CONSUMERS.items()
        }

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Workers"]:
        """Run the parts for the time of the context; leaving it finishes what is in hand.

        Raises:
            IntegrityError: the log was cut back behind what was seen of it.
            ConfigError: a consumer does not exist: apply the definitions first.
        """
        adapters = self._adapters
        position = await adapters.store.last_position()
        checkpoints = Checkpoints(adapters.meta, adapters.subjects.events_stream, position.incarnation)
        await checkpoints.check(adapters.store.last_position)
        await check_witnessed(adapters, position)
        async with AsyncExitStack() as inboxes, AsyncExitStack() as stack:
            stack.push_async_callback(self.compressor.aclose)
            tasks = await stack.enter_async_context(_stopping(self._stop))
            for name in self.parts:
                if name in _CONSUMERS:
                    stream, consumer = _CONSUMERS[name](adapters.subjects)
                    inbox = await inboxes.enter_async_context(adapters.inbox(stream, consumer))
                    self.runners[name] = self._runner(name, inbox, stream)
                    tasks.create_task(self.runners[name].run(), name=f"lucid-{name}")
            if "status" in self.parts:
                self.projectors = StatusProjectors(
                    adapters, position.incarnation, checkpoints, park=self._park_view
                )
                await self.projectors.check()
                tasks.create_task(self.projectors.run(), name="lucid-status")
            if self.witness is not None:
                tasks.create_task(self.witness.run(), name="lucid-witness")
            if self.scrub is not None:
                tasks.create_task(self.scrub.run(), name="lucid-scrub")
            if "eraser" in self.parts:
                tasks.create_task(self.returned.run(adapters.connection), name="lucid-returned")
            if "due" in self.parts:
                tasks.create_task(self._reconcile(), name="lucid-reconcile")
            if "commands" in self.parts:
                endpoints = Endpoints(
                    self.commands,
                    self.histories,
                    adapters.subjects,
                    adapters.clock,
                    identify=self._identify,
                    measures=self.measures,
                )
                await stack.enter_async_context(endpoints.serve(adapters.server))
            _log.info("workers run", extra={"reason": ", ".join(self.parts)})
            yield self

    def _stop(self) -> None:
        self._stopping.set()
        self.returned.stop()
        for runner in self.runners.values():
            runner.stop()
        if self.projectors is not None:
            self.projectors.stop()
        if self.witness is not None:
            self.witness.stop()
        if self.scrub is not None:
            self.scrub.stop()

    def _reaction(self, name: str) -> Reaction:
        a, s = self._adapters, self._adapters.settings
        makers: dict[str, Callable[[], Reaction]] = {
            "queue": lambda: QueuedCommands(self.commands, a.letters, a.subjects, identify=self._identify),
            "chunks": lambda: ChunkHandler(
                self.histories,
                self.commands,
                a.capture,
                a.chunks,
                self.compressor,
                stages=chunk_stages(s, self.measures),
                copies=self._copies,
                checkpoint=self._checkpoint,
            ),
            "finaliser": lambda: Finaliser(self.histories),
            "deadlines": lambda: Deadlines(a.timers, self.timeouts),
            "due": lambda: DueTimers(
                self.histories,
                a.timers,
                a.capture,
                a.beats,
                a.clock,
                a.subjects,
                self.timeouts,
                Periods(a.timers, a.clock, s.retention.policy, grace_days=s.retention.grace_days),
                beat_interval_s=s.beat_interval_s,
            ),
            "retention": lambda: RetentionTimes(self.histories, a.timers, s.retention.policy),
            "eraser": lambda: Eraser(
                self.histories,
                a.store,
                a.capture,
                a.chunks,
                a.clock,
                bucket=a.bucket,
                copies=self._copies,
                checkpoint=self._checkpoint,
            ),
            "advisories": lambda: Advisories(a.letters, a.clock, a.subjects),
        }
        return makers[name]()

    def _decisions(self, name: str) -> Decisions:
        return MeasuredFinish(self.commands, self.measures) if name == "finaliser" else self.commands

    def _runner(self, name: str, inbox: Inbox, stream: str) -> Runner:
        a = self._adapters
        limits, budget = limits_of(name, a.settings)
        return Runner(
            inbox,
            Execution(self._reaction(name), self._decisions(name)),
            stream=stream,
            letters=a.letters,
            attempts=Attempts(inbox.name, a.meta),
            subjects=a.subjects,
            clock=a.clock,
            budget=budget,
            limits=limits,
            carries=name == "queue",
            checkpoint=self._checkpoint if name == "chunks" else no_checkpoint,
        )

    async def _park_view(self, delivery: Delivery, reason: str) -> None:
        a = self._adapters
        pointer = Pointer(
            stream=a.subjects.events_stream,
            sequence=delivery.sequence,
            subject=delivery.subject,
            consumer="status",
            code="contract",
            reason=reason,
            attempts=delivery.attempt,
            time=a.clock.now(),
        )
        await set_aside(a.letters, a.subjects, pointer)

    async def _reconcile(self) -> None:
        """Arm what is missing, once; while the server does not answer, again."""
        while not self._stopping.is_set():
            try:
                return await self._arm_missing()
            except LucidError as exc:
                _log.warning("timers were not reconciled", extra={"reason": exc.message})
            with suppress(TimeoutError):
                async with asyncio.timeout(RECONCILE_AGAIN_S):
                    await self._stopping.wait()

    async def _arm_missing(self) -> None:
        a = self._adapters
        reconciliation = Reconciliation(self.histories, a.timers, a.clock, self.timeouts)
        made = await reconciliation.run(self._sessions_in(UNDER_WAY))
        ended = self._sessions_in(ENDED)
        kept = await arm_missing(ended, self.histories, a.timers, a.settings.retention.policy)
        if count := len(made.armed) + kept:
            _log.info("missing timers armed", extra={"count": count})

    async def _sessions_in(self, states: Collection[State]) -> AsyncIterator[SessionId]:
        index = await live_index(self._adapters)
        async for session in index.sessions(states):
            yield session

    async def _open(self, most: int) -> set[SessionId]:
        index = await live_index(self._adapters)
        async with aclosing(index.sessions(OPEN)) as sessions:
            found: set[SessionId] = set()
            async for session in sessions:
                found.add(session)
                if len(found) >= most:
                    break
            return found


_CONSUMERS: dict[str, Callable[..., tuple[str, str]]] = {
    "queue": lambda subjects: (subjects.commands_stream, "commands"),
    "chunks": lambda subjects: (subjects.events_stream, "chunks"),
    "finaliser": lambda subjects: (subjects.events_stream, "finaliser"),
    "deadlines": lambda subjects: (subjects.events_stream, "deadlines"),
    "retention": lambda subjects: (subjects.events_stream, "retention"),
    "due": lambda subjects: (subjects.timers_stream, "due"),
    "eraser": lambda subjects: (subjects.events_stream, "eraser"),
    "advisories": lambda subjects: (subjects.advisories_stream, "advisories"),
}
"""Part -> the durable consumer it works on."""


@asynccontextmanager
async def _stopping(stop: Callable[[], None]) -> AsyncIterator[asyncio.TaskGroup]:
    """A task group whose tasks are asked to stop when the context is left in order."""
    async with asyncio.TaskGroup() as tasks:
        yield tasks
        stop()
