"""The pipeline manager: sessions from `create` to `destroyed`, and bytes pushed into them."""

from typing import Annotated, Any, Literal

import msgspec
from litestar import Controller, Response, delete, get, head, post
from litestar.datastructures import ResponseHeader
from litestar.params import FromQuery, PathParameter, QueryParameter

from lucid_events.domain import commands as cmd
from lucid_events.domain.ids import SessionId, session_id
from lucid_events.domain.transitions import State
from lucid_events.domain.values import MAX_OFFSET, Label, Metadata, Name, Request, SettingsAsked, Text
from lucid_events.errors import ContractError
from lucid_events.gateway import answers
from lucid_events.gateway.bodies import AnyRequest, json_body
from lucid_events.gateway.context import (
    MAX_WAIT_S,
    At,
    Cursor,
    Gateway,
    Limit,
    Sid,
    Wait,
    actor_of,
    ask,
    etag,
    gateway_of,
    one_session,
)
from lucid_events.gateway.documenting import CommandBody, PushedBytes, also, failures
from lucid_events.gateway.paging import cursor, place
from lucid_events.gateway.ranges import unchanged
from lucid_events.gateway.statuses import pipeline_status
from lucid_events.gateway.transitions import erase, move, moved, reached
from lucid_events.gateway.uploads import offset_of, push

START_WAIT_S = 5.0
"""How long `start` and `resume` wait for the state by themselves; the recorder is here, so it is near."""
STOP_WAIT_S = 5.0
"""How long what drains waits by itself: the last chunk has to be stored."""
RECEIPT_WAIT_S = 30.0
"""How long `wait=ready` waits unless it says otherwise."""

_LIST = "pipelines"


class CreatePipeline(Request, frozen=True, kw_only=True):
    """What a session begins with; everything but its id is optional."""

    session_id: str | None = None
    owner_address: Name = ""
    label: Name = ""
    metadata: Metadata = {}
    settings: SettingsAsked = SettingsAsked()


class Why(Request, frozen=True, kw_only=True):
    """Why something is asked for; kept in the history."""

    reason: Text = ""


class MarkPipeline(Request, frozen=True, kw_only=True):
    """A bookmark; without `offset` it stands where the sealed bytes end now."""

    label: Label
    offset: Annotated[int, msgspec.Meta(ge=0, le=MAX_OFFSET)] | None = None


class HoldPipeline(Request, frozen=True, kw_only=True):
    """A hold, by its name."""

    hold: Label
    reason: Text = ""


_MARK = CommandBody.of(MarkPipeline, required=True)
_HOLD = CommandBody.of(HoldPipeline, required=True)
_OFFSET = ResponseHeader(
    name="Upload-Offset", description="Byte of the session that comes next.", documentation_only=True
)
_MOVES = {202: also(answers.Moved, "On its way: follow `state`."), **failures(404, 409, 412, 413, 415)}


