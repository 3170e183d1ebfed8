"""The compose file: what waits for what, and what is tried again."""

from pathlib import Path
from typing import Any

import yaml

COMPOSE = Path(__file__).parents[3] / "deploy" / "containers" / "compose.yaml"
STREAMS = "deploy"
"""The service that puts the definitions on the server, and ends."""


def services() -> dict[str, dict[str, Any]]:
    """Return the services of the file."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    return found


def test_nothing_starts_before_the_streams_are_there() -> None:
    """Whatever works on the streams waits until `lucid deploy` has ended well, not until it has begun."""
    waiting = {name: one for name, one in services().items() if name not in {"nats", STREAMS}}
    assert set(waiting) == {"worker", "pipeline", "recorder"}
    for name, one in waiting.items():
        assert one["depends_on"][STREAMS] == {"condition": "service_completed_successfully"}, name


def test_a_deployment_that_ends_unwell_is_not_repeated_for_ever() -> None:
    """`lucid deploy` ends with 2 while anything differs: repeating it settles nothing."""
    how, _, often = services()[STREAMS]["restart"].partition(":")
    assert how == "on-failure"
    assert 1 <= int(often) <= 10
