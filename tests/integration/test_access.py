"""Access control through a real HTTP server: tokens, client certificates, and what stands in the history."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trustme
import uvicorn
from litestar import Litestar, Request, get
from litestar.datastructures import State

from lucid_events.client import Commands
from lucid_events.config import HttpSettings, Settings
from lucid_events.credentials import Credentials, Role
from lucid_events.domain.commands import Create, Destroy, Mark
from lucid_events.domain.ids import SessionId
from lucid_events.errors import CommandRejected, LucidError
from lucid_events.gateway import serving
from lucid_events.gateway.access import Access, identity_of
from lucid_events.gateway.errors import answer_lucid_error
from lucid_events.gateway.peers import uvicorn_options
from lucid_events.service import up
from tests.nats_server import NatsServer, running_server

START_S = 20


@get("/status")
async def whoami(request: Request[Any, Any, Any]) -> dict[str, str]:
    """Tell who asked."""
    return {"name": identity_of(request).name}


@asynccontextmanager
async def server(http: HttpSettings) -> AsyncIterator[str]:
    """A service of one route behind the access control, on a free port; gives its authority."""
    app = Litestar(
        [whoami],
        guards=[Access(http).guard],
        exception_handlers={LucidError: answer_lucid_error},
        openapi_config=None,
        state=State({"service_name": "test"}),
        logging_config=None,
    )
    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, ws="none", **uvicorn_options(http))
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve())
    try:
        async with asyncio.timeout(START_S):
            while not running.started and not task.done():  # noqa: ASYNC110 - uvicorn tells by a flag alone
                await asyncio.sleep(0.01)
        port = running.servers[0].sockets[0].getsockname()[1]
        yield f"127.0.0.1:{port}"
    finally:
        running.should_exit = True
        await task


@pytest.fixture
def http(tmp_path: Path) -> HttpSettings:
    """Give settings with an empty file of credentials."""
    file = tmp_path / "access.json"
    Credentials(file).add("nobody", frozenset({Role.VIEWER}))
    return HttpSettings(access_file=str(file))


def test_a_token_opens_the_door(http: HttpSettings) -> None:
    """No token and a wrong one are 401 with the scheme to use; the right one says who it is."""
    _, token = Credentials(Path(http.access_file)).add("ann", frozenset({Role.OPERATOR}))

    async def main() -> None:
        async with server(http) as authority, httpx.AsyncClient(base_url=f"http://{authority}") as client:
            for headers in ({}, {"Authorization": f"Bearer {token}x"}):
                refused = await client.get("/status", headers=headers)
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"].startswith("Bearer")
                assert refused.json()["error"]["message"]
            allowed = await client.get("/status", headers={"Authorization": f"Bearer {token}"})
            assert (allowed.status_code, allowed.json()) == (200, {"name": "ann"})

    asyncio.run(main())


def test_a_client_certificate_opens_the_door(http: HttpSettings, tmp_path: Path) -> None:
    """A certificate of our authority identifies; another authority's ends the handshake; none is 401."""
    authority, stranger = trustme.CA(), trustme.CA()
    Credentials(Path(http.access_file)).add(
        "ann", frozenset({Role.AUDITOR}), subject="CN=ann,OU=Ops,O=Acme\\, Inc."
    )
    issued = authority.issue_cert("127.0.0.1")
    chain, ca = tmp_path / "server.pem", tmp_path / "ca.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(str(chain))
    authority.cert_pem.write_to_path(str(ca))
    secured = msgspec.structs.replace(http, tls_cert=str(chain), tls_client_ca=str(ca))

    def context(of: trustme.CA | None) -> ssl.SSLContext:
        made = ssl.create_default_context()
        authority.configure_trust(made)
        if of is not None:
            of.issue_cert(
                "ann@example.org",
                common_name="ann",
                organization_name="Acme, Inc.",
                organization_unit_name="Ops",
            ).configure_cert(made)
        return made

    async def ask(base: str, of: trustme.CA | None, **headers: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=base, verify=context(of)) as client:
            return await client.get("/status", headers=headers)

    async def main() -> None:
        async with server(secured) as where:
            base = f"https://{where}"
            allowed = await ask(base, authority)
            assert (allowed.status_code, allowed.json()) == (200, {"name": "ann"})
            assert (await ask(base, None)).status_code == 401
            # What the proxy header says is a stranger's word here, certificate or not.
            assert (await ask(base, None, **{"lucid-client-subject": "CN=ann"})).status_code == 401
            with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)):
                await ask(base, stranger)

    asyncio.run(main())


