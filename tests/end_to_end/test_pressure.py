"""Capture that is full, servers that are away: the recorder blocks or spools, and drops nothing."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lucid_events.domain import events as ev
from lucid_events.domain.ids import SessionId
from lucid_events.recorder import Spool
from tests.end_to_end.audit import Audited, last_acked
from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import until
from tests.end_to_end.session import Feed, Session

MIB = 1024 * 1024
SIZE = 24 * MIB
"""Far more than capture, the send window and the read-ahead of one recorder hold together."""
SLOW_S = 60.0
AWAY = {"LUCID_LEASE": "60", "LUCID_WINDOW_MB": "1", "LUCID_SPOOL_AFTER": "0.5"}
CAPTURE = {"LUCID_CAPTURE_MAX_MB": "4", "LUCID_WINDOW_MB": "1", "LUCID_SPOOL_AFTER": "0.5"}


def _steps(audited: Audited) -> list[str]:
    return [event.step for event in audited.of(ev.RecorderSlowed)]


@pytest.mark.parametrize("spool", [False, True])
def test_a_full_capture_pushes_back_and_says_so(
    pipelines: Callable[..., Pipeline], tmp_path: Path, rng: random.Random, spool: bool
) -> None:
    """With capture full and no worker a recorder blocks, or spools; with workers all goes through."""
    pipeline = pipelines(ack_wait_s=2, without=["chunks"], env={**CAPTURE, "LUCID_LEASE": "30"})
    session = Session(pipeline, "s", rng, size=SIZE, chunk=MIB)
    recorder = session.record(*(("--spool", str(tmp_path / "spool")) if spool else ()))
    step = "spooling" if spool else "blocking"
    until(
        lambda: step in [event["step"] for event in session.events("recorder.slowed")],
        within_s=SLOW_S,
        what=f"the history says {step}",
    )
    assert recorder.code is None
    pipeline.spawn("worker", "--only", "chunks")
    assert recorder.wait() == 0, recorder.err
    audited = session.audit()
    assert audited.played == session.data
    assert not audited.of(ev.GapDeclared)
    assert _steps(audited)[-1] == "flowing"


def test_a_recorder_outlives_a_server_that_is_away(
    pipelines: Callable[..., Pipeline], tmp_path: Path, rng: random.Random
) -> None:
    """The server is away while bytes go on: they are spooled and sent later, and the spool is empty then."""
    pipeline = pipelines(ack_wait_s=1, env=AWAY)
    session, spool = Session(pipeline, "s", rng, size=SIZE, chunk=MIB), tmp_path / "spool"
    feed = Feed(session)
    recorder = session.record("--spool", str(spool), stdin=feed.reading)
    feed.give(6 * MIB)
    until(lambda: last_acked(session.acked), within_s=SLOW_S, what="something is durable")
    pipeline.kill9()
    feed.give(16 * MIB)
    until(lambda: _spooled(spool, tmp_path) == 16 * MIB, within_s=SLOW_S, what="bytes are spooled")
    pipeline.start()
    feed.end()
    assert recorder.wait() == 0, recorder.err
    audited = session.audit()
    assert audited.state == "stopped"
    assert audited.played == session.data
    assert {"spooling", "flowing"} <= set(_steps(audited))
    assert not list(spool.glob("*.spool"))


def test_a_recorder_killed_while_spooling_goes_on_from_its_spool(
    pipelines: Callable[..., Pipeline], tmp_path: Path, rng: random.Random
) -> None:
    """Kill -9 while bytes of a pipe are in the spool alone: the next recorder sends those, then goes on."""
    pipeline = pipelines(ack_wait_s=1, env=AWAY)
    session, spool = Session(pipeline, "s", rng, size=SIZE, chunk=MIB), tmp_path / "spool"
    feed = Feed(session)
    recorder = session.record("--spool", str(spool), stdin=feed.reading)
    feed.give(6 * MIB)
    until(lambda: last_acked(session.acked), within_s=SLOW_S, what="something is durable")
    pipeline.kill9()
    feed.give(16 * MIB)
    until(
        lambda: _spooled(spool, tmp_path) == 16 * MIB, within_s=SLOW_S, what="all that was given is spooled"
    )
    recorder.kill9()
    pipeline.start()
    again = session.record("--spool", str(spool), stdin=feed.reading)
    feed.end()
    assert again.wait() == 0, again.err
    audited = session.audit()
    assert audited.state == "stopped"
    assert audited.played == session.data
    assert len(audited.of(ev.RecorderAttached)) == 2
    assert not list(spool.glob("*.spool"))


def _spooled(spool: Path, tmp_path: Path) -> int:
    """Return the offset behind the last byte in the spool of a running recorder, from a copy of it."""
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(spool, copy)
    opened = Spool(copy, SessionId("s"), max_bytes=0)
    try:
        return opened.end
    finally:
        opened.close()
