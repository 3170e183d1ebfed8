"""No sequence of commands, facts and lost replies brings a session to an illegal history."""

import hashlib
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.decider import Decision, decide
from lucid_events.domain.decisions import Needs, Rejected, Repeated
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import CommandId
from lucid_events.domain.legality import check
from lucid_events.domain.outside import CaptureTail, Salvage
from lucid_events.domain.state import Session, evolve, initial
from lucid_events.domain.transitions import ERASING
from lucid_events.domain.values import Manifest, Retention, RetentionAsked, SettingsAsked

from .specification import SHA, SID, T0, leftover, recorded, seal, stored

SHORT = Retention(payload_days=1 / 86_400)

SESSION_VERBS = st.sampled_from(
    [
        cmd.Create(),
        cmd.Create(settings=SettingsAsked(retention=RetentionAsked(payload_days=2 / 86_400))),
        cmd.Start(),
        cmd.Pause(),
        cmd.Resume(),
        cmd.Stop(),
        cmd.Fail(reason="r"),
        cmd.Recover(),
        cmd.Mark(label="m"),
        cmd.Hold(hold="h"),
        cmd.Release(hold="h"),
        cmd.Cleanup(),
        cmd.Destroy(),
    ]
)


class AnySession(RuleBasedStateMachine):
    """A session under arbitrary commands; what the shell would gather is made up, and consistent."""

    def __init__(self) -> None:
        super().__init__()
        self.session: Session = initial(SID)
        self.history: list[Recorded] = []
        self.number = 0
        self.wrong = ""
        self.ready: set[int] = set()
        self.captured: list[tuple[int, int]] = []

    def ask(
        self, command: cmd.Command | cmd.InternalCommand, *, id: str = "", alive: bool = False
    ) -> Decision:
        self.number += 1
        now = T0 + timedelta(seconds=self.number)
        facts: dict[str, object] = {}
        while True:
            asked = cmd.Asked(
                session=SID,
                id=CommandId(id or f"c{self.number}"),
                command=command,
                at=now,
                issued_at=now,
                actor="test",
                **facts,  # type: ignore[arg-type] # gathered below, by name
            )
            decision = decide(asked, self.session)
            if not isinstance(decision, Needs):
                break
            gathered = self.gather(decision, alive, command)
            assert gathered.keys() - facts.keys(), "a gathered fact must be enough"
            facts |= gathered
        if isinstance(decision, list):
            for event in decision:
                self.store(event, asked.id)
        return decision

    def gather(self, needs: Needs, alive: bool, command: object) -> dict[str, object]:
        if needs.alive is not None:
            return {"alive": alive}
        if needs.salvage is not None:
            # A salvage reads behind the sealed bytes: what was captured before and sealed since is not left.
            behind = [(start, size) for start, size in self.captured if start >= self.session.offset]
            left = tuple(leftover(50 + i, start, size) for i, (start, size) in enumerate(behind))
            self.captured = []
            return {"salvage": Salvage(epoch=needs.salvage, leftovers=left)}
        if needs.manifest:
            return {"manifest": self.manifest()}
        assert isinstance(command, cmd.Seal)
        end = command.offset + command.size
        return {"tail": CaptureTail(found=True, epoch=command.epoch, n=command.n, end=end, sha256=SHA)}

    def manifest(self) -> Manifest:
        s = self.session
        return Manifest(
            version=99,
            chunks=s.ready_chunks,
            raw_bytes=s.ready_bytes,
            stored_bytes=s.stored_bytes,
            end_offset=s.offset,
            merkle_root=hashlib.sha256(b"").hexdigest(),
            chain_head=SHA,
            events=s.events,
        )

    def store(self, event: ev.SessionEvent, cause: str) -> None:
        stored_event = recorded(event, len(self.history) + 1, cause=cause)
        self.wrong = self.wrong or check(self.session, event)  # type: ignore[arg-type] # every event is of the union
        if isinstance(event, ev.ChunkReady):
            assert event.index not in self.ready, "ready twice"
            self.ready.add(event.index)
        self.history.append(stored_event)
        self.session = evolve(self.session, stored_event)

    @rule(command=SESSION_VERBS)
    def session_verb(self, command: cmd.Command) -> None:
        self.ask(command)

    @rule(command=SESSION_VERBS)
    def with_a_lost_reply(self, command: cmd.Command) -> None:
        first = self.ask(command, id=f"lost{self.number}")
        before = len(self.history)
        again = self.ask(command, id=f"lost{self.number - 1}")
        if isinstance(first, list) and first:
            assert isinstance(again, Repeated | Rejected) or again == []
            assert len(self.history) == before, "a repeat wrote events"

    @rule(takeover=st.booleans(), alive=st.booleans(), leftovers=st.lists(st.integers(1, 50), max_size=3))
    def attach(self, takeover: bool, alive: bool, leftovers: list[int]) -> None:
        self.leave(leftovers)
        self.ask(cmd.Attach(recorder="r", takeover=takeover), alive=alive)

    @rule(size=st.integers(1, 100), skew=st.sampled_from([0, 0, 0, 1, -1]))
    def seal(self, size: int, skew: int) -> None:
        lease = self.session.lease
        n = lease.sealed_n + 1 if lease else 0
        self.ask(seal(max(0, n + skew), self.session.offset, size, epoch=max(1, self.session.epoch)))

    @rule(length=st.integers(0, 20))
    def gap(self, length: int) -> None:
        start = self.session.offset
        self.ask(cmd.Gap(epoch=max(1, self.session.epoch), start=start, end=start + length, reason="r"))

    @rule(skew=st.sampled_from([0, 0, 5]))
    def drained(self, skew: int) -> None:
        self.ask(cmd.Drained(epoch=max(1, self.session.epoch), offset=self.session.offset + skew))

    @rule(step=st.sampled_from(["blocking", "spooling", "flowing"]))
    def slow(self, step: str) -> None:
        command = cmd.Slow(epoch=max(1, self.session.epoch), offset=0, step=step)  # type: ignore[arg-type] # sampled
        self.ask(command)

    @rule(leftovers=st.lists(st.integers(1, 50), max_size=3))
    def detach(self, leftovers: list[int]) -> None:
        self.leave(leftovers)
        self.ask(cmd.Detach(epoch=max(1, self.session.epoch), offset=self.session.offset))

    @rule(leftovers=st.lists(st.integers(1, 50), max_size=3))
    def lose(self, leftovers: list[int]) -> None:
        self.leave(leftovers)
        self.ask(cmd.LoseRecorder(epoch=max(1, self.session.epoch), reason="silent"))

    @precondition(lambda self: self.session.next_index)
    @rule(data=st.data(), fails=st.booleans())
    def settle(self, data: st.DataObject, fails: bool) -> None:
        index = data.draw(st.integers(0, self.session.next_index))
        if fails:
            self.ask(cmd.ChunkRefused(index=index, code="corrupt"))
            return
        at = self.session.pending.get(index) or self.session.failed.get(index)
        self.ask(stored(index, at.offset if at else 0, at.size if at else 1))

    @rule(what=st.sampled_from(["start", "attach", "pause", "stop"]), stray=st.booleans())
    def time_out(self, what: str, stray: bool) -> None:
        began = self.session.unattended_version if what == "attach" else self.session.since_version
        armed_at = began + (1 if stray else 0)
        self.ask(cmd.TimeOut(what=what, armed_at=armed_at))  # type: ignore[arg-type] # sampled

    @rule()
    def finish(self) -> None:
        self.ask(cmd.Finish())

    @rule(grace=st.integers(0, 3))
    def propose(self, grace: int) -> None:
        due = T0 + timedelta(seconds=self.number + grace)
        self.ask(cmd.ProposeCleanup(retention=SHORT, due=due))

    @rule(stray=st.booleans())
    def carry_out(self, stray: bool) -> None:
        standing = self.session.proposal
        proposed = standing.version + stray if standing else self.session.since_version
        self.ask(cmd.CarryOut(proposed=proposed))

    @rule(fails=st.booleans())
    def erase(self, fails: bool) -> None:
        self.ask(cmd.EraseFailed(reason="disk") if fails else cmd.Erased(objects=0, stored_bytes=0))

    def leave(self, sizes: list[int]) -> None:
        """Bytes captured behind the sealed ones, with a hole before every one of odd size."""
        at, self.captured = self.session.offset, []
        for size in sizes:
            at += size % 2
            self.captured.append((at, size))
            at += size

    @invariant()
    def the_history_is_legal(self) -> None:
        assert not self.wrong, self.wrong

    @invariant()
    def nothing_is_proposed_or_erased_of_what_is_held(self) -> None:
        s = self.session
        assert not (s.holds and (s.proposal or s.state in ERASING))

    @invariant()
    def every_byte_is_accounted_for(self) -> None:
        s = self.session
        waiting = sum(c.size for c in s.pending.values()) + sum(c.size for c in s.failed.values())
        assert s.offset == s.ready_bytes + waiting + s.gap_bytes
        assert len(self.ready) == s.ready_chunks


AnySession.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnySession = AnySession.TestCase
