"""TLS of the HTTP services, and the subject of the client certificate that a connection was made with.

uvicorn does not tell an application about the peer's certificate (it has no ASGI TLS extension), but
takes a protocol class of ours: when the connection is made, the subject is put into the state that
every request of the connection inherits. It stands there only if the TLS layer has verified the chain.
"""

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, Final

from lucid_events.config import HttpSettings
from lucid_events.gateway.access import PEER

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol

_SHORT: Final = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}
"""Names of attributes as RFC 4514 abbreviates them; others keep OpenSSL's long name."""
_SPECIAL: Final = frozenset('",+;<>\\')


def uvicorn_options(http: HttpSettings) -> dict[str, Any]:
    """Return the options of `uvicorn.Config` that identities rest on.

    uvicorn's own proxy headers would let whoever sends `X-Forwarded-For` choose the address that
    `trusted_proxies` is compared with.
    """
    options: dict[str, Any] = {"proxy_headers": False}
    if http.tls_cert:
        options |= {"ssl_certfile": http.tls_cert, "ssl_keyfile": http.tls_key or None}
    if http.tls_client_ca:
        # Optional, because a probe or a holder of a token has no certificate; the guard decides.
        options |= {"ssl_ca_certs": http.tls_client_ca, "ssl_cert_reqs": ssl.CERT_OPTIONAL}
        options["http"] = _protocol()
    return options


def subject_of(certificate: dict[str, Any]) -> str:
    r"""Return the subject of a certificate as RFC 4514 writes it, the most specific part first.

    >>> subject_of({"subject": ((("countryName", "DE"),), (("commonName", "Ann, Ops"),))})
    'CN=Ann\\, Ops,C=DE'
    """
    parts = certificate.get("subject", ())
    return ",".join(
        "+".join(f"{_SHORT.get(name, name)}={_escaped(value)}" for name, value in part)
        for part in reversed(parts)
    )


def _escaped(value: str) -> str:
    made = "".join(f"\\{c}" if c in _SPECIAL else "\\00" if c == "\0" else c for c in value)
    if made.startswith(("#", " ")):
        made = f"\\{made}"
    if value.endswith(" ") and len(value) > 1:
        made = f"{made[:-1]}\\ "
    return made


def _protocol() -> "type[H11Protocol]":
    from uvicorn.protocols.http.h11_impl import H11Protocol  # noqa: PLC0415 - only who serves needs uvicorn

    class Identifying(H11Protocol):
        """HTTP/1.1 that remembers whose certificate the connection was made with."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
            super().connection_made(transport)
            secured = transport.get_extra_info("ssl_object")
            # Empty unless one was sent and verified against `tls_client_ca`.
            certificate = secured.getpeercert() if secured is not None else None
            if certificate:
                self.app_state = {**self.app_state, PEER: subject_of(certificate)}

    return Identifying
