"""`jetstream.preflight`, `Connection.stream_info`: a stream that is not there, one nobody may ask for."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from lucid_events.errors import ConfigError
from lucid_events.jetstream.connection import Connection
from lucid_events.jetstream.faults import JETSTREAM_OFF, STREAM_NOT_FOUND, api_fault, forbidden
from lucid_events.jetstream.preflight import preflight
from lucid_events.subjects import Subjects


class Refusing(Connection):
    """A server without streams, that refuses `refusal` to whoever asks for a stream a second time."""

    def __init__(self, refusal: ConfigError) -> None:
        self._refusal = refusal
        self._asked: set[str] = set()

    @property
    def max_payload(self) -> int:
        return 1 << 20

    @property
    def server_version(self) -> tuple[int, int, int]:
        return (2, 14, 4)

    async def api(
        self, name: str, body: Mapping[str, Any] | bytes | None = None, *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        if name == "INFO":
            return {}
        if name in self._asked:
            raise self._refusal
        self._asked.add(name)
        raise api_fault({"code": 404, "err_code": STREAM_NOT_FOUND}, name)


def test_only_a_stream_that_is_not_there_is_none() -> None:
    """Everything else the server says to the question is an error."""

    async def main() -> None:
        off = api_fault({"code": 503, "err_code": JETSTREAM_OFF}, "STREAM.INFO.S")
        assert isinstance(off, ConfigError)
        connection = Refusing(off)
        assert await connection.stream_info("S") is None
        with pytest.raises(ConfigError) as caught:
            await connection.stream_info("S")
        assert caught.value is off

    asyncio.run(main())


def test_what_a_login_may_not_ask_is_no_server_that_is_away() -> None:
    """A missing right is told as it is: trying again would not help."""
    refused = forbidden("publish to", "$JS.API.STREAM.INFO.LUCID_EVENTS")
    with pytest.raises(ConfigError) as caught:
        asyncio.run(preflight(Refusing(refused), Subjects()))
    assert caught.value is refused
