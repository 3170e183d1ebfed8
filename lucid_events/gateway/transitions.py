"""Moving a session from state to state, and saying how far it came."""

from litestar import Response

from lucid_events.domain import commands as cmd
from lucid_events.domain.ids import SessionId, session_id
from lucid_events.domain.transitions import State
from lucid_events.errors import CommandRejected
from lucid_events.gateway.answers import Moved
from lucid_events.gateway.bodies import AnyRequest
from lucid_events.gateway.context import ask, etag, gateway_of
from lucid_events.projections.status_view import StatusView

GOALS: dict[type[cmd.SessionCommand], State] = {
    cmd.Start: State.ACTIVE,
    cmd.Pause: State.PAUSED,
    cmd.Resume: State.ACTIVE,
    cmd.Stop: State.STOPPED,
    cmd.Recover: State.CREATED,
    cmd.Fail: State.ERROR,
    cmd.Cleanup: State.DESTROYED,
    cmd.Destroy: State.DESTROYED,
}
"""What each verb is asked for; on the way there a session may take its time."""


async def move(
    request: AnyRequest, sid: str, command: cmd.SessionCommand, *, wait_s: float
) -> Response[Moved]:
    """Ask for a transition; 200 once its goal is reached, 202 when that takes longer than `wait_s`."""
    session = session_id(sid)
    accepted = await ask(request, session, command)
    view = await reached(request, session, command, accepted.version, wait_s=wait_s)
    return moved(view, done=view.state is GOALS[type(command)])


async def reached(
    request: AnyRequest, session: SessionId, command: cmd.SessionCommand, version: int, *, wait_s: float
) -> StatusView:
    """Return the session's status once it has got where `command` leads, or as it is after `wait_s`."""
    goal = GOALS[type(command)]
    # A session that failed on the way is not waited for any longer.
    states = {goal, State.ERROR} if goal is not State.ERROR else {goal}
    return await gateway_of(request).client.status_in(session, states, min_version=version, timeout_s=wait_s)


async def erase(request: AnyRequest, session: SessionId, *, wait_s: float, first: bool = True) -> StatusView:
    """Erase a session's bytes and end it; one of which nothing is stored only ends.

    Args:
        first: False when the request has led to another command before; see `ask`.

    Raises:
        CommandRejected: it is held, or in a state that must be left first.
    """
    command: cmd.SessionCommand = cmd.Cleanup(reason="deleted over HTTP")
    try:
        accepted = await ask(request, session, command, first=first)
    except CommandRejected as exc:
        if exc.fields.get("state") != State.CREATED:
            _reword(exc, session)
            raise
        command = cmd.Destroy(reason="deleted over HTTP")
        try:
            accepted = await ask(request, session, command, first=first)
        except CommandRejected as again:
            _reword(again, session)
            raise
    return await reached(request, session, command, accepted.version, wait_s=wait_s)


def _reword(refused: CommandRejected, session: SessionId) -> None:
    """Say the refusal of a DELETE in the words of these services, which have one verb for two commands."""
    match refused.fields.get("reason"):
        case "illegal_transition":
            refused.message = f"session {session} is {refused.fields.get('state')}: delete is not allowed"
        case "not_empty":
            refused.message = (
                f"session {session} was recovered and has chunks: `POST …/fail` first, then delete it"
            )


def moved(view: StatusView, *, done: bool) -> Response[Moved]:
    """Return the answer to a transition."""
    version = view.position.sequence
    content = Moved(
        session_id=view.session_id, status=str(view.state), state=str(view.state), position=version
    )
    return Response(content, status_code=200 if done else 202, headers={"ETag": etag(version)})
