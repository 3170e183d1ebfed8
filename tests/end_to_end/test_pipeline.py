import random
from pathlib import Path

from tests.end_to_end.audit import audit, last_acked
from tests.end_to_end.pipeline import Pipeline


def test_what_was_recorded_survives_the_death_of_everything(
    pipeline: Pipeline, tmp_path: Path, rng: random.Random
) -> None:
    """A recording outlives kill -9 of the server and of everything that took it in, byte for byte."""
    source, played, acked = tmp_path / "source", tmp_path / "played", tmp_path / "acked"
    source.write_bytes(rng.randbytes(700_000))
    pipeline.cli("record", "s1", str(source), "--chunk-bytes", "65536", "--acked-file", str(acked))
    pipeline.restart()
    pipeline.cli("play", "s1", "-o", str(played))
    assert played.read_bytes() == source.read_bytes()
    audited = audit(pipeline.url, "s1", source.read_bytes(), acked=last_acked(acked))
    assert audited.state == "stopped"