class Pipelines(Controller):
    """`/pipelines`: commands, status, and the bytes of a session."""

    path = "/pipelines"
    tags = ["pipelines"]

    @post(operation_class=CommandBody.of(CreatePipeline), responses=failures(409, 413, 415, 429))
    async def create(
        self,
        request: AnyRequest,
        given_id: Annotated[str | None, QueryParameter(name="session_id", max_length=100)] = None,
        owner_address: Annotated[str | None, QueryParameter(max_length=200)] = None,
    ) -> Response[answers.Created]:
        """Bring a session into being; its id is in the body, or in the query as it always was."""
        body = await json_body(
            request, CreatePipeline, stopping=gateway_of(request).stopping, empty=CreatePipeline()
        )
        session = one_session(given_id, body.session_id)
        command = cmd.Create(
            owner=body.owner_address or owner_address or "",
            label=body.label,
            metadata=body.metadata,
            settings=body.settings,
        )
        accepted = await ask(request, session, command)
        content = answers.Created(
            session_id=session,
            pipeline_id=answers.pipeline_id(session),
            status=accepted.state,
            position=accepted.version,
        )
        headers = {"ETag": etag(accepted.version), "Location": f"/pipelines/{session}/status"}
        return Response(content, status_code=201, headers=headers)

    @get(responses=failures())
    async def list_pipelines(
        self,
        request: AnyRequest,
        owner: Annotated[str | None, QueryParameter(max_length=200)] = None,
        in_state: Annotated[State | None, QueryParameter(name="state")] = None,
        cursor_: Cursor = None,
        limit: Limit = 100,
    ) -> answers.PipelinePage:
        """List sessions, the one that changed its state longest ago first."""
        page = await gateway_of(request).client.sessions(
            owner=owner, state=in_state, after=place(_LIST, cursor_), limit=limit
        )
        entries = [answers.entry_of(entry) for entry in page.entries]
        return answers.PipelinePage(pipelines=entries, cursor=cursor(_LIST, page.cursor))

    @post("/{sid:str}/start", operation_class=CommandBody.of(), status_code=200, responses=_MOVES)
    async def start(
        self,
        request: AnyRequest,
        sid: Sid,
        source: FromQuery[Literal["push", "external"]] = "push",
        wait: Wait = START_WAIT_S,
    ) -> Response[answers.Moved]:
        """Start a session: this service takes its bytes, or, `external`, another recorder will attach."""
        session = session_id(sid)
        accepted = await ask(request, session, cmd.Start())
        if source == "push" and accepted.state == State.STARTING:
            await gateway_of(request).recorders.pushing(session, actor=actor_of(request))
        view = await reached(request, session, cmd.Start(), accepted.version, wait_s=wait)
        return moved(view, done=view.state is State.ACTIVE)

    @post("/{sid:str}/stop", operation_class=CommandBody.of(Why), status_code=200, responses=_MOVES)
    async def stop(self, request: AnyRequest, sid: Sid, wait: Wait = STOP_WAIT_S) -> Response[answers.Moved]:
        """Stop a session: what was taken in becomes chunks, then it has its manifest."""
        return await move(request, sid, cmd.Stop(reason=await _why(request)), wait_s=wait)

    @post("/{sid:str}/pause", operation_class=CommandBody.of(Why), status_code=200, responses=_MOVES)
    async def pause(self, request: AnyRequest, sid: Sid, wait: Wait = STOP_WAIT_S) -> Response[answers.Moved]:
        """Pause a session: what was taken in is sealed, and nothing is taken until `resume`."""
        return await move(request, sid, cmd.Pause(reason=await _why(request)), wait_s=wait)

    @post("/{sid:str}/resume", operation_class=CommandBody.of(), status_code=200, responses=_MOVES)
    async def resume(
        self, request: AnyRequest, sid: Sid, wait: Wait = START_WAIT_S
    ) -> Response[answers.Moved]:
        """Take bytes again after a pause."""
        return await move(request, sid, cmd.Resume(), wait_s=wait)

    @post("/{sid:str}/recover", operation_class=CommandBody.of(Why), status_code=200, responses=_MOVES)
    async def recover(self, request: AnyRequest, sid: Sid) -> Response[answers.Moved]:
        """Bring a stopped or failed session back; its bytes go on where they ended."""
        return await move(request, sid, cmd.Recover(reason=await _why(request)), wait_s=0)

    @post("/{sid:str}/fail", operation_class=CommandBody.of(Why), status_code=200, responses=_MOVES)
    async def fail(self, request: AnyRequest, sid: Sid) -> Response[answers.Moved]:
        """Give a session up; what was captured is salvaged."""
        return await move(request, sid, cmd.Fail(reason=await _why(request)), wait_s=0)

    @post(
        "/{sid:str}/marks",
        operation_class=_MARK,
        status_code=200,
        responses=_MOVES,
    )
    async def mark(self, request: AnyRequest, sid: Sid) -> Response[answers.Moved]:
        """Set a bookmark."""
        body = await json_body(request, MarkPipeline, stopping=gateway_of(request).stopping)
        return await _note(request, sid, cmd.Mark(label=body.label, offset=body.offset))

    @post(
        "/{sid:str}/holds",
        operation_class=_HOLD,
        status_code=200,
        responses=_MOVES,
    )
    async def hold(self, request: AnyRequest, sid: Sid) -> Response[answers.Moved]:
        """Forbid erasure until the hold is released."""
        body = await json_body(request, HoldPipeline, stopping=gateway_of(request).stopping)
        return await _note(request, sid, cmd.Hold(hold=body.hold, reason=body.reason))

    @delete(
        "/{sid:str}/holds/{hold:str}", operation_class=CommandBody.of(), responses=_MOVES, status_code=200
    )
    async def release(
        self, request: AnyRequest, sid: Sid, hold: Annotated[str, PathParameter(min_length=1, max_length=200)]
    ) -> Response[answers.Moved]:
        """Lift a hold."""
        return await _note(request, sid, cmd.Release(hold=hold))

    @get("/{sid:str}/status", responses={304: also(None, "Unchanged."), **failures(404)})
    async def status(
        self,
        request: AnyRequest,
        sid: Sid,
        min_position: Annotated[int | None, QueryParameter(ge=0, le=MAX_OFFSET)] = None,
        timeout: Annotated[float, QueryParameter(ge=0, le=MAX_WAIT_S)] = 5.0,  # noqa: ASYNC109 - a parameter of the API
    ) -> Response[Any]:
        """Say where a session stands, at least as of `min_position`: the `position` of an earlier answer."""
        gateway, session = gateway_of(request), session_id(sid)
        if min_position is None:
            view = await gateway.client.status_now(session)
        else:
            await _reachable(gateway, session, min_position)
            view = await gateway.client.status(session, min_version=min_position, timeout_s=timeout)
        tag = etag(view.position.sequence)
        if unchanged(request.headers.get("if-none-match"), tag):
            return Response(None, status_code=304, headers={"ETag": tag})
        return Response(pipeline_status(gateway, view), headers={"ETag": tag})

    @delete("/{sid:str}", operation_class=CommandBody.of(), status_code=200, responses=_MOVES)
    async def remove(
        self, request: AnyRequest, sid: Sid, wait: Wait = STOP_WAIT_S
    ) -> Response[answers.Moved]:
        """Erase a session's bytes; its history stays."""
        view = await erase(request, session_id(sid), wait_s=wait)
        return moved(view, done=view.state is State.DESTROYED)

    @post(
        "/{sid:str}/chunks",
        operation_class=PushedBytes,
        status_code=202,
        responses={
            200: also(answers.Accepted, "Stored and verified: the receipts are in the answer."),
            **failures(400, 404, 408, 409, 413, 415),
        },
    )
    async def push_bytes(
        self,
        request: AnyRequest,
        sid: Sid,
        offset: At = None,
        wait: FromQuery[Literal["ready"] | None] = None,
        timeout: Annotated[float, QueryParameter(ge=0, le=MAX_WAIT_S)] = RECEIPT_WAIT_S,  # noqa: ASYNC109 - a parameter of the API
    ) -> Response[answers.Accepted]:
        """Record bytes: 202 once they are durable, 200 with their receipts when `wait=ready`."""
        session = session_id(sid)
        ready = wait == "ready"
        done = await push(request, session, offset=offset, wait_s=timeout, end_chunk=ready)
        stored = ready and done.complete and not done.failed
        content = answers.Accepted(
            session_id=session,
            status="ready" if stored else "accepted",
            accepted_bytes=done.end - done.begin,
            offset=done.begin,
            next_offset=done.end,
            chunk_index=done.index,
            receipts=done.receipts(session),
        )
        headers = {"Upload-Offset": str(done.end)}
        return Response(content, status_code=200 if stored else 202, headers=headers)

    @head("/{sid:str}/chunks", status_code=204, response_headers=[_OFFSET], responses=failures(404, 409))
    async def upload_offset(self, request: AnyRequest, sid: Sid) -> Response[None]:
        """Say in `Upload-Offset` where pushed bytes go on; a session whose recorder died is taken over.

        That takes one and a half beats of silence (7.5 s unless set otherwise), and reading what it left.
        409 says why in `Lucid-Reason`: `not_active` in `Lucid-State`, `recorder_alive` elsewhere, `busy`.
        """
        offset = await offset_of(request, session_id(sid))
        headers = {"Upload-Offset": str(offset), "Cache-Control": "no-store"}
        return Response(None, status_code=204, headers=headers)


async def _reachable(gateway: Gateway, session: SessionId, position: int) -> None:
    """Refuse to wait for a position the history does not have: no view will ever get there."""
    version = int(await gateway.client.store.version(session))
    if not version:
        await gateway.client.missing(session)
    if position > version:
        raise ContractError(
            f"session {session} is at position {version}, not yet at {position}: use one of its answers",
            field="min_position",
        )


async def _why(request: AnyRequest) -> str:
    return (await json_body(request, Why, stopping=gateway_of(request).stopping, empty=Why())).reason


async def _note(request: AnyRequest, sid: str, command: cmd.SessionCommand) -> Response[answers.Moved]:
    session = session_id(sid)
    accepted = await ask(request, session, command)
    view = await gateway_of(request).client.status(session, min_version=accepted.version)
    return moved(view, done=True)
