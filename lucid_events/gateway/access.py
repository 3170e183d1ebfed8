"""Who asks over HTTP, and whether they may: identities from tokens and certificates, one table of rights.

    bearer token ───────────────┐
    client certificate (mTLS) ──┼─> Identity ─> its roles ─> RIGHTS ─> ROUTES ─> go on, 401 or 403
    trusted proxy's header ─────┘

Every route is in `ROUTES`; one that is not is refused to everybody. Without a file of credentials
(loopback only, or LUCID_INSECURE) nobody proves anything: every right is given, and the actor is a claim.
"""

import ipaddress
import logging
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from lucid_events.config import HttpSettings
from lucid_events.credentials import Credential, Credentials, Role
from lucid_events.errors import ConfigError, Forbidden, StoreUnavailable, Unauthenticated

if TYPE_CHECKING:
    from litestar.connection import ASGIConnection
    from litestar.handlers.base import BaseRouteHandler

_log = logging.getLogger(__name__)

SUBJECT_HEADER: Final = "lucid-client-subject"
"""What a trusted proxy says of the client certificate it has checked: its subject, as RFC 4514 has it."""
ACTOR_HEADER: Final = "lucid-actor"
"""Who the asker claims to be, where nobody has to prove it."""
PEER: Final = "peer_subject"
"""Key of the connection's state under which `gateway.peers` leaves the subject of a checked certificate."""
ACTOR: Final = "actor"
"""Key of a request's state under which the name of who was admitted stands, when it is proven."""
_IDENTITY: Final = "identity"
MAX_CLAIM_CHARS: Final = 200


class Right(StrEnum):
    """What a route needs."""

    NONE = "none"
    """Nothing: probes have no credentials, and the schema is no secret."""
    LOOK = "look"
    PLAY = "play"
    READ_HISTORY = "read history"
    RECORD = "record"
    RUN = "run"
    INSPECT = "inspect"


RIGHTS: Final[Mapping[Role, frozenset[Right]]] = MappingProxyType(
    {
        Role.OPERATOR: frozenset(Right),
        Role.RECORDER: frozenset({Right.NONE, Right.LOOK, Right.RECORD}),
        Role.VIEWER: frozenset({Right.NONE, Right.LOOK, Right.PLAY}),
        Role.AUDITOR: frozenset({Right.NONE, Right.LOOK, Right.PLAY, Right.READ_HISTORY, Right.INSPECT}),
    }
)
"""Role -> what it may. A recorder can't play, so a stolen recorder's token shows no recording."""

