"""kill -9 between any two steps of a recorder, a worker, the whole service and its server."""

import random
from collections.abc import Callable

import pytest

from lucid_events.domain import events as ev
from tests.end_to_end.audit import last_acked
from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import hooked, until
from tests.end_to_end.session import CHUNK, Session

KILLED = -9
DEATH_S = 60.0
"""Longest until a process gets to the step it dies at."""

RECORDER_STEPS = (
    "session.started",
    "recorder.attached",
    "capture.acked",
    "seal.sending",
    "seal.accepted:2",
    "stop.sending",
    "stop.accepted",
    "drained.sending",
    "drained.accepted",
    "detach.sending",
    "detach.accepted",
)
WORKER_STEPS = (
    "chunk.read",
    "chunk.compressed",
    "chunk.put",
    "chunk.confirmed",
    "chunk.appended",
    "chunk.purged",
    "message.handled",
    "message.acked",
)


def _name(step: str) -> str:
    return "at-" + step.replace(".", "-").replace(":", "-")


def test_a_killed_recorder_leaves_a_session_that_ends_by_itself(
    pipelines: Callable[..., Pipeline], rng: random.Random
) -> None:
    """Between any two steps a recorder is killed: its session ends, every acked byte in a ready chunk."""
    pipeline = pipelines(env={"LUCID_START_TIMEOUT": "3"})
    sessions = [Session(pipeline, _name(step), rng) for step in RECORDER_STEPS]
    recorders = [
        session.record(words=hooked("--at", step))
        for session, step in zip(sessions, RECORDER_STEPS, strict=True)
    ]
    assert [recorder.wait(within_s=DEATH_S) for recorder in recorders] == [KILLED] * len(recorders)
    for session, step in zip(sessions, RECORDER_STEPS, strict=True):
        audited = session.audit()
        if step.startswith(("session", "recorder", "capture", "seal")):
            assert audited.state == "error", step
        if step.startswith(("stop.accepted", "drained", "detach")):
            assert audited.state == "stopped", step
            assert audited.played == session.data, step


def test_a_killed_recorder_goes_on_where_it_was(pipeline: Pipeline, rng: random.Random) -> None:
    """Killed between any two steps and started again, a recorder loses and repeats nothing."""
    sessions = [Session(pipeline, _name(step), rng) for step in RECORDER_STEPS]
    dying = [
        session.record(words=hooked("--at", step))
        for session, step in zip(sessions, RECORDER_STEPS, strict=True)
    ]
    again = []
    for session, recorder in zip(sessions, dying, strict=True):
        assert recorder.wait(within_s=DEATH_S) == KILLED
        again.append(session.record("--recover"))
    for session, recorder in zip(sessions, again, strict=True):
        assert recorder.wait() == 0, recorder.err
        audited = session.audit()
        assert audited.state == "stopped"
        assert audited.played == session.data


def test_a_worker_killed_between_two_steps_says_each_chunk_ready_once(
    pipelines: Callable[..., Pipeline], rng: random.Random
) -> None:
    """Between any two steps a worker is killed: the next one ends in the same state."""
    pipeline = pipelines(ack_wait_s=1, without=["chunks"])
    for step in WORKER_STEPS:
        session = Session(pipeline, _name(step), rng, size=2 * CHUNK)
        recorder = session.record()
        dying = pipeline.spawn("worker", "--only", "chunks", words=hooked("--at", step))
        assert dying.wait(within_s=DEATH_S) == KILLED, step
        worker = pipeline.worker("chunks")
        assert recorder.wait() == 0, f"{step}: {recorder.err}"
        audited = session.audit()
        assert audited.state == "stopped"
        assert audited.played == session.data
        assert worker.stop() == 0


@pytest.mark.parametrize("step", ["chunk.read", "chunk.put:2", "chunk.appended:3", "message.handled:2"])
def test_the_whole_service_may_be_killed_under_a_recorder(
    pipelines: Callable[..., Pipeline], rng: random.Random, step: str
) -> None:
    """A recorder outlives the death of service and server, and all of it is stored in the end."""
    pipeline = pipelines(ack_wait_s=1, hooks=["--at", step], env={"LUCID_LEASE": "20"})
    session = Session(pipeline, "s", rng)
    recorder = session.record()
    assert pipeline.service is not None
    assert pipeline.service.wait(within_s=DEATH_S) == KILLED
    pipeline.start(words=hooked("--ack-wait", "1"))
    assert recorder.wait() == 0, recorder.err
    assert session.audit().played == session.data


