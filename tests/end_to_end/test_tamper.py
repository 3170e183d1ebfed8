"""Every way to change a recording that we could think of: each is found, and named by what and where."""

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lucid_events.config import load_settings
from lucid_events.domain.ids import SessionId
from lucid_events.evidence.differences import Difference, What
from lucid_events.evidence.keys import KeyList
from lucid_events.evidence.signing import Signer, generate_seed
from lucid_events.service.auditing import auditing
from lucid_events.service.keys import write_seed
from lucid_events.service.verifying import SessionReport
from tests.end_to_end.forging import EVENTS, OBJECTS, Message, Store, put_together, take_apart
from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.tampers import SID, TAMPERS, Taken
from tests.nats_server import NatsServer, running_server

CHUNK_BYTES = 40_000
CHUNKS = 4


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Taken:
    """Record two sessions with a real pipeline, and take its store apart."""
    folder = tmp_path_factory.mktemp("tamper")
    signer = Signer(seed := generate_seed())
    write_seed(folder / "seed", seed)
    keys = KeyList().add(signer.key, at=datetime.now(UTC) - timedelta(seconds=1))
    with Pipeline(folder, {"LUCID_SIGNING_SEED": str(folder / "seed")}) as pipeline:
        rng = random.Random(7)
        for session in ("s1", "s2"):
            text = "".join(rng.choice("abcdefgh") for _ in range(CHUNK_BYTES * CHUNKS - 17))
            (folder / session).write_text(text)
            pipeline.cli("record", session, str(folder / session), "--chunk-bytes", str(CHUNK_BYTES))
            last = json.loads(pipeline.cli("replay", session, "--json").stdout.splitlines()[-1])
            assert last["type"] == "session.stopped.v1"
            pipeline.cli("status", session, "--min-version", str(last["sequence"]))
        store = asyncio.run(take_apart(pipeline.url))
    return Taken(store, keys, signer)


async def verified(
    url: str, keys: KeyList, *, allow_strays: bool = False
) -> tuple[SessionReport, list[Difference]]:
    """Verify the first session and the log of a server."""
    settings = load_settings({"NATS_URL": url})
    async with auditing(settings, keys=keys, require_signature=True, allow_strays=allow_strays) as auditor:
        return await auditor.verify(SID), await auditor.log()


def judged(
    folder: Path, taken: Taken, store: Store, *, keys: KeyList | None = None, allow_strays: bool = False
) -> SessionReport:
    """Put a store together on a server of its own, and verify its first session and its log."""

    async def main(url: str) -> SessionReport:
        await put_together(url, store)
        report, log = await verified(url, keys or taken.keys, allow_strays=allow_strays)
        lost = {found.sequence for found in log}
        assert lost == holes(store), "a hole in the log is named, and nothing else"
        return report

    with running_server(folder, sync_interval="2m") as server:
        return asyncio.run(main(server.url))


def holes(store: Store) -> set[int | None]:
    """Return the sequences that the log lacks; of what is missing at its beginning, the first."""
    missing = [place for place, one in enumerate(store.streams[EVENTS], 1) if not one.kept]
    return {place for number, place in enumerate(missing, 1) if place != number or number == 1}


def test_an_exact_copy_holds(taken: Taken, tmp_path: Path) -> None:
    """A store that was taken apart and put together unchanged holds, signed and to the last chunk."""
    report = judged(tmp_path, taken, taken.store.copy())
    assert report.holds, report.differences
    assert (report.chunks, report.ready, report.strays) == (CHUNKS, CHUNKS, 0)
    assert report.raw_bytes == CHUNK_BYTES * CHUNKS - 17
    assert (report.signature.verdict, report.signature.key) == ("signed", taken.signer.key)
    assert report.remarks == ()


@pytest.mark.parametrize("name", TAMPERS)
def test_it_is_found_and_named(name: str, taken: Taken, tmp_path: Path) -> None:
    """The first difference that is reported is the one that was made, in the place where it was made."""
    store = taken.store.copy()
    found = TAMPERS[name](store, taken)
    report = judged(tmp_path, taken, store)
    assert not report.holds
    first = report.differences[0]
    assert (first.what, first.sequence, first.index) == (found.what, found.sequence, found.index), report
    assert first.session == SID
    assert first.reason
    assert str(first).startswith(f"{found.what}: session s1")


def test_a_message_that_is_no_event_is_named(taken: Taken, tmp_path: Path) -> None:
    """Where strays are allowed, junk on a history is told with its place, and all else is still judged."""
    store = taken.store.copy()
    junk = store.append(Message("lucid.evt.s1.forged", {}, b'{"stream":"LUCID_CAPTURE","seq":1}'))
    report = judged(tmp_path, taken, store, allow_strays=True)
    assert report.holds
    assert report.strays == 1
    assert report.remarks[0].sequence == store.sequence(junk)
    assert "not an event" in report.remarks[0].reason


def test_a_retired_key_is_believed_for_its_time_only(taken: Taken, tmp_path: Path) -> None:
    """What a key signed before it was retired stays good; what it signed later does not."""
    later = taken.keys.retire(taken.signer.key, until=datetime.now(UTC) + timedelta(hours=1))
    assert judged(tmp_path / "a", taken, taken.store.copy(), keys=later).signature.verdict == "signed"
    earlier = taken.keys.retire(taken.signer.key, until=taken.keys.keys[0].valid_from)
    report = judged(tmp_path / "b", taken, taken.store.copy(), keys=earlier)
    assert report.signature.verdict == "key_not_valid"
    assert report.differences[0].what is What.KEY


@pytest.mark.parametrize("cut_off", [False, True], ids=["stopped", "killed"])
@pytest.mark.parametrize("stream", [EVENTS, OBJECTS])
def test_a_bit_flipped_on_the_disk_is_found(
    stream: str, cut_off: bool, taken: Taken, tmp_path: Path, rng: random.Random
) -> None:
    """One bit of the files of a server that is down: whatever the server makes of it, it does not hold."""
    server = NatsServer(tmp_path)
    server.start()
    try:
        asyncio.run(put_together(server.url, taken.store))
        (server.kill if cut_off else server.stop)()
        flip_on_disk(tmp_path, stream, rng)
        server.start()
        report, log = asyncio.run(verified(server.url, taken.keys))
        assert not report.holds or log or not asyncio.run(holds(server.url, taken.keys, "s2")), report
    finally:
        server.stop()


def flip_on_disk(folder: Path, stream: str, rng: random.Random) -> None:
    """Flip one bit in the middle of the stream's largest block."""
    blocks = (folder / "store").rglob(f"streams/{stream}/msgs/*.blk")
    block = max(blocks, key=lambda path: path.stat().st_size)
    data = bytearray(block.read_bytes())
    place = rng.randrange(len(data) // 4, 3 * len(data) // 4)
    data[place] ^= 1 << rng.randrange(8)
    block.write_bytes(data)


async def holds(url: str, keys: KeyList, session: str) -> bool:
    """Return whether another session of the server holds."""
    async with auditing(load_settings({"NATS_URL": url}), keys=keys, require_signature=True) as auditor:
        return (await auditor.verify(SessionId(session))).holds
