"""Logging: one set-up, one list of field names, nothing secret and never a payload.

Messages are constant; what varies travels in `extra` under the names of `FIELDS`.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TextIO

FIELDS = (
    "session",
    "subject",
    "consumer",
    "stream",
    "sequence",
    "attempt",
    "outcome",
    "elapsed_ms",
    "epoch",
    "chunk",
    "offset",
    "bytes",
    "command",
    "code",
    "reason",
    "server",
    "url",
    "pid",
    "count",
    "state",
    "expected",
    "actual",
    "request",
    "trace",
    "generation",
    "version",
)
"""Names under which log lines carry data; everything else in `extra` is an error of the caller."""


_bound: ContextVar[Mapping[str, object]] = ContextVar("bound", default=MappingProxyType({}))


@contextmanager
def bound(**fields: object) -> Iterator[None]:
    """Give every log line of the block `fields` (of `FIELDS`), unless empty or brought by the line."""
    token = _bound.set({**_bound.get(), **{name: value for name, value in fields.items() if value}})
    try:
        yield
    finally:
        _bound.reset(token)


class TextFormatter(logging.Formatter):
    """`time level logger message field=value …`, for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line; an exception follows on lines of its own."""
        when = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        data = " ".join(f"{name}={value}" for name, value in _data(record).items())
        line = f"{when} {record.levelname:<7} {record.name}: {record.getMessage()}"
        if data:
            line = f"{line} {data}"
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line, for machines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line of JSON."""
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_data(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def set_up(level: str, *, as_json: bool = False, stream: TextIO | None = None) -> None:
    """Send the package's log lines to `stream` (standard error), replacing earlier handlers."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(_Binding())
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    root = logging.getLogger("lucid_events")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False


def _data(record: logging.LogRecord) -> dict[str, object]:
    return {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}


class _Binding(logging.Filter):
    """Adds what is bound where a line is logged: a handler may write it elsewhere and later."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in _bound.get().items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True
