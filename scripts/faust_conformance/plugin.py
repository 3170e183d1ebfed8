"""A pytest plugin: upstream's own tests against our driver, less what `skips.toml` explains.

`FAUST_CONFORMANCE=consumer` puts our consumer where upstream's tests find theirs; `=broker` leaves
everything in place and relies on BROKER_URL; `=store` puts our table store in place of the one in memory.
"""

import os
import tomllib
from pathlib import Path

import faust.transport.consumer
import pytest

PART = os.environ["FAUST_CONFORMANCE"]
SKIPS = tomllib.loads((Path(__file__).parent / "skips.toml").read_text(encoding="utf-8"))

if PART == "consumer":
    from lucid_events.faust_nats.consumer import Consumer

    faust.transport.consumer.Consumer = Consumer

if PART == "store":
    import faust.stores.memory

    from lucid_events.faust_nats.store import Store

    faust.stores.memory.Store = Store


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is listed, with its reason; an entry that matches nothing is an error."""
    unused = dict(SKIPS.get(PART, {}))
    for item in items:
        for pattern, reason in SKIPS.get(PART, {}).items():
            if pattern in item.nodeid:
                unused.pop(pattern, None)
                item.add_marker(pytest.mark.skip(reason=reason))
    if unused and not config.getoption("-k"):
        raise pytest.UsageError(f"skips.toml names tests that are not there: {', '.join(unused)}")
