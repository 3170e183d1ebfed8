"""The session recorder: recordings from `start` to deleted, and playing them."""

import logging
from typing import Annotated, Any, Literal

from litestar import Controller, Response, delete, get, head, post
from litestar.params import QueryParameter
from msgspec import Meta

from lucid_events.domain import commands as cmd
from lucid_events.domain.ids import SessionId, session_id
from lucid_events.domain.transitions import State
from lucid_events.domain.values import Metadata, Name, Request, SettingsAsked
from lucid_events.errors import ConfigError, LucidError
from lucid_events.gateway import answers
from lucid_events.gateway.bodies import AnyRequest, json_body
from lucid_events.gateway.chunk_answers import receipts_of, statistics_of
from lucid_events.gateway.context import (
    GIVE_UP_S,
    Cursor,
    Gateway,
    Limit,
    Sid,
    Wait,
    actor_of,
    ask,
    commands_of,
    etag,
    gateway_of,
    noting,
)
from lucid_events.gateway.documenting import OCTETS, CommandBody, also, failures, octets
from lucid_events.gateway.errors import Unrecordable
from lucid_events.gateway.paging import cursor, place
from lucid_events.gateway.statuses import error_of, offsets_of
from lucid_events.gateway.streams import answer_media, head_media
from lucid_events.gateway.transitions import erase, reached
from lucid_events.playback import Contents
from lucid_events.projections.status_view import StatusView
from lucid_events.recorder import CommandSource, Source

_log = logging.getLogger(__name__)

STOP_WAIT_S = 30.0
"""How long `stop` and `delete` wait by themselves: older clients read all chunks from the answer."""
MAX_WORDS = 200

_LIST = "recordings"
_ENDED = frozenset({State.CREATED, State.STOPPED, State.ERROR, State.CLEANUP, State.DESTROYED})


class StartRecording(Request, frozen=True, kw_only=True):
    """What is recorded, and from where: bytes pushed to us, a screen, or a program the operator allows."""

    session_id: str
    owner_address: Name = ""
    label: Name = ""
    metadata: Metadata = {}
    settings: SettingsAsked = SettingsAsked()
    source: Literal["push", "screen", "command"] = "push"
    content_type: Name = ""
    command: Annotated[list[Annotated[str, Meta(max_length=4096)]], Meta(max_length=MAX_WORDS)] = []


class Recordings(Controller):
    """`/recordings`."""

    path = "/recordings"
    tags = ["recordings"]

    @post(
        "/start",
        operation_class=CommandBody.of(StartRecording, required=True),
        responses=failures(409, 413, 415, 429),
    )
    async def start(self, request: AnyRequest) -> Response[answers.RecordingStarted]:
        """Create a session and begin to record it here."""
        gateway = gateway_of(request)
        asked = await json_body(request, StartRecording, stopping=gateway.stopping)
        session = session_id(asked.session_id)
        source = await _source(gateway, asked)
        created = cmd.Create(
            owner=asked.owner_address, label=asked.label, metadata=asked.metadata, settings=asked.settings
        )
        await ask(request, session, created)
        started = await gateway.client.commands_as(actor_of(request)).send(session, cmd.Start())
        try:
            await _record(request, session, source, asked.content_type)
        except LucidError as exc:
            # Nobody else will record it: better an error with its reason than a session that waits.
            await _give_up(request, session, exc)
            if isinstance(exc, ConfigError) and "command" in exc.fields:  # it is the program that fails
                raise Unrecordable(exc.message, field="command") from exc
            raise
        view = await gateway.client.status(session, min_version=started.version)
        version = view.position.sequence
        content = answers.RecordingStarted(
            session_id=session,
            status=str(State.STARTING),
            started_at=view.started_at or gateway.client.adapters.clock.now(),
            output_path=output_path(session),
            source=source.name if source else "push",
            position=version,
        )
        headers = {"ETag": etag(version), "Location": f"/recordings/{session}"}
        return Response(content, status_code=201, headers=headers)

    @post(
        "/{sid:str}/stop",
        operation_class=CommandBody.of(),
        status_code=200,
        responses={
            202: also(answers.RecordingStopped, "On its way: follow `status`."),
            **failures(404, 409, 412),
        },
    )
    async def stop(
        self, request: AnyRequest, sid: Sid, wait: Wait = STOP_WAIT_S
    ) -> Response[answers.RecordingStopped]:
        """Stop a recording, and tell all of its chunks once they are stored."""
        gateway, session = gateway_of(request), session_id(sid)
        accepted = await ask(request, session, cmd.Stop())
        view = await reached(request, session, cmd.Stop(), accepted.version, wait_s=wait)
        contents = await gateway.client.player.contents(session)
        stored = receipts_of(session, (contents.chunks[index] for index in sorted(contents.chunks)))
        content = answers.RecordingStopped(
            session_id=session,
            status=str(view.state),
            stopped_at=view.stopped_at,
            output_path=output_path(session),
            final_chunks=len(stored),
            chunk_metadata=stored,
            position=view.position.sequence,
        )
        headers = {"ETag": etag(view.position.sequence)}
        return Response(content, status_code=200 if view.state is State.STOPPED else 202, headers=headers)

    @get(responses=failures())
    async def list_recordings(
        self,
        request: AnyRequest,
        owner: Annotated[str | None, QueryParameter(max_length=200)] = None,
        in_state: Annotated[State | None, QueryParameter(name="state")] = None,
        cursor_: Cursor = None,
        limit: Limit = 100,
    ) -> answers.RecordingPage:
        """List recordings, the one that changed its state longest ago first."""
        page = await gateway_of(request).client.sessions(
            owner=owner, state=in_state, after=place(_LIST, cursor_), limit=limit
        )
        entries = [answers.entry_of(entry) for entry in page.entries]
        return answers.RecordingPage(recordings=entries, cursor=cursor(_LIST, page.cursor))

    @get("/{sid:str}", responses=failures(404))
    async def recording(self, request: AnyRequest, sid: Sid) -> Response[answers.Recording]:
        """Say where a recording stands."""
        gateway = gateway_of(request)
        view = await gateway.client.status_now(session_id(sid))
        return Response(_recording(gateway, view), headers={"ETag": etag(view.position.sequence)})

    @delete(
        "/{sid:str}",
        operation_class=CommandBody.of(),
        status_code=200,
        responses={
            202: also(answers.RecordingDeleted, "On its way: follow `status`."),
            **failures(404, 409, 412),
        },
    )
    async def remove(
        self, request: AnyRequest, sid: Sid, wait: Wait = STOP_WAIT_S
    ) -> Response[answers.RecordingDeleted]:
        """Erase a recording's bytes, stopping it first; its history stays."""
        gateway, session = gateway_of(request), session_id(sid)
        view = await gateway.client.status_now(session)
        runs = view.state not in _ENDED
        if runs:
            accepted = await ask(request, session, cmd.Stop(reason="deleted over HTTP"))
            view = await reached(request, session, cmd.Stop(), accepted.version, wait_s=wait)
        deleted = view.chunks.ready
        if view.state in _ENDED:
            view = await erase(request, session, wait_s=wait, first=not runs)
        content = answers.RecordingDeleted(
            session_id=session,
            status=str(view.state),
            deleted_chunks=deleted,
            position=view.position.sequence,
        )
        return Response(content, status_code=200 if view.state is State.DESTROYED else 202)

    @get(
        "/{sid:str}/media",
        responses={**octets("The recording."), **failures(404, 416)},
    )
    async def media(self, request: AnyRequest, sid: Sid) -> Response[Any]:
        """Play a recording, whole or by `Range`; only the chunks that hold the range are read."""
        contents = await _playable(request, sid)
        player = gateway_of(request).client.player
        return await answer_media(request, player, contents, note=noting(request, contents.session, "play"))

    @head("/{sid:str}/media", responses={**octets("Its size."), **failures(404, 416)})
    async def media_head(self, request: AnyRequest, sid: Sid) -> Response[None]:
        """Say how long a recording is, and what it is."""
        return head_media(request, await _playable(request, sid))


