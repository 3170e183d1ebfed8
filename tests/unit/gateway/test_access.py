"""Who may do what over HTTP: the whole table, and every way to be nobody."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar
from litestar.routes import HTTPRoute

from lucid_events.config import HttpSettings
from lucid_events.credentials import Credentials, Role
from lucid_events.errors import Forbidden, StoreUnavailable, Unauthenticated
from lucid_events.gateway import app
from lucid_events.gateway.access import (
    PEER,
    RIGHTS,
    ROUTES,
    SUBJECT_HEADER,
    Access,
    Right,
    right_of,
    route_of,
)
from lucid_events.gateway.peers import subject_of

EVERYBODY = "orva"
"""Initials of operator, recorder, viewer, auditor."""

TABLE = {
    "GET /health": "-" + EVERYBODY,
    "GET /health/live": "-" + EVERYBODY,
    "GET /health/ready": "-" + EVERYBODY,
    "GET /schema/openapi.json": "-" + EVERYBODY,
    "GET /status": EVERYBODY,
    "GET /metrics": EVERYBODY,
    "GET /analytics": EVERYBODY,
    "GET /config": "oa",
    "GET /pipelines": EVERYBODY,
    "POST /pipelines": "or",
    "DELETE /pipelines/s": "o",
    "GET /pipelines/s/status": EVERYBODY,
    "GET /pipelines/s/retention": EVERYBODY,
    "GET /pipelines/s/history": "oa",
    "GET /pipelines/s/events": "oa",
    "POST /pipelines/s/start": "or",
    "POST /pipelines/s/stop": "or",
    "POST /pipelines/s/pause": "or",
    "POST /pipelines/s/resume": "or",
    "POST /pipelines/s/recover": "o",
    "POST /pipelines/s/fail": "o",
    "POST /pipelines/s/marks": "or",
    "POST /pipelines/s/holds": "o",
    "DELETE /pipelines/s/holds/h": "o",
    "GET /pipelines/s/chunks": "or",
    "POST /pipelines/s/chunks": "or",
    "GET /recordings": EVERYBODY,
    "POST /recordings/start": "or",
    "GET /recordings/s": EVERYBODY,
    "DELETE /recordings/s": "o",
    "POST /recordings/s/stop": "or",
    "GET /recordings/s/media": "ova",
    "HEAD /recordings/s/media": "ova",
    "GET /chunks/s": EVERYBODY,
    "GET /chunks/s/0": "ova",
    "POST /chunks/s/process": "or",
    "GET /compression/stats": EVERYBODY,
    "POST /compression/reset": "o",
    "GET /nowhere": "",
    "PUT /pipelines/s": "",
}
"""Written out a second time on purpose: who may is a decision, not what the code happens to say."""


class Services:
    """A file of credentials with one token for each role, and the access control over it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.file = Credentials(folder / "access.json")
        self.tokens = {role: self.file.add(f"the {role}", frozenset({role}))[1] for role in Role}
        self.access = Access(HttpSettings(access_file=str(self.file.path), **settings))


@pytest.fixture
def services(tmp_path: Path) -> Services:
    """Give services that ask who is there."""
    return Services(tmp_path)


def scope(request: str, *headers: tuple[str, str], client: str = "192.0.2.9", **state: str) -> dict[str, Any]:
    """A request as an ASGI server hands it over."""
    method, path = request.split(" ")
    sent = [(name.encode(), value.encode()) for name, value in headers]
    return {"method": method, "path": path, "headers": sent, "client": (client, 5), "state": state}


def bearer(token: str) -> tuple[str, str]:
    """The header of a token."""
    return "authorization", f"Bearer {token}"


@pytest.mark.parametrize(("role", "request_line"), list(itertools.product(Role, TABLE)))
def test_every_role_on_every_route(role: Role, request_line: str, services: Services) -> None:
    """Each role may exactly what the table gives it, and a refusal names who could."""
    asked = scope(request_line, bearer(services.tokens[role]))
    may = TABLE[request_line]
    if role[0] in may:
        identity = services.access.admit(asked)
        assert "-" in may or (identity.name, identity.proven) == (f"the {role}", True)
    else:
        with pytest.raises(Forbidden):
            services.access.admit(asked)


@pytest.mark.parametrize("request_line", TABLE)
def test_nobody_gets_no_further_than_the_probes(request_line: str, services: Services) -> None:
    """Without a credential only the routes that need none answer."""
    if "-" in TABLE[request_line]:
        services.access.admit(scope(request_line))
    else:
        with pytest.raises(Unauthenticated):
            services.access.admit(scope(request_line))


def test_the_table_is_whole() -> None:
    """Every route and every right is in the table; no role is without its line."""
    asked = {right_of(*line.split(" ")) for line in TABLE} - {None}
    assert asked == set(Right)
    asked_for = [line.split(" ") for line in TABLE]
    templates = {
        ("GET" if method == "HEAD" else method, route_of(method, path)) for method, path in asked_for
    }
    assert {(method, route) for method, route in templates if route} == set(ROUTES)
    assert set(RIGHTS) == set(Role)


