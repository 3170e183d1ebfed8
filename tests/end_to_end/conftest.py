"""Pipelines for tests: each on its own server, port and folder, gone with the test."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.pipeline import Pipeline


@pytest.fixture
def pipelines(tmp_path: Path) -> Iterator[Callable[..., Pipeline]]:
    """Make running pipelines with settings of the test's own: `pipelines(env={…}, ack_wait_s=2)`."""
    with ExitStack() as stack:
        made = 0

        def make(**options: Any) -> Pipeline:
            nonlocal made
            made += 1
            folder = tmp_path / f"pipeline-{made}"
            stack.callback(shutil.rmtree, folder / "data", ignore_errors=True)
            return stack.enter_context(Pipeline(folder, **options))

        yield make


@pytest.fixture
def pipeline(pipelines: Callable[..., Pipeline]) -> Pipeline:
    """Return a running pipeline with quick timeouts."""
    return pipelines()