async def _record(request: AnyRequest, session: SessionId, source: Source | None, content_type: str) -> None:
    recorders, actor = gateway_of(request).recorders, actor_of(request)
    if source is None:
        await recorders.pushing(session, actor=actor, content_type=content_type)
    else:
        await recorders.record(session, source, actor=actor)


async def _give_up(request: AnyRequest, session: SessionId, why: LucidError) -> None:
    fail = cmd.Fail(code="not_recorded", reason=why.message[:500])
    try:
        await commands_of(request).send(session, fail, give_up_after_s=GIVE_UP_S)
    except LucidError as exc:
        _log.warning("a session waits in vain", extra={"session": session, "reason": exc.message})


async def _playable(request: AnyRequest, sid: str) -> Contents:
    return await gateway_of(request).client.player.playable(session_id(sid))


def output_path(session: SessionId) -> str:
    """Return where a recording can be had, under the name that clients know."""
    return f"/recordings/{session}/media"


async def _source(gateway: Gateway, asked: StartRecording) -> Source | None:
    """Return what produces the bytes; None when they are pushed.

    Raises:
        Unrecordable: a program that the operator did not allow, or a screen that no encoder takes.
    """
    if asked.source == "push":
        return None
    if asked.source == "screen":
        from lucid_events.recorder.sources.screen import open_screen  # noqa: PLC0415 - needs an encoder

        try:
            return await open_screen(gateway.settings.screen)
        except ConfigError as exc:
            raise Unrecordable(exc.message, field="source") from exc
    allowed = gateway.settings.http.commands
    if not asked.command or asked.command[0] not in allowed:
        named = repr(asked.command[0]) if asked.command else "no program"
        raise Unrecordable(
            f"{named} may not be run here: LUCID_RECORDING_COMMANDS allows {', '.join(allowed) or 'none'}",
            field="command",
        )
    return CommandSource(asked.command, content_type=asked.content_type or OCTETS)


def _recording(gateway: Gateway, view: StatusView) -> answers.Recording:
    offsets = offsets_of(gateway, view.session_id)
    return answers.Recording(
        session_id=view.session_id,
        owner_address=view.owner,
        status=str(view.state),
        started_at=view.started_at,
        stopped_at=view.stopped_at,
        output_path=output_path(view.session_id),
        chunks_created=view.chunks.sealed,
        total_chunk_size=view.raw_bytes,
        chunk_statistics=statistics_of(view),
        source=view.source,
        content_type=view.content_type,
        accepted_offset=offsets.accepted,
        durable_offset=offsets.durable,
        error_message=error_of(view),
        position=view.position.sequence,
    )
