"""What every request goes through, whatever it asks: an id.

Pure ASGI, outside the framework, so that also what the framework answers itself has it.
"""

import re
import uuid
from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from lucid_events import logs

_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}", re.ASCII)


class RequestIds:
    """Takes the id a request brings, or makes one up, and puts it on the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request with its id in `scope["state"]["request_id"]`."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        chosen = _given(scope.get("headers", [])) or str(uuid.uuid4())
        scope.setdefault("state", {})["request_id"] = chosen

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"x-request-id", chosen.encode())]
            await send(message)

        with logs.bound(request=chosen):
            await self._app(scope, receive, tell)


def _given(headers: Any) -> str | None:
    for name, value in headers:
        if name.lower() == b"x-request-id":
            text = value.decode("latin-1")
            return text if _ID.fullmatch(text) else None
    return None