ROUTES: Final[Mapping[tuple[str, str], Right]] = MappingProxyType(
    {
        ("GET", "/health"): Right.NONE,
        ("GET", "/health/live"): Right.NONE,
        ("GET", "/health/ready"): Right.NONE,
        ("GET", "/schema/*"): Right.NONE,
        ("GET", "/status"): Right.LOOK,
        ("GET", "/metrics"): Right.LOOK,
        ("GET", "/analytics"): Right.LOOK,
        ("GET", "/config"): Right.INSPECT,
        ("GET", "/pipelines"): Right.LOOK,
        ("POST", "/pipelines"): Right.RECORD,
        ("DELETE", "/pipelines/{sid}"): Right.RUN,
        ("GET", "/pipelines/{sid}/status"): Right.LOOK,
        ("GET", "/pipelines/{sid}/retention"): Right.LOOK,
        ("GET", "/pipelines/{sid}/history"): Right.READ_HISTORY,
        ("GET", "/pipelines/{sid}/events"): Right.READ_HISTORY,
        ("POST", "/pipelines/{sid}/start"): Right.RECORD,
        ("POST", "/pipelines/{sid}/stop"): Right.RECORD,
        ("POST", "/pipelines/{sid}/pause"): Right.RECORD,
        ("POST", "/pipelines/{sid}/resume"): Right.RECORD,
        ("POST", "/pipelines/{sid}/recover"): Right.RUN,
        ("POST", "/pipelines/{sid}/fail"): Right.RUN,
        ("POST", "/pipelines/{sid}/marks"): Right.RECORD,
        ("POST", "/pipelines/{sid}/holds"): Right.RUN,
        ("DELETE", "/pipelines/{sid}/holds/{hold}"): Right.RUN,
        ("GET", "/pipelines/{sid}/chunks"): Right.RECORD,
        ("POST", "/pipelines/{sid}/chunks"): Right.RECORD,
        ("GET", "/recordings"): Right.LOOK,
        ("POST", "/recordings/start"): Right.RECORD,
        ("GET", "/recordings/{sid}"): Right.LOOK,
        ("DELETE", "/recordings/{sid}"): Right.RUN,
        ("POST", "/recordings/{sid}/stop"): Right.RECORD,
        ("GET", "/recordings/{sid}/media"): Right.PLAY,
        ("GET", "/chunks/{sid}"): Right.LOOK,
        ("GET", "/chunks/{sid}/{index}"): Right.PLAY,
        ("POST", "/chunks/{sid}/process"): Right.RECORD,
        ("GET", "/compression/stats"): Right.LOOK,
        ("POST", "/compression/reset"): Right.RUN,
    }
)
"""(method, path) -> what it needs; HEAD is as GET. `{…}` stands for one segment, `*` for all that follows."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks. `proven` tells an identity from a claim; a claim has every role."""

    name: str
    roles: frozenset[Role]
    proven: bool
    credential: str = ""

    @property
    def rights(self) -> frozenset[Right]:
        """Everything that the roles allow."""
        return frozenset().union(*(RIGHTS[role] for role in self.roles))


NOBODY: Final = Identity(name="", roles=frozenset(), proven=False)
"""Who asks for what needs no right."""


class Access:
    """Tells who asks, and refuses what they may not.

    Raises:
        ConfigError: the file of credentials is missing or broken, or others may read it.
    """

    def __init__(self, http: HttpSettings) -> None:
        self._credentials = Credentials(Path(http.access_file)) if http.access_file else None
        self._proxies = [ipaddress.ip_network(one, strict=False) for one in http.trusted_proxies]
        if self._credentials is not None and not self._credentials.all():
            _log.warning("nobody may ask", extra={"reason": f"{http.access_file} has no credential"})

    def admit(self, scope: Mapping[str, Any]) -> Identity:
        """Return who asks for what the ASGI `scope` says.

        Raises:
            Unauthenticated: the route needs a right and nothing proves who asks.
            Forbidden: none of their roles has it.
            StoreUnavailable: the credentials can't be read at the moment, so nobody is let in.
        """
        method, path = str(scope["method"]), str(scope["path"])
        right = right_of(method, path)
        if right is Right.NONE:
            return NOBODY
        identity = self._identity(scope)
        if right is None:
            raise Forbidden(f"{method} {path}: no such route for anybody", role=None)
        if right not in identity.rights:
            held = ", ".join(sorted(identity.roles))
            able = ", ".join(role for role in Role if right in RIGHTS[role])
            raise Forbidden(
                f"{identity.name} ({held}) may not {right}: {method} {path} needs one of the roles {able}",
                roles=tuple(identity.roles),
            )
        return identity

    async def guard(self, connection: "ASGIConnection[Any, Any, Any, Any]", _: "BaseRouteHandler") -> None:
        """Admit or raise, as a guard of Litestar; `identity_of` finds who was admitted.

        Waits for nothing, and is a coroutine all the same: Litestar takes any other guard to a thread,
        which costs a request more than everything that is done here.
        """
        state: dict[str, Any] = connection.scope["state"]
        state[_IDENTITY] = identity = self.admit(connection.scope)
        if identity.proven:
            state[ACTOR] = identity.name

    def _identity(self, scope: Mapping[str, Any]) -> Identity:
        headers = scope["headers"]
        if self._credentials is None:
            claim = (_only(headers, ACTOR_HEADER) or "").strip()[:MAX_CLAIM_CHARS]
            return Identity(name=claim, roles=frozenset(Role), proven=False)
        try:
            found = self._found(self._credentials, scope, headers)
        except ConfigError as exc:
            _log.error("nobody is let in", extra={"reason": exc.message})
            raise StoreUnavailable("credentials can't be read: the service's log says why") from exc
        return Identity(name=found.name, roles=found.roles, proven=True, credential=found.id)

    def _found(self, credentials: Credentials, scope: Mapping[str, Any], headers: "_Headers") -> Credential:
        authorization = _only(headers, "authorization")
        if authorization is not None:
            scheme, _, token = authorization.partition(" ")
            found = credentials.of_token(token.strip()) if scheme.lower() == "bearer" else None
            if found is None:
                raise Unauthenticated("the token is not valid: it is mistyped, or it was revoked")
            return found
        subject = self._subject(scope, headers)
        if subject is None:
            raise Unauthenticated(
                "nothing says who asks: send `Authorization: Bearer <token>`, or a client certificate"
            )
        found = credentials.of_subject(subject)
        if found is None:
            raise Unauthenticated(f"the certificate of {subject[:200]} is nobody's here: `lucid tokens add`")
        return found

    def _subject(self, scope: Mapping[str, Any], headers: "_Headers") -> str | None:
        """Return the subject of a certificate that was checked: by us, or by a proxy we trust."""
        if (seen := scope.get("state", {}).get(PEER)) is not None:
            return str(seen)
        if not any(name == SUBJECT_HEADER.encode() for name, _ in headers):
            return None
        if not self._from_proxy(scope.get("client")):
            raise Unauthenticated(f"{SUBJECT_HEADER} is taken from trusted proxies only")
        return _only(headers, SUBJECT_HEADER)

    def _from_proxy(self, client: Sequence[Any] | None) -> bool:
        try:
            address = ipaddress.ip_address(client[0] if client else "")
        except ValueError:
            return False
        return any(address in network for network in self._proxies)