def test_a_forwarded_address_changes_nobody(http: HttpSettings) -> None:
    """The address that a proxy must come from is the connection's, not what `X-Forwarded-For` claims."""
    Credentials(Path(http.access_file)).add("ann", frozenset({Role.AUDITOR}), subject="CN=ann")
    trusting = msgspec.structs.replace(http, trusted_proxies=("10.9.9.9",))
    claims = {"lucid-client-subject": "CN=ann", "x-forwarded-for": "10.9.9.9"}

    async def main() -> None:
        async with server(trusting) as authority, httpx.AsyncClient(base_url=f"http://{authority}") as client:
            assert (await client.get("/status", headers=claims)).status_code == 401

    asyncio.run(main())


def test_who_asked_stands_in_the_history(tmp_path: Path) -> None:
    """An identity that a service has checked is the actor; a name that is only claimed stays a claim."""
    file = tmp_path / "access.json"
    _, token = Credentials(file).add("ann", frozenset({Role.OPERATOR}))

    async def main(server: NatsServer) -> None:
        made = Settings(nats_url=server.url, capture_max_mib=64, http=HttpSettings(access_file=str(file)))
        async with (
            up(made) as service,
            serving(made, ("pipeline",), workers=service.workers, ports={"pipeline": 0}) as gateways,
            httpx.AsyncClient(base_url=gateways.urls["pipeline"]) as client,
        ):
            headers = {"Authorization": f"Bearer {token}", "Lucid-Actor": "mallory"}
            created = await client.post("/pipelines", json={"session_id": "s-1"}, headers=headers)
            assert created.status_code == 201, created.text
            claims = Commands(
                service.adapters.bus, service.adapters.subjects, service.adapters.clock, actor="ann"
            )
            await claims.send(SessionId("s-1"), Mark(label="here"))
            history = await client.get("/pipelines/s-1/history", headers=headers)
            actors = {event["type"]: event["actor"] for event in history.json()["events"]}
            assert actors == {"session.created.v1": "ann", "session.marked.v1": "unverified:ann"}
            assert (await client.get("/pipelines/s-1/history")).status_code == 401

    with running_server(tmp_path / "nats") as server:
        asyncio.run(main(server))


def test_as_many_sessions_as_the_setting_allows(tmp_path: Path) -> None:
    """The create beyond MAX_CONCURRENT_SESSIONS is refused with what to do; one that ends makes room."""

    async def main(server: NatsServer) -> None:
        made = Settings(nats_url=server.url, capture_max_mib=64, max_sessions=3)
        async with up(made) as service:
            commands = Commands(
                service.adapters.bus, service.adapters.subjects, service.adapters.clock, actor="ann"
            )

            async def create(name: str) -> str:
                try:
                    await commands.send(SessionId(name), Create())
                except CommandRejected as exc:
                    return exc.code
                return "created"

            answers = await asyncio.gather(*(create(f"s-{number}") for number in range(8)))
            assert sorted(answers) == ["created"] * 3 + ["too_many_sessions"] * 5
            await commands.send(SessionId(f"s-{answers.index('created')}"), Destroy())
            async with asyncio.timeout(START_S):
                while await create("late") != "created":  # noqa: ASYNC110 - the index follows in a moment
                    await asyncio.sleep(0.05)

    with running_server(tmp_path / "nats") as server:
        asyncio.run(main(server))
