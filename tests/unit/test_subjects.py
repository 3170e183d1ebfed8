import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucid_events import subjects as names
from lucid_events.domain.commands import COMMANDS
from lucid_events.domain.events import EVENT_TYPES
from lucid_events.errors import ConfigError, ContractError
from lucid_events.memory.stream import matches
from lucid_events.subjects import FENCES, Subjects

S = Subjects()
sids = st.from_regex(r"\A[A-Za-z0-9_-]{1,100}\Z")
WILD = ["*", ">", "a.b", "", "a b", "s\n", "x" * 101, "é"]


def test_the_documented_subjects() -> None:
    """Every subject and name of the design is built as it is written there."""
    assert S.command("s1", "start") == "lucid.cmd.s1.start"
    assert S.queued_command("s1", "start") == "lucid.cmdq.s1.start"
    assert S.outcome("s1", "c1") == "lucid.out.s1.c1"
    assert S.outcome(None, "c1") == "lucid.out.~.c1"
    assert S.event("s1", "chunk.ready.v1") == "lucid.evt.s1.chunk.ready"
    assert S.history("s1") == "lucid.evt.s1.>"
    assert S.live_history("s1") == "lucid.live.evt.s1.>"
    assert S.events_of_type("chunk.ready") == S.events_of_type("chunk.ready.v1") == "lucid.evt.*.chunk.ready"
    assert S.events_of_type("chunk.ready", "s1") == "lucid.evt.s1.chunk.ready"
    assert S.capture("s1", 2, 7) == "lucid.cap.s1.2.7"
    assert S.fence("s1", 2, 19) == "lucid.cap.s1.2.fence.3"
    assert S.beat("s1", 2) == "lucid.beat.s1.2"
    assert (S.timer("s1", "stop"), S.due("s1", "stop")) == ("lucid.timer.s1.stop", "lucid.due.s1.stop")
    assert S.dead_letter("chunks") == "lucid.dlq.chunks"
    assert (S.events_stream, S.capture_stream) == ("LUCID_EVENTS", "LUCID_CAPTURE")
    assert (S.chunks_bucket, S.meta_bucket, S.status_bucket(3)) == (
        "lucid-chunks",
        "lucid-meta",
        "lucid-status-v3",
    )
    assert Subjects("my-app").timers_stream == "MY_APP_TIMERS"


@given(sids, st.sampled_from(sorted(COMMANDS)))
def test_a_command_subject_is_parsed_as_built(sid: str, verb: str) -> None:
    """Parsing returns session and verb of an immediate and of a durable command."""
    assert S.parse_command(S.command(sid, verb)) == (sid, verb)
    assert S.parse_command(S.queued_command(sid, verb)) == (sid, verb)


@given(sids, st.sampled_from(sorted(EVENT_TYPES)))
def test_an_event_subject_is_parsed_as_built(sid: str, type_: str) -> None:
    """Parsing an event's subject returns its session, and every filter for it matches."""
    subject = S.event(sid, type_)
    assert S.parse_event(subject) == sid
    for filter in (S.all_events, S.history(sid), S.events_of_type(type_), S.events_of_type(type_, sid)):
        assert matches(filter, subject)
    assert matches(S.live_history(sid), S.live(subject))
    assert not matches(S.all_events, S.live(subject))


@given(sids)
def test_a_due_subject_is_parsed_as_built(sid: str) -> None:
    """Parsing a due subject returns session and timer, and the due filter matches."""
    assert S.parse_due(S.due(sid, "stop")) == (sid, "stop")
    assert matches(S.all_due, S.due(sid, "stop"))


@pytest.mark.parametrize("sid", WILD)
def test_no_wildcard_reaches_a_subject(sid: str) -> None:
    """Every builder refuses an id that is not one before it builds anything."""
    builders: list[Callable[[], str]] = [
        lambda: S.command(sid, "start"),
        lambda: S.queued_command(sid, "start"),
        lambda: S.outcome(sid, "c1"),
        lambda: S.outcome("s1", sid),
        lambda: S.event(sid, "chunk.ready.v1"),
        lambda: S.history(sid),
        lambda: S.live_history(sid),
        lambda: S.capture(sid, 1, 0),
        lambda: S.captured(sid),
        lambda: S.captured_chunks(sid, 1),
        lambda: S.fence(sid, 1, 0),
        lambda: S.beat(sid, 1),
        lambda: S.timer(sid, "stop"),
        lambda: S.due(sid, "stop"),
        lambda: names.object_name(sid, 0, "0" * 64),
    ]
    for build in builders:
        with pytest.raises(ContractError):
            build()


