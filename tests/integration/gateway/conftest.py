"""One pipeline and its two REST services for all tests of a module; each test has its own sessions."""

import itertools
from collections.abc import Iterator

import pytest

from tests.end_to_end.http import Http
from tests.end_to_end.pipeline import Pipeline

SERVING = {
    "LUCID_MAX_BODY_MB": "64",
    "LUCID_RECORDING_COMMANDS": "seq,false,no-such-program",
    "CORS_ORIGINS": "https://player.example",
    "LUCID_VIDEO_CODEC": "libx264",
}
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """Give a running pipeline."""
    with Pipeline(tmp_path_factory.mktemp("pipeline"), env={"LUCID_START_TIMEOUT": "60"}) as made:
        yield made


@pytest.fixture(scope="module")
def http(pipeline: Pipeline) -> Iterator[Http]:
    """Give the services of that pipeline."""
    made = Http(pipeline, env=SERVING)
    yield made
    made.close()


@pytest.fixture
def sid(request: pytest.FixtureRequest) -> str:
    """Give a session id nobody else uses."""
    return f"s{next(_numbers)}-{request.node.name[:40].split('[')[0].replace('_', '-')}"
