"""Stored messages of the log read as events: what is an event, and what a stray.

One rule for everybody who reads: stores, reactions, projections, analytics. Who judged otherwise would
show another history.
"""

from collections.abc import Mapping

from lucid_events import codec
from lucid_events.domain.envelope import Recorded, Stray
from lucid_events.domain.ids import Digest, Sequence, SessionId
from lucid_events.errors import ContractError
from lucid_events.evidence import chain
from lucid_events.evidence.messages import StoredMessage


def read_message(
    message: StoredMessage, session: SessionId, digest: Digest | None = None
) -> Recorded | Stray:
    """Return the event in a message on a history's subject, or the stray that it is.

    Checks structure only: the chain is checked where whole histories are read.

    Args:
        session: whose history the subject belongs to.
        digest: the message's digest where it is known already.

    Raises:
        ContractError: it has an event's headers and can not be decoded; `sequence` says where.
    """
    reason = stray_reason(message.headers, session)
    if reason is not None:
        return Stray(
            session=session,
            subject=message.subject,
            sequence=Sequence(message.sequence),
            stored_at=message.stored_at,
            reason=reason,
        )
    try:
        return codec.decode_event(
            message.headers,
            message.data,
            sequence=message.sequence,
            stored_at=message.stored_at,
            digest=digest or chain.digest(message.subject, message.headers, message.data),
        )
    except ContractError as exc:
        place = {"sequence": message.sequence, "subject": message.subject}
        raise ContractError(
            f"message {message.sequence} on {message.subject}: {exc.message}", **{**exc.fields, **place}
        ) from exc


def stray_reason(headers: Mapping[str, str], session: str) -> str | None:
    """Return why a message with these headers is no event of `session`; None when it is one."""
    missing = codec.missing_header(headers)
    if missing is not None:
        return f"no {missing} header"
    if headers["ce-subject"] != session:
        return f"its ce-subject is {headers['ce-subject'][:100]!r}"
    return None
