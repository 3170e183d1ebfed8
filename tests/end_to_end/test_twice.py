"""The same chunk done twice: by two workers, after a lost ack, after a lost reply."""

import random
from collections.abc import Callable

from lucid_events.domain import events as ev
from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import hooked, until
from tests.end_to_end.session import CHUNK, Session

STEP_S = 60.0
"""Longest until a worker gets to the step it stops at."""


def test_two_workers_with_one_chunk_say_ready_once(
    pipelines: Callable[..., Pipeline], rng: random.Random
) -> None:
    """A worker asleep between put and append wakes after another has done its chunk: one `chunk.ready`."""
    pipeline = pipelines(ack_wait_s=1, without=["chunks"])
    session = Session(pipeline, "s", rng, size=CHUNK)
    recorder = session.record()
    sleeper = pipeline.spawn(
        "worker", "--only", "chunks", words=hooked("--at", "chunk.confirmed", "--signal", "STOP")
    )
    until(sleeper.paused, within_s=STEP_S, what="the worker sleeps between put and append")
    second = pipeline.worker("chunks")
    assert recorder.wait() == 0, recorder.err
    assert session.audit().played == session.data
    sleeper.resume()
    until(lambda: "outcome=done" in sleeper.err, within_s=STEP_S, what="the first worker is done, too")
    audited = session.audit()
    assert len(audited.of(ev.ChunkReady)) == 1
    assert sleeper.stop() == 0
    assert second.stop() == 0


def test_many_workers_share_what_a_sleeping_one_holds(
    pipelines: Callable[..., Pipeline], rng: random.Random
) -> None:
    """Chunks a stopped worker has taken go to another after the ack wait; nothing is said twice."""
    pipeline = pipelines(ack_wait_s=1, without=["chunks"])
    session = Session(pipeline, "s", rng, size=24 * CHUNK)
    recorder = session.record()
    sleeper = pipeline.spawn(
        "worker", "--only", "chunks", words=hooked("--at", "chunk.put:3", "--signal", "STOP")
    )
    until(sleeper.paused, within_s=STEP_S, what="the worker sleeps in its third chunk")
    workers = [pipeline.worker("chunks") for _ in range(2)]
    assert recorder.wait() == 0, recorder.err
    sleeper.resume()
    assert session.audit().played == session.data
    assert [worker.stop() for worker in (sleeper, *workers)] == [0, 0, 0]


def test_lost_replies_change_nothing(pipelines: Callable[..., Pipeline], rng: random.Random) -> None:
    """Replies to appends, acks, puts, purges and captures get lost: each is done once, and nothing fails."""
    lost = ["lucid.evt.:2", "$JS.ACK:3", "$O.lucid-chunks:2", "$JS.API.STREAM.PURGE:2", "lucid.timer.:1"]
    pipeline = pipelines(ack_wait_s=1, hooks=[flag for one in lost for flag in ("--lose", one)])
    session = Session(pipeline, "s", rng)
    losing = ["lucid.cap.:2", "lucid.cmd.s.seal:2", "lucid.cmd.s.attach:1", "lucid.cmd.s.stop:1"]
    recorder = session.record(words=hooked(*(flag for one in losing for flag in ("--lose", one))))
    assert recorder.wait() == 0, recorder.err
    audited = session.audit()
    assert audited.state == "stopped"
    assert audited.played == session.data
    assert len(audited.of(ev.RecorderAttached)) == 1
    assert len(audited.of(ev.SessionStopping)) == 1
    assert pipeline.service is not None
    said = pipeline.service.err + recorder.err
    assert [one for one in (*lost, *losing) if f"lost: {one.partition(':')[0]}" not in said] == []


def test_acks_lost_with_their_worker_change_nothing(
    pipelines: Callable[..., Pipeline], rng: random.Random
) -> None:
    """Chunks handled and never acked come again after they are ready: they change nothing."""
    pipeline = pipelines(ack_wait_s=1, without=["chunks"])
    session = Session(pipeline, "s", rng, size=2 * CHUNK)
    recorder = session.record()
    forgetful = pipeline.spawn("worker", "--only", "chunks", words=hooked("--drop", "$JS.ACK:1000"))
    assert recorder.wait() == 0, recorder.err
    first = session.audit()
    forgetful.kill9()
    again = pipeline.worker("chunks")
    until(lambda: again.err.count("outcome=done") == 2, within_s=STEP_S, what="both chunks came again")
    second = session.audit()
    assert [recorded.id for recorded in second.history] == [recorded.id for recorded in first.history]
