"""Checkpoints as an operator and an auditor have them: made while it runs, kept elsewhere, checked."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lucid_events.evidence.signing import Signer, generate_seed
from tests.end_to_end.bundles import packed, unpacked, with_json
from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import until

WITNESSED_S = 60.0
"""Longest until what was recorded is witnessed; the interval here is a fifth of a second."""


@pytest.fixture
def witnessed(pipelines: Callable[..., Pipeline], tmp_path: Path) -> Pipeline:
    """Return a pipeline that makes signed checkpoints."""
    seed = tmp_path / "seed"
    seed.write_text(generate_seed())
    seed.chmod(0o600)
    made: Pipeline = pipelines(env={"LUCID_SIGNING_SEED": str(seed), "LUCID_CHECKPOINT_INTERVAL": "0.2"})
    return made


def listed(pipeline: Pipeline, *args: str, code: int = 0) -> list[dict[str, Any]]:
    """Return what `audit checkpoints` prints: the checkpoints, then the report."""
    done = pipeline.cli("audit", "checkpoints", *args, "--json", check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def record(pipeline: Pipeline, sid: str, tmp_path: Path) -> None:
    """Record a little and wait until a checkpoint covers it."""
    source = tmp_path / "source"
    source.write_bytes(b"to be witnessed" * 1000)
    pipeline.cli("record", sid, str(source))
    until(
        lambda: listed(pipeline)[-1]["uncovered"] == 0,
        within_s=WITNESSED_S,
        what=f"a checkpoint covers {sid}",
    )


def test_checkpoints_are_made_while_it_runs_and_after_a_crash(witnessed: Pipeline, tmp_path: Path) -> None:
    """What is recorded is witnessed by itself; killed and started again, the chain of checkpoints goes on."""
    record(witnessed, "s1", tmp_path)
    before = listed(witnessed)
    witnessed.restart()
    record(witnessed, "s2", tmp_path)
    *checkpoints, report = listed(witnessed, "--require-signature", "--keys", _keys(tmp_path))
    assert (report["holds"], report["unsigned"], report["found"]) == (True, 0, 0)
    assert [one["number"] for one in checkpoints] == list(range(1, len(checkpoints) + 1))
    assert checkpoints[: len(before) - 1] == before[:-1]
    said = witnessed.cli("audit", "checkpoints")
    assert "everything holds" in said.stderr
    assert checkpoints[-1]["key"] in said.stdout


def test_a_store_put_back_in_time_is_found_by_who_kept_a_checkpoint(
    witnessed: Pipeline, tmp_path: Path
) -> None:
    """A restored older store holds by itself; against a checkpoint kept elsewhere it ends with 7, named."""
    record(witnessed, "s1", tmp_path)
    assert witnessed.stop() == 0
    shutil.copytree(witnessed.data, tmp_path / "older")
    witnessed.start()
    record(witnessed, "s2", tmp_path)
    kept = tmp_path / "kept.json"
    made = json.loads(witnessed.cli("audit", "checkpoint", "-o", str(kept), "--json").stdout)
    assert listed(witnessed, "--since-checkpoint", str(kept))[-1]["holds"]
    assert witnessed.stop() == 0
    shutil.rmtree(witnessed.data)
    shutil.copytree(tmp_path / "older", witnessed.data)
    witnessed.start()
    assert listed(witnessed)[-1]["holds"]
    *_, report = listed(witnessed, "--since-checkpoint", str(kept), code=7)
    assert {one["what"] for one in report["differences"]} == {"checkpoints_cut", "history_cut"}
    said = witnessed.cli("audit", "checkpoints", "--since-checkpoint", str(kept), check=False)
    assert said.returncode == 7
    assert f"checkpoint {made['number']}, which was kept elsewhere, is not there any more" in said.stdout
    kept.write_bytes(kept.read_bytes().replace(b"LUCID_EVENTS", b"LUCID_EVENTZ"))
    spoiled = witnessed.cli("audit", "checkpoints", "--since-checkpoint", str(kept), check=False)
    assert spoiled.returncode == 7
    assert "is not what its signature was made for" in spoiled.stderr


def test_a_checkpoint_can_be_made_without_the_worker(pipeline: Pipeline) -> None:
    """Nothing is witnessed unless it is asked for: by the setting, or by the command."""
    pipeline.cli("create", "s1")
    assert listed(pipeline)[-1]["checkpoints"] == 0
    first = pipeline.cli("audit", "checkpoint").stdout
    assert first.startswith("checkpoint 1: 1 messages up to 1, root ")
    again = pipeline.cli("audit", "checkpoint").stdout
    assert again.strip().endswith("(nothing was appended since it was made)")
    *checkpoints, report = listed(pipeline)
    assert (len(checkpoints), report["unsigned"], report["holds"]) == (1, 1, True)
    listed(pipeline, "--require-signature", code=7)
    refused = pipeline.cli("worker", "--only", "witness", check=False)
    assert refused.returncode == 2
    assert "LUCID_CHECKPOINT_INTERVAL" in refused.stderr


def test_a_bundle_is_held_against_a_checkpoint(pipeline: Pipeline, tmp_path: Path) -> None:
    """A bundle whose end was cut off holds by itself; against a checkpoint kept elsewhere it does not."""
    source, place, kept = tmp_path / "source", tmp_path / "b.tar", tmp_path / "kept.json"
    source.write_bytes(b"to be witnessed" * 1000)
    pipeline.cli("record", "s1", str(source))
    pipeline.cli("mark", "s1", "the end")
    pipeline.cli("audit", "export", "s1", "-o", str(place))
    pipeline.cli("audit", "checkpoint", "-o", str(kept))
    said = pipeline.cli("audit", "verify", str(place), "--checkpoint", str(kept))
    assert "checkpoint 1 has seen it" in said.stdout
    members = unpacked(place.read_bytes())
    lines = members["events.jsonl"].splitlines(keepends=True)
    end = json.loads(lines[-2])
    head = json.loads(lines[-1])["headers"]["Lucid-Prev"]
    facts = {"head": head, "version": end["sequence"], "messages": len(lines) - 1}
    cut = with_json(
        {**members, "events.jsonl": b"".join(lines[:-1])}, "bundle.json", lambda v: v.update(facts)
    )
    place.write_bytes(packed(cut))
    assert pipeline.cli("audit", "verify", str(place)).returncode == 0
    refused = pipeline.cli("audit", "verify", str(place), "--checkpoint", str(kept), check=False)
    assert refused.returncode == 7
    assert "events.jsonl was cut off: expected message" in refused.stderr
    pipeline.cli("create", "other")
    pipeline.cli("audit", "export", "other", "-o", str(place))
    unseen = pipeline.cli("audit", "verify", str(place), "--checkpoint", str(kept))
    assert "the checkpoint has no message of this session" in unseen.stdout
    online = pipeline.cli("audit", "verify", "s1", "--checkpoint", str(kept), check=False)
    assert online.returncode == 2


def test_a_restored_pipeline_is_held_against_what_was_kept(witnessed: Pipeline, tmp_path: Path) -> None:
    """After a restore what was witnessed before is there; what came behind the backup is missed by name."""
    kept, later, bundle = tmp_path / "kept.json", tmp_path / "later.json", tmp_path / "b.tar"
    record(witnessed, "s1", tmp_path)
    witnessed.cli("audit", "checkpoint", "-o", str(kept))
    witnessed.cli("backup", "create", str(tmp_path / "backup"))
    record(witnessed, "s2", tmp_path)
    witnessed.cli("audit", "checkpoint", "-o", str(later))
    other = Pipeline(tmp_path / "other", {k: v for k, v in witnessed.env.items() if k.startswith("LUCID_")})
    told = witnessed.cli("backup", "restore", str(tmp_path / "backup"), "--data", str(other.data), "--json")
    facts = json.loads(told.stdout.splitlines()[0])["restored"]
    assert facts["incarnation"] == 2
    with other:
        strictly = ("--require-signature", "--keys", _keys(tmp_path))
        *_, report = listed(other, "--since-checkpoint", str(kept), *strictly)
        assert (report["holds"], report["remarks"]) == (True, [])
        record(other, "s3", tmp_path)
        *_, last, report = listed(other, "--since-checkpoint", str(kept), *strictly)
        assert (last["incarnation"], report["holds"]) == (2, True)
        *_, report = listed(other, "--since-checkpoint", str(later), code=7)
        assert "checkpoints_cut" in {one["what"] for one in report["differences"]}
        place = ("--cut-back", f"2:{facts['sequence']}")
        said = other.cli("audit", "checkpoints", "--since-checkpoint", str(later), *place)
        assert "everything holds" in said.stderr
        assert "by your word" in said.stdout
        for wrong in ("2", "2:x", "1:5", "3:5"):
            assert other.cli("audit", "checkpoints", "--cut-back", wrong, check=False).returncode == 2
        twice = other.cli("audit", "checkpoints", *place, *place, check=False)
        assert (twice.returncode, "named twice" in twice.stderr) == (2, True)
        other.cli("audit", "export", "s1", "-o", str(bundle))
        shown = other.cli("audit", "verify", str(bundle), "--checkpoint", str(kept)).stdout
        assert "is of incarnation 1 of the log, the bundle of 2" in shown


def _keys(tmp_path: Path) -> str:
    key = Signer((tmp_path / "seed").read_text()).key
    keys = {"keys": [{"key": key, "valid_from": "2020-01-01T00:00:00Z"}]}
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    return str(tmp_path / "keys.json")
