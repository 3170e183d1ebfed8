"""A log that was cut back beside views that were not: refused, then mended as docs/operations.md says."""

import asyncio
import re
import shutil
import socket
import subprocess
from pathlib import Path
from random import Random

from lucid_events.config import Settings
from lucid_events.projections.checkpoints import Checkpoints
from lucid_events.service.adapters import open_adapters
from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import ROOT, hooked, until
from tests.end_to_end.session import Session
from tests.nats_server import nats_server

DIFFERS = DAMAGED = 7
READY_S = 60.0


def documented_program() -> str:
    """The program of docs/operations.md that raises the incarnation, up to its last line."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    chapter = page.partition("## The stream was cut back")[2].partition("\n## ")[0]
    found = re.search(r"^```python\n(.*?)^```$", chapter, re.MULTILINE | re.DOTALL)
    assert found is not None
    program, _, last = found[1].rpartition("asyncio.run(")
    assert last.startswith("raise_incarnation(")
    return program


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), READY_S).close()
    except ConnectionRefusedError:
        return False
    return True


def raise_incarnation(pipeline: Pipeline) -> None:
    """Run the documented program against the server alone."""
    config = pipeline.data / "nats-server.conf"
    log = pipeline.folder / "alone.log"
    with log.open("wb") as out:
        server = subprocess.Popen([nats_server(), "-c", str(config)], stdout=out, stderr=out)
    try:
        until(lambda: listens(pipeline.port), within_s=READY_S, what="the server alone listens")
        space: dict[str, object] = {}
        exec(compile(documented_program(), "docs/operations.md", "exec"), space)  # noqa: S102 - what a reader runs

        async def main() -> None:
            work = space["raise_incarnation"]
            assert callable(work)
            async with asyncio.timeout(READY_S):
                await work(pipeline.url)

        asyncio.run(main())
    finally:
        server.terminate()
        server.wait(READY_S)


async def note_end(url: str) -> None:
    """Note how far the log was seen, as workers do every ten seconds."""
    async with open_adapters(Settings(nats_url=url), name="test") as adapters:
        position = await adapters.store.last_position()
        await Checkpoints(adapters.meta, position.stream, position.incarnation).note(position.sequence)


def test_views_of_a_log_that_was_cut_back_are_changed_for_new_ones(tmp_path: Path, rng: Random) -> None:
    """Nothing starts on a log that was cut back; with a raised incarnation and new views all agrees."""
    pipeline = Pipeline(tmp_path / "pipeline")
    events = pipeline.data / "store" / "jetstream" / "$G" / "streams" / "LUCID_EVENTS"
    with pipeline:
        assert Session(pipeline, "kept", rng).record().wait() == 0
        assert pipeline.stop() == 0
        shutil.copytree(events, tmp_path / "older")
        pipeline.start()
        assert Session(pipeline, "lost", rng).record().wait() == 0
        asyncio.run(note_end(pipeline.url))
        assert pipeline.stop() == 0
        shutil.rmtree(events)
        shutil.copytree(tmp_path / "older", events)
        refused = subprocess.run(
            [*hooked(), "up", "--data", str(pipeline.data), "--port", str(pipeline.port)],
            env=pipeline.env,
            capture_output=True,
            text=True,
            timeout=READY_S,
            check=False,
        )
        assert (refused.returncode, "was cut back" in refused.stderr) == (DAMAGED, True), refused.stderr
        raise_incarnation(pipeline)
        pipeline.start()
        assert pipeline.cli("rebuild", check=False).returncode == DIFFERS
        assert pipeline.cli("projections", "rebuild", check=False).returncode == DIFFERS
        pipeline.cli("projections", "switch", "2", "--accept-differences")
        pipeline.cli("projections", "drop", "1")
        pipeline.cli("rebuild")
        pipeline.cli("audit", "verify", "--all")
        assert pipeline.cli("status", "lost", check=False).returncode != 0
        assert Session(pipeline, "new", rng).record().wait() == 0
