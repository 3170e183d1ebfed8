"""One server for the tests of a file, and a new app id for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nats_server import NatsServer, running_server

_numbers = itertools.count(1)

TEST_S = 300
"""Longest a test may take. What it waits for ends before that (`waiting.WAIT_S`), and so do apps that
don't stop in order: a time-out of pytest's own is raised into whatever task happens to run."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this folder their time."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_S))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server of this file's own; its tests use topics of their own."""
    with running_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture
def ident() -> str:
    """An app id, and a prefix, that no other test of this run uses."""
    return f"t{next(_numbers)}"


@pytest.fixture
def url(server: NatsServer, ident: str) -> str:
    """A broker URL under which the test is alone."""
    return f"{server.url}/?prefix={ident}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where Faust and its workers may write."""
    return tmp_path
