"""`service.pools`: what settings become on the machine at hand."""

import os

import pytest

from lucid_events.config import load_settings
from lucid_events.service.pools import compression_threads


@pytest.mark.parametrize(("asked", "cores", "threads"), [(4, 2, 2), (1, 8, 1), (3, None, 1)])
def test_no_more_threads_compress_than_there_are_cores(
    monkeypatch: pytest.MonkeyPatch, asked: int, cores: int | None, threads: int
) -> None:
    """A setting above the number of cores costs no processor time; one below it is kept."""
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    settings = load_settings({"COMPRESSOR_WORKERS": str(asked)})
    assert compression_threads(settings) == threads
