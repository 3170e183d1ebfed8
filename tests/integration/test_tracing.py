"""One trace from a command to the chunk it leads to, through the headers of the messages between."""

import asyncio
import io
import json
import logging
import random

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_span_id, format_trace_id

from lucid_events import logs, tracing
from lucid_events.domain.envelope import Recorded
from tests.integration.arena import Feed, arena
from tests.nats_server import NatsServer

SID = "traced"
CLIENT_TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT_SPAN = "b7ad6b7169203331"


def _ids(span: ReadableSpan) -> tuple[str, str, str]:
    """Trace, span and parent as they stand in a header."""
    assert span.context is not None
    parent = format_span_id(span.parent.span_id) if span.parent else ""
    return format_trace_id(span.context.trace_id), format_span_id(span.context.span_id), parent


async def record(server: NatsServer, rng: random.Random) -> list[Recorded]:
    """Record a few bytes into one chunk and return the history once the session is stopped."""
    async with arena(server, rng) as made:
        await made.workers(1)
        adapters = await made.join("recorder")
        parent = f"00-{CLIENT_TRACE}-{CLIENT_SPAN}-01"
        with tracing.span("record", parent=parent):
            await made.recording(adapters, SID, Feed(rng.randbytes(50_000))).run()
        await made.until(SID, "stopped")
        return await made.history(SID)


def test_one_trace_spans_command_to_chunk_ready(
    server: NatsServer, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seal that a recorder sent and the chunk that became ready are in one trace, link by link."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    events = {one.type: one for one in asyncio.run(record(server, rng))}

    spans = [span for span in exporter.get_finished_spans() if _ids(span)[0] == CLIENT_TRACE]
    by_id = {_ids(span)[1]: span for span in spans}
    sealed, ready = (events[name].traceparent.split("-") for name in ("chunk.sealed.v1", "chunk.ready.v1"))
    assert sealed[1] == ready[1] == CLIENT_TRACE

    path, at = [], ready[2]
    while at in by_id:
        path.append(by_id[at].name)
        at = _ids(by_id[at])[2]
    assert path == ["react chunks", "handle seal", "send seal", "record"]
    assert at == CLIENT_SPAN
    stages = {span.name for span in spans if _ids(span)[2] == ready[2]}
    assert {"chunk_generation", "compression", "storage"} <= stages
    assert events["session.stopped.v1"].traceparent.split("-")[1] == CLIENT_TRACE


def test_without_an_sdk_a_trace_is_handed_on(
    server: NatsServer, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's trace context reaches the events although nothing here records spans."""
    monkeypatch.setattr(tracing, "INSTALLED", False)
    history = asyncio.run(record(server, rng))
    traced = {one.type for one in history if one.traceparent == f"00-{CLIENT_TRACE}-{CLIENT_SPAN}-01"}
    assert {"session.created.v1", "chunk.sealed.v1", "chunk.ready.v1"} <= traced


def test_log_lines_name_session_and_trace() -> None:
    """What is bound to a piece of work is on each of its lines, in tasks it starts too, and nowhere else."""
    stream = io.StringIO()
    root = logging.getLogger("lucid_events")
    kept = root.handlers[:], root.level, root.propagate
    log = logging.getLogger("lucid_events.test")

    async def inner() -> None:
        log.info("inside", extra={"session": "its own"})

    async def main() -> None:
        with logs.bound(request="r-1", session="s-1", trace=""):
            log.info("outside")
            await asyncio.create_task(inner())
        log.info("after")

    try:
        logs.set_up("INFO", as_json=True, stream=stream)
        asyncio.run(main())
    finally:
        root.handlers[:], root.level, root.propagate = kept
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line.get("request"), line.get("session"), "trace" in line) for line in lines] == [
        ("r-1", "s-1", False),
        ("r-1", "its own", False),
        (None, None, False),
    ]
