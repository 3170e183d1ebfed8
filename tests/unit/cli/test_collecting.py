"""How a service looks for garbage."""

import gc
from collections.abc import Iterator

import pytest

from lucid_events.cli.collecting import THRESHOLDS, collect_rarely


@pytest.fixture
def collector() -> Iterator[None]:
    """Leave the collector of this process as it was."""
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


@pytest.mark.usefixtures("collector")
def test_what_a_service_starts_with_is_never_looked_at_again() -> None:
    """Everything alive by then is out of the collector's way; what comes later is still collected."""
    collect_rarely()
    assert gc.get_threshold() == THRESHOLDS
    assert gc.get_freeze_count() > len(gc.get_objects())
    cycle: list[object] = []
    cycle.append(cycle)
    del cycle
    assert gc.collect() > 0