@pytest.mark.parametrize(
    "steps",
    [
        ["recorder.attached", "capture.acked", "seal.sending", "seal.accepted:3"],
        ["stop.sending", "stop.accepted", "drained.accepted", "detach.sending"],
    ],
)
def test_the_server_may_be_killed_between_two_steps_of_a_recorder(
    pipelines: Callable[..., Pipeline], rng: random.Random, steps: list[str]
) -> None:
    """The server dies between steps of a recorder, which goes on with the next one."""
    pipeline = pipelines(ack_wait_s=1, env={"LUCID_LEASE": "20"})
    session = Session(pipeline, "s", rng)
    places = [flag for step in steps for flag in ("--at", step)]
    pid_file = str(pipeline.data / "nats-server.pid")
    recorder = session.record(words=hooked(*places, "--pid-file", pid_file))
    assert recorder.wait() == 0, recorder.err
    assert session.audit().played == session.data
    _check_deaths(pipeline, len(steps))


@pytest.mark.parametrize("steps", [WORKER_STEPS[:4], WORKER_STEPS[4:]])
def test_the_server_may_be_killed_between_two_steps_of_a_worker(
    pipelines: Callable[..., Pipeline], rng: random.Random, steps: list[str]
) -> None:
    """The server dies between steps of a worker, which repeats what it has to, and says ready once."""
    places = [flag for n, step in enumerate(steps) for flag in ("--at", f"{step}:{n + 1}")]
    pipeline = pipelines(
        ack_wait_s=1,
        env={"LUCID_LEASE": "20"},
        hooks=[*places, "--pid-file", "{data}/nats-server.pid"],
    )
    session = Session(pipeline, "s", rng)
    recorder = session.record()
    assert recorder.wait() == 0, recorder.err
    assert session.audit().played == session.data
    _check_deaths(pipeline, len(steps))


def _check_deaths(pipeline: Pipeline, expected: int) -> None:
    assert pipeline.service is not None
    said = pipeline.service.err  # one that is killed before it is ready does not start
    assert said.count("server died") + said.count(": server does not start") == expected, said


def test_a_woken_recorder_adds_nothing_to_what_was_salvaged(pipeline: Pipeline, rng: random.Random) -> None:
    """A recorder asleep past its lease and given up: nothing it sends is acked, and it says what is safe."""
    session = Session(pipeline, "s", rng, size=64 * CHUNK)
    sleeper = session.record(words=hooked("--at", "capture.acked", "--signal", "STOP"))
    until(sleeper.paused, within_s=DEATH_S, what="the recorder has fallen asleep")
    until(lambda: session.events("recorder.lost"), within_s=DEATH_S, what="the recorder is given up")
    successor = session.record("--recover", acked=pipeline.folder / "successor.acked")
    assert successor.wait() == 0, successor.err
    sleeper.resume()
    assert sleeper.wait() == 5, sleeper.err
    assert "recording of s as epoch 1 is over" in sleeper.err
    audited = session.audit()
    assert audited.played == session.data
    _, second = audited.of(ev.RecorderAttached)
    assert 0 < last_acked(session.acked) <= second.offset < len(session.data)


def test_a_recorder_that_was_taken_over_is_told(pipeline: Pipeline, rng: random.Random) -> None:
    """A recorder replaced by `--takeover` while it sleeps ends with a clear message; no byte is made up."""
    session = Session(pipeline, "s", rng, size=64 * CHUNK)
    sleeper = session.record(words=hooked("--at", "capture.acked:3", "--signal", "STOP"))
    until(sleeper.paused, within_s=DEATH_S, what="the recorder has fallen asleep")
    successor = session.record("--takeover", acked=pipeline.folder / "successor.acked")
    until(lambda: session.events("recorder.attached")[1:], within_s=DEATH_S, what="it is replaced")
    sleeper.resume()
    assert sleeper.wait() == 5, sleeper.err
    assert "another recorder took over as epoch 2" in " ".join(sleeper.err.split())
    assert successor.wait() == 0, successor.err
    audited = session.audit()
    assert audited.played == session.data
    assert 0 < last_acked(session.acked) <= audited.of(ev.RecorderAttached)[1].offset
