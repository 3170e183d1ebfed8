from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucid_events import codec
from lucid_events.domain.commands import COMMANDS, Create, Mark, Start
from lucid_events.domain.envelope import NewEvent, Recorded
from lucid_events.domain.events import SessionMarked
from lucid_events.domain.ids import NO_DIGEST, Digest, SessionId, event_id
from lucid_events.errors import ContractError
from tests.contract.bundle import WHEN, events

HEAD = Digest("ab" * 32)
FIRST, LAST = datetime(1970, 1, 2), datetime(2200, 1, 1)  # noqa: DTZ001 # hypothesis wants naive bounds


def _event(actor: str = "ann", label: str = "l", time: datetime = WHEN, traceparent: str = "") -> NewEvent:
    return NewEvent(
        id=event_id(SessionId("s1"), "c1", 0),
        session=SessionId("s1"),
        event=SessionMarked(label=label, offset=3),
        time=time,
        cause="c1",
        correlation="root",
        actor=actor,
        traceparent=traceparent,
    )


def _decode(headers: dict[str, str], body: bytes) -> Recorded:
    return codec.decode_event(headers, body, sequence=7, stored_at=WHEN, digest=HEAD)


def test_the_envelope_is_cloud_events_in_headers() -> None:
    """Headers carry the whole envelope and the body is the payload alone."""
    headers, body = codec.encode_event(_event(traceparent="00-a-b-01"), HEAD)
    assert headers == {
        "Nats-Msg-Id": _event().id,
        "ce-specversion": "1.0",
        "ce-id": _event().id,
        "ce-type": "session.marked.v1",
        "ce-source": "lucid_events",
        "ce-subject": "s1",
        "ce-time": "2026-03-01T12:00:00.123456Z",
        "Lucid-Causation": "c1",
        "Lucid-Correlation": "root",
        "Lucid-Actor": "ann",
        "Lucid-Prev": HEAD,
        "traceparent": "00-a-b-01",
    }
    assert msgspec.json.decode(body) == {"label": "l", "offset": 3}
    assert "traceparent" not in codec.encode_event(_event(), NO_DIGEST)[0]


@given(
    st.text(min_size=1, max_size=50),
    st.datetimes(FIRST, LAST, timezones=st.just(UTC)),
)
def test_an_event_is_decoded_as_encoded(label: str, time: datetime) -> None:
    """What goes in comes out, to the microsecond, with where it stands."""
    new = _event(label=label, time=time)
    recorded = _decode(*codec.encode_event(new, HEAD))
    for field in ("id", "session", "event", "time", "cause", "correlation", "actor", "traceparent"):
        assert getattr(recorded, field) == getattr(new, field)
    assert (recorded.type, recorded.sequence, recorded.stored_at) == ("session.marked.v1", 7, WHEN)
    assert (recorded.prev, recorded.digest) == (HEAD, HEAD)


@given(st.text())
def test_header_values_are_printable_ascii(text: str) -> None:
    """Any actor becomes printable ASCII without outer spaces; plain names stay as they are."""
    safe = codec.header_safe(text)
    assert all(32 <= ord(char) <= 126 for char in safe)
    assert safe == safe.strip()
    assert codec.header_safe("Ann O'Neil <ann@example.org>") == "Ann O'Neil <ann@example.org>"


def test_a_missing_envelope_header_is_named() -> None:
    """A message that lacks any part of the envelope is told from an event by the part's name."""
    headers, _ = codec.encode_event(_event(), NO_DIGEST)
    assert codec.missing_header(headers) is None
    for name in (
        "ce-specversion",
        "ce-id",
        "ce-type",
        "ce-subject",
        "ce-time",
        "Lucid-Causation",
        "Lucid-Prev",
    ):
        assert codec.missing_header({k: v for k, v in headers.items() if k != name}) == name
    assert codec.missing_header({}) == codec.missing_header(None) == "ce-specversion"


def test_an_unknown_type_asks_for_an_upgrade() -> None:
    """An event of a type or version nobody knows is an error that says so, never skipped."""
    headers, body = codec.encode_event(_event(), NO_DIGEST)
    with pytest.raises(ContractError, match="upgrade"):
        _decode({**headers, "ce-type": "session.marked.v9"}, body)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"label":7,"offset":0}', "label"),
        (b'{"offset":0}', "label"),
        (b'{"label":"x","offset":-1}', "offset"),
        (b"{", "body"),
        (b"\xff", "body"),
        (b"[]", "body"),
        (b"[" * 100_000, "body"),
    ],
)
def test_a_bad_body_is_named_by_field(body: bytes, field: str) -> None:
    """A body that does not fit its type is a contract error that names the field."""
    headers, _ = codec.encode_event(_event(), NO_DIGEST)
    with pytest.raises(ContractError) as error:
        _decode(headers, body)
    assert error.value.fields["field"] == field


