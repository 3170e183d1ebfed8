"""How to reach the server: the broker URL, a context of the `nats` tool, Faust's own settings.

    nats://user:password@host:4222/?creds=/path&context=name&ca=…&cert=…&key=…&prefix=faust

What the URL says wins over the context, and Faust's `broker_credentials` and `ssl_context` over both.
"""

import os
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from yarl import URL

from lucid_events.faust_nats.errors import Unsupported

DEFAULT_PORT: Final = 4222
RECONNECT_WAIT_S: Final = 0.25
PING_INTERVAL_S: Final = 10.0
"""A dead peer is noticed after at most three of these; a worker's session is about as long."""
PENDING_BYTES: Final = 32 * 1024 * 1024

_parameters = frozenset(
    {
        "api_prefix",
        "ca",
        "cert",
        "context",
        "creds",
        "dedupe_s",
        "inbox_prefix",
        "key",
        "nkey",
        "prefix",
        "tls_first",
        "token",
    }
)
_same_in_context = ("ca", "cert", "key", "creds", "nkey", "token", "inbox_prefix")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server is, who we are, and how the driver names things there.

    `dedupe_s` is for how long a topic refuses an output that was sent before: longer than the longest
    outage after which outputs must not double.
    """

    servers: tuple[str, ...]
    user: str | None = None
    password: str | None = None
    token: str | None = None
    creds: str | None = None
    nkey: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    tls_first: bool = False
    inbox_prefix: str = "_INBOX"
    api_prefix: str = "$JS.API"
    prefix: str = "faust"
    dedupe_s: float = 120.0
    ssl_context: Any = None

    def __repr__(self) -> str:
        return f"Options({', '.join(self.servers)})"

    def connect(self, name: str) -> dict[str, Any]:
        """Return the arguments for nats-py."""
        made: dict[str, Any] = {
            "servers": list(self.servers),
            "name": name,
            "inbox_prefix": self.inbox_prefix.encode(),
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": RECONNECT_WAIT_S,
            "ping_interval": PING_INTERVAL_S,
            "pending_size": PENDING_BYTES,
            "user": self.user,
            "password": self.password,
            "token": self.token,
            "user_credentials": self.creds,
            # A seed, or a file that holds it.
            "nkeys_seed_str" if (self.nkey or "").startswith("S") else "nkeys_seed": self.nkey,
        }
        context = self.ssl_context or self._tls()
        if context is not None:
            made |= {"tls": context, "tls_handshake_first": self.tls_first}
        return {key: value for key, value in made.items() if value is not None}

    def _tls(self) -> ssl.SSLContext | None:
        schemes = {server.partition("://")[0] for server in self.servers}
        if not (self.ca or self.cert or self.tls_first or schemes & {"tls", "wss"}):
            return None
        try:
            made = ssl.create_default_context(cafile=self.ca)
            if self.cert:
                made.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as exc:
            files = f"ca={self.ca}, cert={self.cert}, key={self.key}"
            raise Unsupported(f"TLS files of the broker URL can't be used ({files}): {exc}") from exc
        return made


def from_urls(urls: Sequence[URL], *, credentials: object = None, ssl_context: object = None) -> Options:
    """Return the options that the broker URLs of an app stand for.

    Raises:
        Unsupported: an unknown parameter, no such context, credentials of a kind NATS does not have.
    """
    values: dict[str, Any] = {}
    servers: list[str] = []
    for url in urls:
        unknown = sorted(set(url.query) - _parameters)
        if unknown:
            raise Unsupported(
                f"unknown parameters {', '.join(unknown)} in the broker URL: use some of "
                f"{', '.join(sorted(_parameters))}"
            )
        values |= url.query
        if url.host:
            host = f"[{url.host}]" if ":" in url.host else url.host
            servers.append(f"{url.scheme}://{host}:{url.port or DEFAULT_PORT}")
        if url.user:
            values["user"] = url.user
        if url.password:
            values["password"] = url.password
    context = values.pop("context", None)
    if context is not None:
        values = {**_context(context, os.environ), **values}
    known = values.pop("servers", ())
    values["servers"] = tuple(servers) or tuple(known) or (f"nats://127.0.0.1:{DEFAULT_PORT}",)
    if ssl_context is not None:
        values["ssl_context"] = ssl_context
    values |= _credentials(credentials)
    try:
        return msgspec.convert(values, Options, strict=False)
    except msgspec.ValidationError as exc:
        raise Unsupported(f"the broker URL is not valid: {exc}") from exc


def _credentials(given: object) -> dict[str, Any]:
    if given is None:
        return {}
    found = {"user": getattr(given, "username", None), "password": getattr(given, "password", None)}
    if not found["user"]:
        raise Unsupported(
            f"broker_credentials of {type(given).__name__} are not for NATS: use SASLCredentials with "
            "username and password, or ?creds= or ?nkey= in the broker URL"
        )
    return found


def _context(name: str, environment: Mapping[str, str]) -> dict[str, Any]:
    base = environment.get("XDG_CONFIG_HOME")
    folder = (Path(base) if base else Path("~/.config").expanduser()) / "nats" / "context"
    path = folder / f"{name}.json"
    if Path(name).name != name or not path.is_file():
        there = ", ".join(sorted(found.stem for found in folder.glob("*.json"))) or "(none)"
        raise Unsupported(f"there is no NATS context {name!r} in {folder}: use one of {there}")
    try:
        read = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as exc:
        raise Unsupported(f"NATS context {name!r} can't be read: {exc}") from exc
    refused = [key for key in ("nsc", "user_jwt", "socks_proxy") if read.get(key)]
    if refused:
        raise Unsupported(f"NATS context {name!r} uses {', '.join(refused)}: use creds or nkey")
    made = {key: read[key] for key in (*_same_in_context, "user", "password") if read.get(key)}
    made |= {
        key: str(Path(made[key]).expanduser())
        for key in ("ca", "cert", "key", "creds", "nkey")
        if key in made
    }
    if read.get("url"):
        made["servers"] = [url.strip() for url in read["url"].split(",")]
    if read.get("tls_first"):
        made["tls_first"] = True
    if read.get("jetstream_api_prefix"):
        made["api_prefix"] = read["jetstream_api_prefix"]
    elif read.get("jetstream_domain"):
        made["api_prefix"] = f"$JS.{read['jetstream_domain']}.API"
    return made
