"""Both sides of commands, and the beats of recorders."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from lucid_events.domain.ids import SessionId


class CommandReply(msgspec.Struct, frozen=True):
    """Raw answer to a command: its headers and JSON body."""

    headers: Mapping[str, str]
    data: bytes


Endpoint = Callable[[str, Mapping[str, str], bytes], Awaitable[bytes | CommandReply]]
"""Answers (subject, headers, body) with a body, or with headers and a body: an error's
`Nats-Service-Error` and `Nats-Service-Error-Code` travel as headers beside its JSON."""


class CommandBus(Protocol):
    """The client's side of commands and beats."""

    async def request(
        self, subject: str, data: bytes, *, headers: Mapping[str, str], timeout_s: float
    ) -> CommandReply:
        """Ask and wait.

        Raises:
            StoreUnavailable: nobody serves the subject, or not connected.
            AppendUncertain: no answer in time; repeat under the same command id.
        """
        ...

    async def enqueue(self, subject: str, data: bytes, *, headers: Mapping[str, str]) -> int:
        """Store a durable command; the sequence is the promise that it will be handled."""
        ...


class CommandServer(Protocol):
    """The service's side of immediate commands and of beats."""

    def serve(
        self,
        name: str,
        endpoints: Mapping[str, tuple[str, Endpoint]],
    ) -> AbstractAsyncContextManager[None]:
        """Answer `endpoints` as a discoverable service: name -> (subject, handler).

        It answers from when the context is entered; leaving it waits for the requests in hand.
        """
        ...


class Beats(Protocol):
    """Listens for recorders."""

    async def heard(self, session: SessionId, *, epoch: int, within_s: float) -> bool:
        """Return True as soon as the epoch's recorder beats, False when it did not for `within_s` on end.

        Raises:
            StoreUnavailable: nobody could have been heard for so long: ask again.
        """
        ...
