"""given(events).when(command).then(events): the only way the decider is tested."""

from datetime import UTC, datetime, timedelta

from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.decider import Decision, decide
from lucid_events.domain.decisions import Needs, Rejected, Repeated
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import NO_DIGEST, CommandId, Digest, Sequence, SessionId, event_id
from lucid_events.domain.legality import violations
from lucid_events.domain.outside import CaptureTail, Leftover, Salvage
from lucid_events.domain.state import Session, evolve, initial
from lucid_events.domain.values import Manifest, Quality, RetentionLimits, SessionSettings

SID = SessionId("s1")
T0 = datetime(2026, 1, 1, tzinfo=UTC)
SHA = "ab" * 32
EMPTY_MANIFEST = Manifest(
    version=1, chunks=0, raw_bytes=0, stored_bytes=0, end_offset=0, merkle_root=SHA, chain_head=SHA, events=0
)


def recorded(
    event: ev.SessionEvent, sequence: int, *, cause: str = "", at: datetime | None = None
) -> Recorded:
    """An event as the log would give it back."""
    cause = cause or f"cause-{sequence}"
    when = at or T0 + timedelta(seconds=sequence)
    return Recorded(
        id=event_id(SID, cause, 0),
        session=SID,
        event=event,
        type=event.type,
        time=when,
        cause=cause,
        correlation=cause,
        actor="test",
        sequence=Sequence(sequence),
        stored_at=when,
        prev=NO_DIGEST,
        digest=Digest(SHA),
    )


def fold(history: list[Recorded]) -> Session:
    """The session a history adds up to."""
    session = initial(SID)
    for event in history:
        session = evolve(session, event)
    return session


class When:
    """A decision that was made, to be held against what is expected."""

    def __init__(self, history: list[Recorded], decision: Decision) -> None:
        self.history, self.decision = history, decision

    def then(self, *events: ev.SessionEvent) -> "Given":
        """Exactly these events came of it, and they make a legal history."""
        assert self.decision == list(events)
        given = Given(*self.history, *events)
        assert list(violations(given.history)) == []
        return given

    def nothing(self) -> None:
        """It was accepted and had nothing to do."""
        assert self.decision == []

    def rejected(
        self, code: str, *, allowed: tuple[str, ...] | None = None, field: str | None = None
    ) -> None:
        """The rules refused it, for this reason."""
        assert isinstance(self.decision, Rejected), self.decision
        assert self.decision.code == code, self.decision
        if allowed is not None:
            assert self.decision.allowed == allowed
        if field is not None:
            assert self.decision.field == field

    def needs(self, **facts: object) -> None:
        """It could not be decided without these facts."""
        assert self.decision == Needs(**facts)  # type: ignore[arg-type] # the test names the facts

    def repeats(self, version: int) -> None:
        """The command had taken effect before, at this version."""
        assert isinstance(self.decision, Repeated)
        assert self.decision.first.version == version


class Given:
    """A history, one event a sequence, from 1."""

    def __init__(self, *events: ev.SessionEvent | Recorded) -> None:
        self.history = [
            event if isinstance(event, Recorded) else recorded(event, number)
            for number, event in enumerate(events, 1)
        ]

    @property
    def session(self) -> Session:
        """What it adds up to."""
        return fold(self.history)

    def when(
        self,
        command: cmd.Command | cmd.InternalCommand,
        *,
        id: str = "c1",
        at: datetime | None = None,
        issued_at: datetime | None = None,
        timed: bool = True,
        salvage: Salvage | None = None,
        alive: bool | None = None,
        tail: CaptureTail | None = None,
        manifest: Manifest | None = None,
        stored: bool | None = None,
        defaults: SessionSettings | None = None,
        limits: RetentionLimits | None = None,
    ) -> When:
        """Ask the decider."""
        now = at or T0 + timedelta(hours=1)
        asked = cmd.Asked(
            session=SID,
            id=CommandId(id),
            command=command,
            at=now,
            issued_at=(issued_at or now) if timed else None,
            actor="test",
            salvage=salvage,
            alive=alive,
            tail=tail,
            manifest=manifest,
            stored=stored,
            defaults=defaults or SessionSettings(),
            limits=limits or RetentionLimits(),
        )
        return When(self.history, decide(asked, self.session))


def created(**settings: object) -> ev.SessionCreated:
    """The session exists."""
    return ev.SessionCreated(settings=SessionSettings(**settings))  # type: ignore[arg-type] # the test names them


def attached(
    epoch: int = 1,
    offset: int = 0,
    *,
    takeover: bool = False,
    recorder: str = "r1",
    resumable: bool = False,
) -> ev.RecorderAttached:
    """A recorder owns the intake."""
    return ev.RecorderAttached(
        epoch=epoch, recorder=recorder, offset=offset, takeover=takeover, resumable=resumable
    )


def active() -> list[ev.SessionEvent]:
    """A session whose recorder is attached."""
    return [created(), ev.SessionStarted(), attached()]


def sealed(
    index: int, offset: int, size: int, *, n: int | None = None, epoch: int = 1, **more: object
) -> ev.ChunkSealed:
    """A chunk whose boundary is final."""
    fields: dict[str, object] = {
        "index": index,
        "epoch": epoch,
        "n": index if n is None else n,
        "offset": offset,
        "size": size,
        "sha256": SHA,
        "first_seq": 1,
        "last_seq": 9,
        "started_at": T0,
        "ended_at": T0,
        "cut": "size",
    }
    return ev.ChunkSealed(**(fields | more))  # type: ignore[arg-type] # as above


def seal(n: int, offset: int, size: int, *, epoch: int = 1, sha256: str = SHA, cut: str = "size") -> cmd.Seal:
    """The request to seal a chunk."""
    return cmd.Seal(
        epoch=epoch,
        n=n,
        offset=offset,
        size=size,
        sha256=sha256,
        first_seq=1,
        last_seq=9,
        started_at=T0,
        ended_at=T0,
        cut=cut,  # type: ignore[arg-type] # as above
    )


def stored(index: int, offset: int, size: int, sha256: str = SHA) -> cmd.ChunkStored:
    """The chunk handler reports a chunk."""
    return cmd.ChunkStored(
        index=index,
        offset=offset,
        size=size,
        stored_size=size,
        sha256=sha256,
        stored_sha256=SHA,
        codec="store",
        level=None,
        ratio=1.0,
        quality=Quality(score=1.0, complete=1.0),
        hash_by="recorder",
        bucket="b",
        object="o",
    )


def ready(index: int, offset: int, size: int) -> ev.ChunkReady:
    """A chunk is stored and verified."""
    command = stored(index, offset, size)
    return ev.ChunkReady(**{name: getattr(command, name) for name in command.__struct_fields__})


def leftover(n: int, offset: int, size: int) -> Leftover:
    """Bytes a gone recorder left in capture."""
    return Leftover(
        n=n, offset=offset, size=size, sha256=SHA, first_seq=1, last_seq=9, started_at=T0, ended_at=T0
    )


def tail(n: int, end: int, *, epoch: int = 1, sha256: str = SHA) -> CaptureTail:
    """The capture message a seal names as its last."""
    return CaptureTail(found=True, epoch=epoch, n=n, end=end, sha256=sha256)
