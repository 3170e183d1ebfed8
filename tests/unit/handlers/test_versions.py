"""Commands that insist on the version their sender has seen."""

import asyncio

import pytest
from msgspec.structs import replace

from lucid_events import codec
from lucid_events.domain import commands as cmd
from lucid_events.domain.ids import CommandId
from lucid_events.errors import CommandRejected, ContractError, NotFound
from lucid_events.handlers.requests import RequestReader
from tests.unit.handlers.command_side import SID, CommandSide


def test_a_command_takes_effect_at_its_version_only() -> None:
    """At the version it names it is decided; at another one it is refused and leaves nothing."""

    async def main() -> None:
        side = CommandSide()
        created = await side.ask(cmd.Create(), id="c1")
        start = side.request(cmd.Start(), id="c2")
        with pytest.raises(CommandRejected) as caught:
            await side.handler.handle(replace(start, if_version=created.version + 1))
        assert caught.value.fields["reason"] == "version_mismatch"
        assert await side.types() == ["session.created"]
        done = await side.handler.handle(replace(start, if_version=created.version))
        assert done.state == "starting"

    asyncio.run(main())


def test_another_process_that_was_faster_is_noticed() -> None:
    """A version that stands in this process's cache but not in the log any more is refused too."""

    async def main() -> None:
        side = CommandSide()
        created = await side.ask(cmd.Create(), id="c1")
        await side.process().ask(cmd.Mark(label="elsewhere"), id="c2")
        with pytest.raises(CommandRejected):
            await side.handler.handle(replace(side.request(cmd.Start(), id="c3"), if_version=created.version))
        assert await side.types() == ["session.created", "session.marked"]

    asyncio.run(main())


def test_a_repeat_gets_its_first_outcome_whatever_the_version_is_now() -> None:
    """After a lost reply the same id and version are answered as they were the first time."""

    async def main() -> None:
        side = CommandSide()
        created = await side.ask(cmd.Create(), id="c1")
        start = replace(side.request(cmd.Start(), id="c2"), if_version=created.version)
        first = await side.handler.handle(start)
        again = await side.handler.handle(start)
        assert (again.repeated, again.version) == (True, first.version)

    asyncio.run(main())


def test_a_session_that_is_not_there_is_not_found() -> None:
    """A version of nothing is no mismatch: there is no such session."""

    async def main() -> None:
        side = CommandSide()
        with pytest.raises(NotFound):
            await side.handler.handle(replace(side.request(cmd.Start(), id="c1"), if_version=7))

    asyncio.run(main())


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "9" * 20])
def test_a_version_that_is_none_is_refused(text: str) -> None:
    """What the header holds has to be the number of an answer."""
    side = CommandSide()
    reader = RequestReader(side.subjects)
    subject, body = side.subjects.command(SID, "start"), codec.encode(cmd.Start())
    with pytest.raises(ContractError) as caught:
        reader.read(subject, {codec.IF_VERSION: text}, body, now=side.clock.now(), id=CommandId("c1"))
    assert caught.value.fields["field"] == codec.IF_VERSION