_Headers = Sequence[tuple[bytes, bytes]]


def identity_of(connection: "ASGIConnection[Any, Any, Any, Any]") -> Identity:
    """Return who was admitted by the guard."""
    found = connection.scope["state"].get(_IDENTITY)
    return found if isinstance(found, Identity) else NOBODY


def right_of(method: str, path: str) -> Right | None:
    """Return what the route needs, None when there is no such route.

    >>> str(right_of("HEAD", "/chunks/s-1/0")), right_of("GET", "/chunks/s-1/0/more")
    ('play', None)
    """
    template = route_of(method, path)
    return ROUTES["GET" if method == "HEAD" else method, template] if template else None


def route_of(method: str, path: str) -> str | None:
    """Return the template that `path` fits, None when it fits none."""
    asked = "GET" if method == "HEAD" else method
    for (verb, template), pattern in _PATTERNS.items():
        if verb == asked and pattern.fullmatch(path.rstrip("/") or "/"):
            return template
    return None


def _pattern(template: str) -> re.Pattern[str]:
    if template.endswith("/*"):
        return re.compile(re.escape(template[:-2]) + r"(?:/.*)?")
    parts = ("[^/]+" if part.startswith("{") else re.escape(part) for part in template.split("/"))
    return re.compile("/".join(parts))


_PATTERNS: Final = {key: _pattern(key[1]) for key in ROUTES}


def _only(headers: _Headers, name: str) -> str | None:
    """Return the value of a header; sent twice it is ambiguous, and taken as an attempt to confuse.

    Raises:
        Unauthenticated: it is there more than once, or no text.
    """
    found = [value for key, value in headers if key == name.encode()]
    if len(found) > 1:
        raise Unauthenticated(f"{name} is sent {len(found)} times: send it once")
    try:
        return found[0].decode("utf-8") if found else None
    except UnicodeDecodeError as exc:
        raise Unauthenticated(f"{name} is no text") from exc