def test_events_tolerate_new_fields() -> None:
    """An event written by a later minor version decodes; what is unknown is left out."""
    headers, _ = codec.encode_event(_event(), NO_DIGEST)
    recorded = _decode(headers, b'{"label":"l","offset":3,"colour":"red"}')
    assert recorded.event == SessionMarked(label="l", offset=3)


def test_retired_types_are_upcast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retired type goes through every upcaster to the current one and keeps its stored name."""
    monkeypatch.setattr(
        codec,
        "UPCASTERS",
        {
            "session.noted.v1": lambda body: ("session.noted.v2", {"text": body["t"]}),
            "session.noted.v2": lambda body: ("session.marked.v1", {"label": body["text"], "offset": 0}),
        },
    )
    headers, _ = codec.encode_event(_event(), NO_DIGEST)
    recorded = _decode({**headers, "ce-type": "session.noted.v1"}, b'{"t":"old"}')
    assert recorded.event == SessionMarked(label="old", offset=0)
    assert recorded.type == "session.noted.v1"
    with pytest.raises(ContractError):
        _decode({**headers, "ce-type": "session.noted.v1"}, b'{"t":7}')


def test_an_event_over_the_limit_is_not_encoded() -> None:
    """A body over `MAX_BODY_BYTES` is refused before anything is sent."""
    with pytest.raises(ContractError, match="262144"):
        codec.encode_event(_event(label="x" * codec.MAX_BODY_BYTES), NO_DIGEST)


@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_every_verb_decodes_to_its_command(verb: str) -> None:
    """Each verb has one command; fields it does not know are refused by name."""
    with pytest.raises(ContractError) as error:
        codec.decode_command(verb, b'{"no_such_field": 1}')
    assert error.value.fields["field"]
    try:
        assert type(codec.decode_command(verb, b"")) is COMMANDS[verb]
    except ContractError as missing:
        assert missing.fields["field"] in COMMANDS[verb].__struct_fields__  # noqa: PT017 # a verb with required fields


def test_commands_are_decoded_strictly() -> None:
    """An empty body is an empty command; bad JSON, a wrong type, an unknown verb and size are refused."""
    assert codec.decode_command("start", b"") == Start()
    assert codec.decode_command("create", b'{"owner":"ann"}') == Create(owner="ann")
    assert codec.decode_command("mark", b'{"label":"x"}') == Mark(label="x")
    for verb, data, field in [
        ("jump", b"{}", "verb"),
        ("start", b'{"x":1}', "x"),
        ("create", b'{"settings":{"chunk_bytes":1}}', "settings.chunk_bytes"),
        ("start", b"nonsense", "body"),
        ("start", b" " * (codec.MAX_BODY_BYTES + 1), "body"),
    ]:
        with pytest.raises(ContractError) as error:
            codec.decode_command(verb, data)
        assert error.value.fields["field"] == field


@given(st.datetimes(FIRST, LAST, timezones=st.timezones()))
def test_timestamps_survive(when: datetime) -> None:
    """A time is written in UTC with microseconds and read back as the same instant."""
    text = codec.timestamp(when)
    assert text.endswith("Z")
    assert codec.parse_timestamp(text) == when.astimezone(UTC)


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("2026-03-01T12:00:00Z", 0),
        ("2026-03-01T12:00:00.5Z", 500_000),
        ("2026-03-01T12:00:00.123456789Z", 123_456),
        ("2026-03-01T14:00:00.000001+02:00", 1),
    ],
)
def test_foreign_timestamps_are_read(text: str, micros: int) -> None:
    """Any RFC 3339 time with an offset is read; nanoseconds are cut."""
    assert codec.parse_timestamp(text) == datetime(2026, 3, 1, 12, 0, 0, micros, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["", "now", "2026-03-01", "2026-03-01T12:00:00", "12:00Z", "0001-01-01T00:00:00+14:00"]
)
def test_other_texts_are_no_time(text: str) -> None:
    """A time without offset, or no time at all, is refused with the header's name."""
    with pytest.raises(ContractError) as error:
        codec.parse_timestamp(text)
    assert error.value.fields["field"] == "ce-time"


def test_times_are_written_in_utc() -> None:
    """An instant given in another zone is written in UTC."""
    there = datetime(2026, 3, 1, 14, 0, tzinfo=timezone(timedelta(hours=2)))
    assert codec.timestamp(there) == "2026-03-01T12:00:00.000000Z"
    assert codec.encode_event(events("c1", "a", time=there)[0], NO_DIGEST)[0]["ce-time"].startswith(
        "2026-03-01T12"
    )