@pytest.mark.parametrize(
    "subject",
    [
        "lucid.cmd.start",
        "lucid.cmd..start",
        "lucid.cmd.a.b.start",
        "x.cmd.s1.start",
        "lucid.evt.s1.start",
        "lucid.cmd.s1.",
        "lucid.cmd.*.start",
        "lucid",
        "",
    ],
)
def test_other_shapes_are_no_command(subject: str) -> None:
    """A subject of another shape, or with an id that is none, is refused when parsed."""
    with pytest.raises(ContractError):
        S.parse_command(subject)


@pytest.mark.parametrize(
    "subject", ["lucid.evt.s1.x", "lucid.evt.s1", "x.evt.s1.a.b", "lucid.cap.s1.1.0", "lucid.evt.a$.b.c"]
)
def test_other_shapes_are_no_history(subject: str) -> None:
    """Only a subject on a history has a session, whatever stands behind it."""
    if subject == "lucid.evt.s1.x":
        assert S.parse_event(subject) == "s1"
        return
    with pytest.raises(ContractError):
        S.parse_event(subject)


@pytest.mark.parametrize(
    "subject", ["lucid.due.s1", "lucid.due.s1.a.b", "x.due.s1.a", "lucid.timer.s1.a", "lucid.due.a$.b"]
)
def test_other_shapes_are_no_due_timer(subject: str) -> None:
    """Only a due subject names a timer."""
    with pytest.raises(ContractError):
        S.parse_due(subject)


@pytest.mark.parametrize("prefix", WILD)
def test_a_bad_prefix_is_a_setting_s_error(prefix: str) -> None:
    """A prefix that is no token is refused and the setting is named."""
    with pytest.raises(ConfigError, match="LUCID_PREFIX"):
        Subjects(prefix)


def test_fences_are_outside_the_filters_for_bytes() -> None:
    """Filters for captured bytes match every chunk and no fence; fences go round."""
    assert len({S.fence("s1", 1, k) for k in range(3 * FENCES)}) == FENCES
    for k in range(FENCES):
        assert not matches(S.captured("s1"), S.fence("s1", 1, k))
        assert not matches(S.captured_chunks("s1", 1), S.fence("s1", 1, k))
    assert matches(S.captured("s1"), S.capture("s1", 1, 0))
    assert matches(S.captured_chunks("s1", 1), S.capture("s1", 1, 12))
    assert not matches(S.captured_chunks("s1", 1), S.capture("s1", 2, 0))


def test_room_for_fences_is_outside_the_filters_of_every_session() -> None:
    """Its subjects are those of no session, and it is at most a quarter of what the stream holds."""
    assert len(set(S.ballast)) == names.BALLAST_PARTS
    for subject in S.ballast:
        assert matches(S.all_ballast, subject)
        with pytest.raises(ContractError):
            S.captured(subject.split(".")[2])
    assert names.ballast_part_bytes(8 * 1024**3) == names.BALLAST_PART_BYTES
    assert 4 * names.BALLAST_PARTS * names.ballast_part_bytes(40_000) <= 40_000


def test_the_stream_of_a_letter_follows_from_its_subject() -> None:
    """Outcomes and dead letters have a stream each; anything else is refused."""
    assert S.letters(S.outcome(None, "c1")) == S.outcomes_stream
    assert S.letters(S.dead_letter("chunks")) == S.dlq_stream
    for subject in (S.history("s1"), "other.out.s1.c1", "lucid", ""):
        with pytest.raises(ContractError):
            S.letters(subject)


def test_object_names_follow_adr_20() -> None:
    """Objects are named by place and content; metadata subjects carry the padded URL-safe base64 name."""
    name = names.object_name("s1", 7, "ab" * 32)
    assert name == "s1/00000007-abababababababab"
    assert names.object_stream("b") == "OBJ_b"
    assert names.object_pieces("b", "N") == "$O.b.C.N"
    subject = names.object_meta("b", name)
    assert base64.urlsafe_b64decode(subject.removeprefix("$O.b.M.")).decode() == name
    assert len(subject.removeprefix("$O.b.M.")) % 4 == 0
    assert (names.kv_stream("b"), names.kv_key("b", "x.y")) == ("KV_b", "$KV.b.x.y")
    assert names.chunk_id("s1", 7) == "s1-chunk-000007"
