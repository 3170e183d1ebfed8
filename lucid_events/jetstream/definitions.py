"""Stream and consumer definitions as data: read from `deploy/nats`, filled in for one prefix.

A definition is the raw JSON of the JetStream API. `{prefix}` and `{PREFIX}` in its strings become
the prefix and the stem of the stream names; a string that is one placeholder of a setting
(`"{capture_max_bytes}"`) becomes the setting's value.
"""

import json
import re
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

import msgspec

from lucid_events.errors import ConfigError
from lucid_events.subjects import Subjects

GIB: Final = 1024**3
NANOSECONDS: Final = 1_000_000_000


class TopologySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator may choose about the streams; everything else is in the definitions."""

    replicas: int = 1
    """Of every stream but capture and commands: those take writes of untrusted clients and stay on
    one replica (`untrusted_replicas`), because a forged header can freeze a replicated stream."""
    untrusted_replicas: int = 1
    capture_max_bytes: int = 8 * GIB
    """When reached, recorders are pushed back. Must exceed the chunks of all open sessions."""
    chunks_pending: int = 500
    chunks_ack_wait_s: float = 30.0
    finaliser_pending: int = 300
    finaliser_ack_wait_s: float = 20.0
    status_generation: int = 1
    buckets: tuple[str, ...] = ()
    """Further buckets of chunks, one per retention class; `<prefix>-chunks` is always there."""


DEFAULT_SETTINGS: Final = TopologySettings()


class Definition(msgspec.Struct, frozen=True):
    """A stream or a consumer as it should be."""

    kind: str
    """`stream` or `consumer`."""
    name: str
    config: dict[str, Any]
    stream: str
    """The stream a consumer reads; a stream's own name."""

    @property
    def label(self) -> str:
        """How reports name it."""
        return self.name if self.kind == "stream" else f"{self.stream} > {self.name}"


def deploy_folder() -> Traversable:
    """Return the folder of definitions: the installed copy, or the checkout's.

    Raises:
        ConfigError: the installation is incomplete.
    """
    installed = resources.files("lucid_events") / "_deploy" / "nats"
    if installed.is_dir():
        return installed
    checkout = Path(__file__).resolve().parents[2] / "deploy" / "nats"
    if checkout.is_dir():
        return checkout
    raise ConfigError("the stream definitions are not installed: install lucid_events again")


def load(subjects: Subjects, settings: TopologySettings = DEFAULT_SETTINGS) -> list[Definition]:
    """Return all definitions for one prefix, streams first.

    Raises:
        ConfigError: a definition is not JSON, or names an unknown placeholder.
    """
    folder = deploy_folder()
    values: dict[str, Any] = {
        "prefix": subjects.prefix,
        "PREFIX": subjects.events_stream.removesuffix("_EVENTS"),
        "replicas": settings.replicas,
        "untrusted_replicas": settings.untrusted_replicas,
        "capture_max_bytes": settings.capture_max_bytes,
        "chunks_pending": settings.chunks_pending,
        "chunks_ack_wait": int(settings.chunks_ack_wait_s * NANOSECONDS),
        "finaliser_pending": settings.finaliser_pending,
        "finaliser_ack_wait": int(settings.finaliser_ack_wait_s * NANOSECONDS),
        "status_bucket": subjects.status_bucket(settings.status_generation),
        "status_consumer": subjects.status_consumer(settings.status_generation),
    }
    found = []
    for entry in _files(folder / "streams"):
        buckets: tuple[str, ...] = ("",)
        if "{bucket}" in entry.read_text():
            buckets = (subjects.chunks_bucket, *settings.buckets)
        for bucket in buckets:
            config = _render(entry, values | {"bucket": bucket})
            found.append(Definition("stream", config["name"], config, config["name"]))
    for entry in _files(folder / "consumers"):
        body = _render(entry, values)
        config = body["config"]
        if settings.status_generation > 1 and config["durable_name"] == values["status_consumer"]:
            # It began behind what the rebuild had read, which no definition can know, nor change.
            del config["deliver_policy"]
        found.append(Definition("consumer", config["durable_name"], config, body["stream_name"]))
    return found


def _files(folder: Traversable) -> list[Traversable]:
    return sorted((f for f in folder.iterdir() if f.name.endswith(".json")), key=lambda f: f.name)


def _render(entry: Traversable, values: dict[str, Any]) -> dict[str, Any]:
    try:
        return _filled(json.loads(entry.read_text()), values)  # type: ignore[no-any-return]  # an object
    except (ValueError, KeyError) as exc:
        raise ConfigError(f"definition {entry.name} is broken: {exc!r}") from exc


_placeholder = re.compile(r"\{(\w+)\}")


def _filled(node: Any, values: dict[str, Any]) -> Any:
    match node:
        case dict():
            return {key: _filled(value, values) for key, value in node.items()}
        case list():
            return [_filled(value, values) for value in node]
        case str():
            if (whole := _placeholder.fullmatch(node)) is not None:
                return values[whole[1]]
            return _placeholder.sub(lambda found: str(values[found[1]]), node)
        case _:
            return node
