"""What the routes of one service work with, and what they take from every request alike."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Annotated

from litestar.params import PathParameter, QueryParameter

from lucid_events.client import Commands
from lucid_events.config import Service, Settings
from lucid_events.domain.commands import SessionCommand
from lucid_events.domain.ids import CommandId, SessionId, command_id, derived_command_id, session_id
from lucid_events.domain.replies import Accepted
from lucid_events.domain.values import MAX_OFFSET
from lucid_events.errors import ContractError
from lucid_events.gateway.access import identity_of
from lucid_events.gateway.bodies import AnyRequest
from lucid_events.gateway.errors import HttpError
from lucid_events.service import Client, Recorders
from lucid_events.service.monitoring import Monitor

GIVE_UP_S = 10.0
"""How long a command is repeated while nobody answers it. Half gives up during a restart of the
service, twice outlasts the patience of most HTTP clients."""
MAX_WAIT_S = 60.0
"""Longest a client may ask us to wait for a state or a receipt."""
_ANYONE = "http"

_TAG = re.compile(r'(?:W/)?"(\d{1,16})"', re.ASCII)

Sid = Annotated[
    str,
    PathParameter(pattern="^[A-Za-z0-9_-]{1,100}$", description="Session id: A-Z a-z 0-9 _ -."),
]
Limit = Annotated[int, QueryParameter(ge=1, le=1000, description="Most entries of a page.")]
Cursor = Annotated[
    str | None,
    QueryParameter(name="cursor", max_length=200, description="Where to go on: `cursor` of the page before."),
]
Wait = Annotated[
    float,
    QueryParameter(ge=0, le=MAX_WAIT_S, description="Seconds to wait for what is asked for."),
]
At = Annotated[
    int | None,
    QueryParameter(ge=0, le=MAX_OFFSET, description="Byte of the session that the first one of the body is."),
]


class Gateway:
    """One HTTP service of this process.

    Attributes:
        stopping: set once the process is about to end: streams end, bodies are read no further.
        monitor: what can be seen of this process and of the pipeline.
    """

    def __init__(
        self,
        service: Service,
        client: Client,
        recorders: Recorders,
        *,
        stopping: asyncio.Event,
        monitor: Monitor,
    ) -> None:
        self.service, self.client, self.recorders = service, client, recorders
        self.stopping, self.monitor = stopping, monitor
        self.statistics = monitor.statistics
        self.name = client.settings.http.name_of(service)

    @property
    def settings(self) -> Settings:
        """The settings of the process."""
        return self.client.settings


def gateway_of(request: AnyRequest) -> Gateway:
    """Return the service that `request` came to."""
    gateway: Gateway = request.app.state.gateway
    return gateway


def actor_of(request: AnyRequest) -> str:
    """Return who asks: the identity that was checked, else what the request claims."""
    return identity_of(request).name or _ANYONE


async def ask(
    request: AnyRequest, session: SessionId, command: SessionCommand, *, first: bool = True
) -> Accepted:
    """Send `command` as `request` has it: on behalf of who asks, once per `Idempotency-Key`, if `If-Match`.

    Args:
        first: False of a further command of the same request: the condition was met by the first one,
            and the key stands for that one, so an id for this one is derived from it.

    Raises:
        LucidError: see `Commands.send`.
        HttpError: 412, `If-Match` names no version.
    """
    key, version = _idempotency_key(request), _if_match(request)
    if not first:
        key = derived_command_id(session, key, command.verb) if key else None
        version = None
    return await commands_of(request).send(
        session, command, id=key, if_version=version, give_up_after_s=GIVE_UP_S
    )


def commands_of(request: AnyRequest) -> Commands:
    """Return a sender of commands on behalf of who asks."""
    return gateway_of(request).client.commands_as(actor_of(request))


def noting(request: AnyRequest, session: SessionId, how: str) -> Callable[[int, int], Awaitable[None]]:
    """Return what notes in the history of `session` that who asks is about to be handed bytes."""

    async def note(start: int, end: int) -> None:
        client = gateway_of(request).client
        await client.note_view(session, start=start, end=end, how=how, commands=commands_of(request))

    return note


def etag(version: int) -> str:
    """Return the entity tag of a session at `version`.

    >>> etag(42)
    '"42"'
    """
    return f'"{version}"'


def one_session(*given: str | None) -> SessionId:
    """Return the session id that was given, in one place or in several that agree.

    Raises:
        ContractError: there is none, they differ, or it is not one.
    """
    found = {text for text in given if text is not None}
    if len(found) != 1:
        what = "is missing: put it into the body or the query" if not found else "differs in body and query"
        raise ContractError(f"session_id {what}", field="session_id")
    return session_id(found.pop())


def _idempotency_key(request: AnyRequest) -> CommandId | None:
    text = request.headers.get("idempotency-key")
    if text is None:
        return None
    try:
        return command_id(text)
    except ContractError as exc:
        raise ContractError(f"Idempotency-Key: {exc.message}", field="Idempotency-Key") from exc


def _if_match(request: AnyRequest) -> int | None:
    text = request.headers.get("if-match")
    if text is None or text.strip() == "*":
        return None
    found = _TAG.fullmatch(text.strip())
    if found is None:
        raise HttpError(
            412, "version_mismatch", "If-Match names no version: use the ETag of an earlier answer"
        )
    return int(found.group(1))
