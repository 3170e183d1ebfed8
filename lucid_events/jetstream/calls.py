"""Requests that are out: matched to replies by a token, failed when time or the connection runs out.

All replies arrive on one wildcard subscription (`<inbox>.*`); the last token of the subject says
which call it answers. One timer looks after all deadlines, so a pipelined publish costs a
dictionary entry and a future, not a task and a timer.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from lucid_events.errors import LucidError
from lucid_events.jetstream.faults import forbidden, no_reply, not_connected
from lucid_events.jetstream.messages import Message

SWEEP_S: Final = 0.05
"""How late a timeout may be noticed; half as much wakes an idle process for nothing."""

Collect = Callable[[Message], bool]
"""Takes each of several replies to one call; True when it was the last."""


class Call:
    """One message to send, and the future of its reply (None: no reply is wanted)."""

    __slots__ = (
        "collect",
        "data",
        "deadline",
        "future",
        "headers",
        "reply",
        "sent",
        "subject",
        "timeout_s",
        "token",
    )

    def __init__(self, subject: str, data: bytes | memoryview, headers: Mapping[str, str] | None) -> None:
        self.subject = subject
        self.data = data
        self.headers = headers
        self.reply = ""
        self.token = ""
        self.future: asyncio.Future[Message] | None = None
        self.collect: Collect | None = None
        self.deadline = 0.0
        self.timeout_s = 0.0
        self.sent = False

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits any more: sending it now would do what was reported as not done."""
        return self.future is not None and self.future.done()

    def fail(self, error: LucidError) -> None:
        """End the call with `error`, unless it has ended."""
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)


class Calls:
    """The calls that wait for a reply."""

    def __init__(self, inbox: str, server: str) -> None:
        self.inbox = inbox
        self._prefix = len(inbox) + 1
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._open: dict[str, Call] = {}
        self._count = 0
        self._deaf: LucidError | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def expect(self, call: Call, timeout_s: float, collect: Collect | None = None) -> asyncio.Future[Message]:
        """Give `call` a reply subject and a deadline; returns the future of its (last) reply."""
        self._count += 1
        call.token = str(self._count)
        call.reply = f"{self.inbox}.{call.token}"
        call.future = self._loop.create_future()
        call.collect = collect
        call.timeout_s = timeout_s
        call.deadline = self._loop.time() + timeout_s
        if self._deaf is not None:
            call.fail(self._deaf)
            return call.future
        self._open[call.token] = call
        if self._timer is None:
            self._timer = self._loop.call_later(SWEEP_S, self._sweep)
        return call.future

    def answer(self, message: Message) -> None:
        """Hand a message from the inbox to the call it answers; late ones are dropped."""
        token = message.subject[self._prefix :]
        call = self._open.get(token)
        if call is None or call.future is None or call.future.done():
            return
        if call.collect is not None:
            # Each part is a sign of life: the deadline is for silence, not for the whole.
            call.deadline = self._loop.time() + call.timeout_s
            if not call.collect(message):
                return
        del self._open[token]
        call.future.set_result(message)

    def disconnected(self) -> None:
        """Fail what was sent and not answered: its reply went with the connection."""
        for token, call in list(self._open.items()):
            if call.sent:
                del self._open[token]
                call.fail(no_reply(call.subject, 0))

    def refused(self, subject: str) -> bool:
        """Fail what was sent to `subject`, in lower case: we have no right to it. False if nothing was."""
        found = [t for t, call in self._open.items() if call.sent and call.subject.lower() == subject]
        for token in found:
            call = self._open.pop(token)
            call.fail(forbidden("publish to", call.subject))
        return bool(found)

    def deafen(self, error: LucidError | None) -> None:
        """Fail what is out and what comes with `error`, as no reply can reach us; None ends that."""
        self._deaf = error
        if error is not None:
            for call in self._open.values():
                call.fail(error)
            self._open.clear()

    def end(self) -> None:
        """Fail everything: the connection is closed for good."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for call in self._open.values():
            call.fail(self._overdue(call))
        self._open.clear()

    def _sweep(self) -> None:
        now = self._loop.time()
        for token, call in list(self._open.items()):
            if call.future is None or call.future.done():
                del self._open[token]
            elif call.deadline <= now:
                del self._open[token]
                call.fail(self._overdue(call))
        self._timer = self._loop.call_later(SWEEP_S, self._sweep) if self._open else None

    def _overdue(self, call: Call) -> LucidError:
        if call.sent:
            return no_reply(call.subject, call.timeout_s)
        return not_connected(call.subject, self._server)
