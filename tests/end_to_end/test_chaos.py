"""kill -9 at random times: whatever dies and whenever, every promise holds afterwards."""

import os
import random
import time
from collections.abc import Callable

import pytest

from lucid_events.domain import events as ev
from tests.end_to_end.audit import last_acked
from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.session import Session

pytestmark = pytest.mark.chaos

RUNS = range(int(os.environ.get("CHAOS_RUNS") or 20))
MOST_KILLS = 3
"""Fewer than the five deaths after which a message is taken for what kills its workers."""
KILL_WITHIN_S = 2.5
"""About as long as the longest of these recordings takes."""
SIZES = (300_000, 6_000_000)


def _session(pipeline: Pipeline, rng: random.Random) -> Session:
    return Session(pipeline, "s", rng, size=rng.randint(*SIZES))


def _moments(rng: random.Random) -> list[float]:
    """Return the pauses before one to three kills."""
    kills = rng.randint(1, MOST_KILLS)
    return [rng.uniform(0, KILL_WITHIN_S / kills) for _ in range(kills)]


@pytest.mark.parametrize("run", RUNS)
def test_recorders_killed_at_random(pipeline: Pipeline, rng: random.Random, run: int) -> None:
    """Recorders die at random times; the session goes on with the next, or ends by itself."""
    session = _session(pipeline, rng)
    finished = False
    for pause_s in _moments(rng):
        recorder = session.record("--recover")
        # Starting takes about as long as a short recording: half the kills come sooner.
        time.sleep(pause_s + rng.choice([0, 0.5]))
        finished = recorder.code is not None
        if finished:
            break
        recorder.kill9()
    if not finished and rng.random() < 0.5:
        recorder = session.record("--recover")
        assert recorder.wait() == 0, recorder.err
        finished = True
    if not session.acked.exists() and not session.started():
        return  # killed before it said anything to anybody
    audited = session.audit()
    assert not finished or (audited.state == "stopped" and audited.played == session.data)


@pytest.mark.parametrize("run", RUNS)
def test_workers_killed_at_random(pipelines: Callable[..., Pipeline], rng: random.Random, run: int) -> None:
    """Workers die at random times and others take over: one `chunk.ready` for each chunk."""
    pipeline = pipelines(ack_wait_s=1, without=["chunks"])
    session = _session(pipeline, rng)
    workers = [pipeline.spawn("worker", "--only", "chunks") for _ in range(2)]
    recorder = session.record()
    for pause_s in _moments(rng):
        time.sleep(pause_s)
        workers.pop(rng.randrange(2)).kill9()
        workers.append(pipeline.spawn("worker", "--only", "chunks"))
    assert recorder.wait() == 0, recorder.err
    audited = session.audit()
    assert audited.state == "stopped"
    assert audited.played == session.data


@pytest.mark.parametrize("run", RUNS)
def test_the_service_killed_at_random(
    pipelines: Callable[..., Pipeline], rng: random.Random, run: int
) -> None:
    """The whole of `lucid up` dies at random times and is started again under a living recorder."""
    pipeline = pipelines(ack_wait_s=1, env={"LUCID_LEASE": "20"})
    session = _session(pipeline, rng)
    recorder = session.record()
    for pause_s in _moments(rng):
        time.sleep(pause_s)
        pipeline.kill9(server=rng.random() < 0.5)
        pipeline.start()
    assert recorder.wait() == 0, recorder.err
    audited = session.audit()
    assert audited.state == "stopped"
    assert audited.played == session.data
    assert len(audited.of(ev.RecorderAttached)) == 1


@pytest.mark.parametrize("run", RUNS)
def test_the_server_killed_at_random(
    pipelines: Callable[..., Pipeline], rng: random.Random, run: int
) -> None:
    """The server dies at random times and comes back: recorder and service go on, nothing is lost."""
    pipeline = pipelines(ack_wait_s=1, env={"LUCID_LEASE": "20"})
    session = _session(pipeline, rng)
    recorder = session.record()
    for pause_s in _moments(rng):
        time.sleep(pause_s)
        pipeline.kill9_server()
    assert recorder.wait() == 0, recorder.err
    audited = session.audit()
    assert audited.state == "stopped"
    assert audited.played == session.data
    assert last_acked(session.acked) == len(session.data)


@pytest.mark.parametrize("run", RUNS)
def test_everything_killed_at_random(
    pipelines: Callable[..., Pipeline], rng: random.Random, run: int
) -> None:
    """Recorder, workers, service and server die in any order; the last recorder finishes the work."""
    pipeline = pipelines(ack_wait_s=1, env={"LUCID_LEASE": "3"})
    session = _session(pipeline, rng)
    recorder = session.record("--recover")
    worker = pipeline.spawn("worker", "--only", "chunks,finaliser")
    for pause_s in _moments(rng):
        time.sleep(pause_s)
        match rng.choice(["recorder", "worker", "service", "server"]):
            case "recorder":
                recorder.kill9()
                recorder = session.record("--recover")
            case "worker":
                worker.kill9()
                worker = pipeline.spawn("worker", "--only", "chunks,finaliser")
            case "service":
                pipeline.kill9(server=rng.random() < 0.5)
                pipeline.start()
            case _:
                pipeline.kill9_server()
    if recorder.wait() == 0:
        audited = session.audit()
        assert audited.state == "stopped"
        assert audited.played == session.data
    else:
        # The server may be away for longer than the lease: then the recorder was given up, and says so.
        assert recorder.code == 5, recorder.err
        session.audit()