@pytest.mark.parametrize("service", ["pipeline", "recorder"])
def test_no_route_is_left_out(service: str) -> None:
    """Every route that a service answers has its right; one without it would be refused to everybody."""
    served = Litestar([*app._SHARED, *app._ROUTES[service]], openapi_config=None)
    named = {
        (method, re.sub(r"{(\w+):\w+}", r"{\1}", route.path))
        for route in served.routes
        if isinstance(route, HTTPRoute)
        for method in route.methods - {"OPTIONS", "HEAD"}
    }
    assert len(named) > 5
    assert not {(method, path) for method, path in named if (method, path) not in ROUTES}


@pytest.mark.parametrize(
    "headers",
    [
        [bearer("lucid_00000000_" + "x" * 43)],
        [("authorization", "Basic YW5uOnNlY3JldA==")],
        [("authorization", "Bearer")],
        [("authorization", "")],
        [(SUBJECT_HEADER, "CN=ann")],
        [("lucid-actor", "the operator")],
    ],
)
def test_what_proves_nothing_is_refused(headers: list[tuple[str, str]], services: Services) -> None:
    """A wrong token, another scheme, a proxy's header from a stranger, a bare claim: all are nobody."""
    with pytest.raises(Unauthenticated):
        services.access.admit(scope("GET /status", *headers))


def test_two_tokens_are_no_token(services: Services) -> None:
    """A header sent twice is read by nobody: proxies and we might each take another one."""
    both = [bearer(services.tokens[role]) for role in (Role.VIEWER, Role.OPERATOR)]
    with pytest.raises(Unauthenticated, match="2 times"):
        services.access.admit(scope("GET /status", *both))


def test_a_revoked_token_ends_at_once(services: Services) -> None:
    """The first request after the revocation is refused."""
    asked = scope("GET /status", bearer(services.tokens[Role.VIEWER]))
    identity = services.access.admit(asked)
    services.file.revoke(identity.credential)
    with pytest.raises(Unauthenticated):
        services.access.admit(asked)


def test_unreadable_credentials_let_nobody_in(services: Services) -> None:
    """Then the answer is to try again, not that the token is wrong: it may be right."""
    services.file.path.write_text("{")
    with pytest.raises(StoreUnavailable):
        services.access.admit(scope("GET /status", bearer(services.tokens[Role.OPERATOR])))


def test_a_certificate_identifies(services: Services) -> None:
    """The subject that the TLS layer has verified is an identity like a token; an unknown one is nobody."""
    services.file.add("ann", frozenset({Role.AUDITOR}), subject="CN=ann,O=Acme")
    known = services.access.admit(scope("GET /config", **{PEER: "CN=ann,O=Acme"}))
    assert (known.name, known.roles) == ("ann", frozenset({Role.AUDITOR}))
    with pytest.raises(Unauthenticated, match="CN=bob"):
        services.access.admit(scope("GET /config", **{PEER: "CN=bob"}))


def test_only_trusted_proxies_speak_for_others(tmp_path: Path) -> None:
    """The header counts from the networks of the settings, once, and from nowhere else."""
    services = Services(tmp_path, trusted_proxies=("10.1.0.0/16", "::1"))
    services.file.add("ann", frozenset({Role.AUDITOR}), subject="CN=ann")
    header = (SUBJECT_HEADER, "CN=ann")
    for client in ("10.1.2.3", "::1"):
        assert services.access.admit(scope("GET /config", header, client=client)).name == "ann"
    for client in ("10.2.0.1", "127.0.0.1", "unix"):
        with pytest.raises(Unauthenticated, match="trusted proxies only"):
            services.access.admit(scope("GET /config", header, client=client))
    with pytest.raises(Unauthenticated, match="2 times"):
        services.access.admit(scope("GET /config", header, (SUBJECT_HEADER, "CN=bob"), client="::1"))


def test_a_verified_certificate_is_above_what_a_header_says(tmp_path: Path) -> None:
    """Who connects with a certificate of their own can't pass for somebody else by a header."""
    services = Services(tmp_path, trusted_proxies=("10.1.0.0/16",))
    services.file.add("ann", frozenset({Role.AUDITOR}), subject="CN=ann")
    services.file.add("bob", frozenset({Role.OPERATOR}), subject="CN=bob")
    asked = scope("GET /config", (SUBJECT_HEADER, "CN=bob"), client="10.1.0.1", **{PEER: "CN=ann"})
    assert services.access.admit(asked).name == "ann"


def test_without_credentials_everybody_is_a_claim() -> None:
    """On loopback nobody has to prove anything; what they call themselves stays a claim."""
    access = Access(HttpSettings())
    identity = access.admit(scope("DELETE /pipelines/s", ("lucid-actor", "ann")))
    assert (identity.name, identity.proven) == ("ann", False)
    with pytest.raises(Forbidden):
        access.admit(scope("GET /nowhere"))


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        (
            [[("countryName", "DE")], [("organizationName", "Acme")], [("commonName", "ann")]],
            "CN=ann,O=Acme,C=DE",
        ),
        ([[("commonName", 'a,b+c"d\\e<f>g;')]], 'CN=a\\,b\\+c\\"d\\\\e\\<f\\>g\\;'),
        ([[("commonName", "#x ")]], "CN=\\#x\\ "),
        ([[("commonName", " x")]], "CN=\\ x"),
        ([[("commonName", "a"), ("userId", "7")]], "CN=a+UID=7"),
        ([], ""),
    ],
)
def test_subjects_are_written_as_the_standard_has_it(subject: Any, text: str) -> None:
    """What a name contains can't pass for another part of the subject (RFC 4514, section 2.4)."""
    assert subject_of({"subject": subject}) == text
