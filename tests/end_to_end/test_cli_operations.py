"""The commands of whoever runs the pipeline: definitions, checks, dead letters, rebuilding, more workers."""

import asyncio
import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.plain import ask, connected, until_stored
from tests.end_to_end.processes import lucid, until

SHOWN_S = 30.0
"""Bound of what must be seen once it has happened."""
TIMES = {"started_at": "2026-01-01T00:00:00Z", "ended_at": "2026-01-01T00:00:01Z"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """Run one pipeline for the tests of this file; each has sessions of its own."""
    patient = {"LUCID_LEASE": "120", "LUCID_START_TIMEOUT": "120"}
    with Pipeline(tmp_path_factory.mktemp("operations"), patient) as pipeline:
        yield pipeline


def said(pipeline: Pipeline, *args: str, code: int = 0) -> list[dict[str, Any]]:
    """Return the objects that a command prints with --json, which has to end with `code`."""
    done = pipeline.cli(*args, "--json", check=False)
    assert done.returncode == code, (args, done.stdout, done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


async def spoiled(client: Client, session: str) -> int:
    """Seal a chunk of two pieces of which the second is not what its digest says; returns its sequence."""
    for verb, body in (("create", {}), ("start", {}), ("attach", {"recorder": "r"})):
        answer = await ask(client, session, verb, body)
        assert "error" not in answer, answer
    right = [b"a" * 2048, b"b" * 2048]
    first = await piece(client, session, right[0], 0, right[0])
    bad = await piece(client, session, b"x" * 2048, 2048, right[0] + right[1])
    last = await piece(client, session, right[1], 2048, right[0] + right[1])
    seal = {
        **{"epoch": 1, "n": 0, "offset": 0, "size": 4096, "cut": "end"},  # noqa: PIE800 # two lines
        "sha256": hashlib.sha256(right[0] + right[1]).hexdigest(),
        "first_seq": first,
        "last_seq": last,
    }
    answer = await ask(client, session, "seal", {**seal, **TIMES})
    assert "error" not in answer, answer
    return bad


async def piece(client: Client, session: str, data: bytes, offset: int, upto: bytes) -> int:
    """Capture one piece; its running digest is of `upto`."""
    sha256 = hashlib.sha256(upto).hexdigest()
    headers = {"Lucid-Offset": str(offset), "Lucid-Length": str(len(data)), "Lucid-Sha256": sha256}
    ack = await client.jetstream().publish(f"lucid.cap.{session}.1.0", data, headers=headers)
    return int(ack.seq)


def letter(pipeline: Pipeline, session: str) -> dict[str, Any]:
    """Return the session's dead letter once there is one."""

    def look() -> list[dict[str, Any]]:
        letters = said(pipeline, "dlq", "list", "--consumer", "chunks")
        return [found for found in letters if f".{session}." in found["pointer"]["subject"]]

    return until(look, within_s=SHOWN_S, what=f"a letter of {session}")[0]


def test_a_damaged_chunk_is_set_aside_and_redriven(shared: Pipeline) -> None:
    """A chunk whose bytes are wrong blocks nobody; repaired, it is redriven, and its letter goes."""
    session = "spoiled"

    async def spoil() -> int:
        async with connected(shared.url) as client:
            bad = await spoiled(client, session)
            (failed,) = await until_stored(client, session, "chunk.failed.v1")
            assert failed.body["index"] == 0
            return bad

    bad = asyncio.run(spoil())
    number = str(letter(shared, session)["sequence"])
    (shown,) = said(shared, "dlq", "show", number)
    assert shown["original"]["subject"] == f"lucid.evt.{session}.chunk.sealed"
    assert session in shared.cli("dlq", "show", number).stdout
    assert json.loads(shared.cli("dlq", "show", number, "--body").stdout)["index"] == 0
    assert number in shared.cli("dlq", "list").stdout
    # As long as the bytes are wrong it stays where it is.
    (again,) = said(shared, "dlq", "redrive", number, code=6)
    assert again["outcome"] in ("park", "retry")
    assert letter(shared, session)["sequence"] == int(number)

    async def repair() -> None:
        async with connected(shared.url) as client:
            await client.jetstream().delete_msg("LUCID_CAPTURE", bad)

    asyncio.run(repair())
    missing, done = said(shared, "dlq", "redrive", "999999", number, code=3)
    assert (missing["number"], missing["outcome"]) == (999999, "refused")
    assert (done["number"], done["outcome"]) == (int(number), "done")
    assert said(shared, "dlq", "show", number, code=3)[0]["error"]["code"] == "not_found"
    assert shared.cli("chunks", "get", session, "0").stdout == "a" * 2048 + "b" * 2048
    view = said(shared, "status", session)[0]
    assert (view["chunks"]["failed"], view["chunks"]["ready"]) == ([], 1)


def test_an_unreadable_event_is_set_aside_and_dropped(shared: Pipeline) -> None:
    """An event of a version nobody knows is set aside; dropped, it is gone; the others go on."""
    session = "from-the-future"

    async def forge() -> None:
        async with connected(shared.url) as client:
            await ask(client, session, "create")
            headers = {
                **{"Nats-Msg-Id": "f-1", "ce-specversion": "1.0", "ce-id": "f-1"},  # noqa: PIE800 # two lines
                **{"ce-type": "chunk.sealed.v9", "ce-subject": session, "ce-time": "2026-01-01T00:00:00Z"},  # noqa: PIE800
                **{"Lucid-Causation": "f", "Lucid-Prev": "0" * 64},  # noqa: PIE800
            }
            await client.jetstream().publish(f"lucid.evt.{session}.chunk.sealed", b"{}", headers=headers)

    asyncio.run(forge())
    found = letter(shared, session)
    assert found["pointer"]["code"] == "contract"
    assert "chunk.sealed.v9" in found["pointer"]["reason"]
    number = str(found["sequence"])
    assert said(shared, "dlq", "redrive", number, code=6)[0]["outcome"] == "park"
    (dropped,) = said(shared, "dlq", "drop", number)
    assert dropped["sequence"] == found["sequence"]
    assert said(shared, "dlq", "drop", number, code=3)[0]["error"]["code"] == "not_found"
    done = subprocess.run(
        [*lucid(), "record", "beside-it", "-", "--json"],
        env={**shared.env, "NATS_URL": shared.url},
        input=b"goes on",
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout)["state"] == "stopped"
    # What this version can't read it does not guess at: no command, no half of a history; it says where.
    answer = said(shared, "start", session, code=7)[0]["error"]
    assert (answer["code"], "chunk.sealed.v9" in answer["message"]) == ("integrity", True)
    *read, error = said(shared, "replay", session, code=4)
    assert [event["type"] for event in read] == ["session.created.v1"]
    assert error["error"]["code"] == "contract"
    assert f"message {found['pointer']['sequence']} on lucid.evt.{session}.chunk.sealed" in str(error)


def test_definitions_are_compared_and_repaired(pipeline: Pipeline) -> None:
    """`deploy --check` names a setting that was changed and changes nothing; `--update` puts it right."""
    assert said(pipeline, "deploy", "--check") == [{"created": [], "updated": [], "differences": []}]
    assert pipeline.cli("deploy").stdout == "everything is as defined\n"

    async def change(**settings: Any) -> dict[str, Any]:
        async with connected(pipeline.url) as client:
            info = json.loads((await client.request("$JS.API.STREAM.INFO.LUCID_OUTCOMES", b"")).data)
            config = {**info["config"], **settings}
            if settings:
                body = json.dumps(config).encode()
                answer = json.loads((await client.request("$JS.API.STREAM.UPDATE.LUCID_OUTCOMES", body)).data)
                assert "error" not in answer, answer
            return config

    asyncio.run(change(max_age=3600 * 10**9))
    (report,) = said(pipeline, "deploy", "--check", code=2)
    (difference,) = report["differences"]
    assert "max_age" in json.dumps(difference)
    assert "LUCID_OUTCOMES" in json.dumps(difference)
    findings = said(pipeline, "doctor")
    assert [f["level"] for f in findings if "max_age" in f["what"]] == ["warning"]
    assert asyncio.run(change())["max_age"] == 3600 * 10**9
    (repaired,) = said(pipeline, "deploy", "--update")
    assert (repaired["differences"], len(repaired["updated"])) == ([], 1)
    assert said(pipeline, "deploy", "--check")[0]["differences"] == []
    assert all(finding["level"] != "error" for finding in said(pipeline, "doctor"))


def test_views_are_rebuilt_alike(pipeline: Pipeline) -> None:
    """A status view built anew from the first event differs in nothing from the live one."""
    for number in range(3):
        pipeline.cli("create", f"rebuilt-{number}")
    pipeline.cli("fail", "rebuilt-1")
    (report,) = said(pipeline, "rebuild")
    assert (report["differences"], report["sessions"], report["events"]) == ([], 3, 4)
    assert "0 views differ from the live ones" in pipeline.cli("rebuild").stdout


def test_more_workers_share_the_work(pipeline: Pipeline) -> None:
    """`worker --only` runs the parts asked for beside the others, and leaves in order; unknown ones fail."""
    worker = pipeline.spawn("worker", "--only", "chunks,finaliser", "--json")
    assert json.loads(worker.says("parts"))["parts"] == ["chunks", "finaliser"]
    words = (
        "record",
        "shared-work",
        "--chunk-bytes",
        "65536",
        "--json",
        "--",
        "head",
        "-c",
        "3000000",
        "/dev/zero",
    )
    assert json.loads(pipeline.cli(*words).stdout)["chunks"] == 46
    assert worker.stop() == 0
    assert said(pipeline, "worker", "--only", "chonks", code=2)[0]["error"]["code"] == "config"
    assert pipeline.stop() == 0


def test_schemas_are_exported(tmp_path: Path) -> None:
    """`schemas export` writes what the repository holds, for a folder that is there and one that is not."""
    folder = tmp_path / "a" / "b"
    done = subprocess.run(
        [*lucid(), "schemas", "export", str(folder)], capture_output=True, text=True, timeout=60, check=True
    )
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert " files in " in done.stdout
    ours = Path(__file__).parents[2] / "schemas"
    assert {path.suffix for path in files} >= {".json"}
    assert json.loads((folder / "asyncapi.json").read_text())["asyncapi"].startswith("3.")
    same = [path for path in files if path.suffix == ".json" and (ours / path).exists()]
    assert len(same) > 50
    # A landed sample stays as it is; the one of today is the last of its version.
    for path in same:
        newest = max(
            [ours / path, *(ours / path).parent.glob(f"{path.stem}.*.json")], key=lambda p: (len(p.name), p)
        )
        assert (folder / path).read_bytes() == newest.read_bytes(), newest.name
